"""The geometry of a transposed convolution, solved once for any number of axes.

A transposed convolution relates a *small* side, `channels` maps of `size`, and a *large* side, `filters`
maps of `out`, by

    large[f, y] = sum of small[c, i] * weight[c, f, k]   over   y = i * stride + k * dilation - pad_lo

and convolution is the same relation read from the large side to the small one. So one `Geometry` serves both
operators and all their gradients.

Shapes may be partly known while a symbol is inferred: an unknown size is None, a shape of unknown rank is None.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NamedTuple, TypeVar

from tconv.errors import OutOfMemoryError, ShapeError

T = TypeVar("T")
Shape = tuple[int, ...]
PartialShape = tuple[int | None, ...] | None

_WIDEST_ELEMENT = 8


class Axis(NamedTuple):
    """One spatial axis, solved: `out = (size-1)*stride + (kernel-1)*dilation + 1 - pad_lo - pad_hi + adj`.

    With a `grid` of 1 or 2 the bits of an output depend neither on its place along the axis nor on the size of the
    axis, where a backend's steady algorithms compute it: those that work on pairs of positions begin one with the
    first position that has an output, or with the one before.
    """

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    pad_lo: int
    pad_hi: int
    adj: int
    grid: int = 0

    def part(self, first: int, stop: int) -> tuple[slice, Axis]:
        """Take out the large positions from `first` to before `stop`.

        Returns
        -------
        slice, Axis
            The small positions that reach them, and the axis that leads from those to nothing else. It has size 0
            where no small position does.
        """
        low, high = first + self.pad_lo, stop - 1 + self.pad_lo
        begin = max(0, -((self.span - 1 - low) // self.stride))
        end = max(begin, min(self.size, high // self.stride + 1))
        pad_lo = low - begin * self.stride
        pad_hi = (end - begin - 1) * self.stride + self.span - pad_lo - (stop - first)
        return slice(begin, end), self._replace(
            size=end - begin, out=stop - first, pad_lo=pad_lo, pad_hi=pad_hi, adj=0
        )

    @property
    def span(self) -> int:
        """Large positions from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1


PAD_MODES = ("zero", "circular", "reflect", "replicate")
"""What a convolution reads beyond the ends of the large side: zeros, or the signal itself, as `numpy.pad` has it
in its modes wrap, reflect and edge."""

LONGEST_BORDER = 2**20
"""Positions that a convolution may read beyond an end of a signal that it continues: each is found by itself."""


@dataclass(frozen=True)
class Geometry:
    """A whole problem, solved: every integer a backend needs, and nothing it has to derive again.

    Attributes
    ----------
    batch, channels, filters, groups : int
        Samples; maps of the small side; maps of the large side; groups that divide both.
    axes : tuple of Axis
        One to three spatial axes, outermost first.
    channels_last : bool
        Arrays are (N, spatial..., maps) and weights (channels, kernel..., filters/groups), instead of
        (N, maps, spatial...) and (channels, filters/groups, kernel...).
    pad_mode : str
        One of `PAD_MODES`. With any but zero, large positions that `pad_lo` and `pad_hi` cut off are those that a
        convolution reads there instead: their values are added to what they repeat.
    """

    batch: int
    channels: int
    filters: int
    groups: int
    axes: tuple[Axis, ...]
    channels_last: bool = False
    pad_mode: str = "zero"

    @cached_property
    def small_shape(self) -> Shape:
        """Shape of the small side: a deconvolution's data, a convolution's output."""
        return arrange(self.batch, self.channels, [a.size for a in self.axes], self.channels_last)

    @cached_property
    def large_shape(self) -> Shape:
        """Shape of the large side: a deconvolution's output, a convolution's data."""
        return arrange(self.batch, self.filters, [a.out for a in self.axes], self.channels_last)

    @cached_property
    def weight_shape(self) -> Shape:
        """Shape of the weight."""
        kernel = [a.kernel for a in self.axes]
        return arrange(self.channels, self.filters // self.groups, kernel, self.channels_last)

    def __getstate__(self) -> dict[str, Any]:
        # What is derived, and what backends keep here, stays behind.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def flops(self) -> int:
        """Floating-point operations of the direct method, two for each multiply-add, borders not deducted."""
        taps = prod(a.kernel for a in self.axes)
        return 2 * prod(self.small_shape) * (self.filters // self.groups) * taps


def arrange(first: T, maps: T, spatial: Iterable[T], channels_last: bool) -> tuple[T, ...]:
    """Put a batch size, a number of maps and spatial sizes in the order of a layout."""
    return (first, *spatial, maps) if channels_last else (first, maps, *spatial)


def split(shape: tuple[T, ...], channels_last: bool) -> tuple[T, T, tuple[T, ...]]:
    """Take a shape of a layout apart into batch size, number of maps and spatial sizes."""
    return (shape[0], shape[-1], shape[1:-1]) if channels_last else (shape[0], shape[1], shape[2:])


@dataclass(frozen=True)
class Window:
    """What an operator slides over its data: the part of a geometry that no array decides.

    Attributes
    ----------
    kernel, stride, dilation : tuple of int
        One entry an axis, each at least 1.
    pad : tuple of (int, int)
        Positions cut off the large side at the low and the high end of an axis; below zero extends.
    adj : tuple of int
        Positions added to the high end of the large side.
    target : tuple of int or None
        Wanted sizes of the large side; pad and adj are then derived from them.
    filters, groups : int
        Output maps, and groups.
    channels_last, pad_mode
        As in `Geometry`.
    any_adj : bool
        Whether adj may reach its stride and beyond, and with it any target be met.
    """

    kernel: Shape
    stride: Shape
    dilation: Shape
    pad: tuple[tuple[int, int], ...]
    adj: Shape
    filters: int
    groups: int = 1
    target: Shape | None = None
    channels_last: bool = False
    pad_mode: str = "zero"
    any_adj: bool = False

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    def check(self, operator: str) -> None:
        """Raise ShapeError where an entry is out of its range, whatever the data."""
        if "_fit" in self.__dict__:
            return
        for word, sizes in (("kernel", self.kernel), ("stride", self.stride), ("dilate", self.dilation)):
            if any(size < 1 for size in sizes):
                raise ShapeError(f"{operator}: {word}: got {sizes}; each entry must be at least 1")
        if any(adj < 0 for adj in self.adj):
            raise ShapeError(f"{operator}: adj: got {self.adj}; no entry may be negative")
        if self.filters < 1:
            raise ShapeError(f"{operator}: num_filter: got {self.filters}; need at least 1")
        if self.groups < 1:
            raise ShapeError(f"{operator}: num_group: got {self.groups}; need at least 1")
        if self.filters % self.groups:
            raise ShapeError(
                f"{operator}: num_filter: got {self.filters}; it must divide by num_group {self.groups}"
            )
        if self.target is None:
            if not self.any_adj and any(adj >= stride for adj, stride in zip(self.adj, self.stride)):
                raise ShapeError(
                    f"{operator}: adj: got {self.adj} with stride {self.stride}; each adj must be below its stride"
                )
        elif len(self.target) != self.rank or any(size < 0 for size in self.target):
            raise ShapeError(
                f"{operator}: target_shape: got {self.target}; need {self.rank} sizes, none of them negative"
            )
        self.__dict__["_fit"] = True

    def large_axis(self, operator: str, axis: int, size: int) -> Axis:
        """Solve one axis from its size on the small side."""
        if size < 1:
            raise ShapeError(f"{operator}: data: got size {size} on spatial axis {axis}; need at least 1")
        kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
        full = (size - 1) * stride + (kernel - 1) * dilation + 1
        (pad_lo, pad_hi), adj = self.pad[axis], self.adj[axis]
        if self.target is not None:
            if full >= 2**63:
                raise ShapeError(
                    f"{operator}: target_shape: got {self.target}; "
                    f"the full size {full} of axis {axis} passes 64 bits"
                )
            total = full - self.target[axis]
            if total < 0 and not self.any_adj:
                raise ShapeError(
                    f"{operator}: target_shape: got {self.target} (too big target shape); "
                    f"axis {axis} reaches {full} at most"
                )
            pad_lo = pad_hi = max(0, (total + 1) // 2)
            adj = 2 * pad_lo - total
            if adj >= stride and not self.any_adj:
                raise ShapeError(
                    f"{operator}: target_shape: got {self.target}; at stride 1, axis {axis} of full size {full} "
                    f"reaches only sizes of the same parity"
                )
        out = full - pad_lo - pad_hi + adj
        if out < 0:
            raise ShapeError(f"{operator}: pad: got {self.pad}; the output on axis {axis} would have size {out}")
        if out == 0 and self.pad_mode != "zero" and max(pad_lo, pad_hi) > 0:
            raise ShapeError(
                f"{operator}: pad: got {self.pad}; pad_mode {self.pad_mode} needs an output on axis {axis}"
            )
        return Axis(size, out, kernel, stride, dilation, pad_lo, pad_hi, adj)

    def small_axis(self, operator: str, axis: int, out: int) -> Axis:
        """Solve one axis from its size on the large side."""
        kernel, stride, dilation = self.kernel[axis], self.stride[axis], self.dilation[axis]
        pad_lo, pad_hi = self.pad[axis]
        reach = out + pad_lo + pad_hi - (kernel - 1) * dilation - 1
        if out < 1 or reach < 0:
            raise ShapeError(
                f"{operator}: data: got size {out} on spatial axis {axis}; with pad {(pad_lo, pad_hi)} the kernel "
                f"{kernel} dilated by {dilation} exceeds it"
            )
        size, adj = reach // stride + 1, reach % stride
        return Axis(size, out, kernel, stride, dilation, pad_lo, pad_hi, adj)


def check_elements(operator: str, what: str, shape: Shape) -> None:
    """Raise OutOfMemoryError if an array of `shape` would pass the 64-bit range."""
    if prod(shape) * _WIDEST_ELEMENT >= 2**63:
        raise OutOfMemoryError(f"{operator}: {what}: shape {shape} has more elements than memory can address")


def _data_parts(
    operator: str, window: Window, data: tuple[int | None, ...]
) -> tuple[int | None, int | None, tuple[int | None, ...]]:
    if len(data) != window.rank + 2:
        raise ShapeError(
            f"{operator}: data: got shape {data}; kernel {window.kernel} needs {window.rank + 2} dimensions"
        )
    window.check(operator)
    batch, channels, spatial = split(data, window.channels_last)
    if channels is not None and (channels < 1 or channels % window.groups):
        raise ShapeError(f"{operator}: data: got {channels} channels; need a multiple of num_group {window.groups}")
    return batch, channels, spatial


def infer_deconvolution(operator: str, window: Window, data: PartialShape) -> tuple[PartialShape, PartialShape]:
    """Infer the shapes of weight and output from the shape of the data, as far as it is known.

    Raises
    ------
    ShapeError
        If no data of this shape can pass through `window`.
    """
    if data is None:
        return None, None
    batch, channels, spatial = _data_parts(operator, window, data)
    if window.target is not None and None in spatial:
        raise ShapeError(f"{operator}: data: got shape {data}; target_shape needs every spatial size")
    out = [
        None if size is None else window.large_axis(operator, axis, size).out for axis, size in enumerate(spatial)
    ]
    weight = arrange(channels, window.filters // window.groups, window.kernel, window.channels_last)
    return weight, arrange(batch, window.filters, out, window.channels_last)


def infer_convolution(operator: str, window: Window, data: PartialShape) -> tuple[PartialShape, PartialShape]:
    """Do for convolution what `infer_deconvolution` does for deconvolution."""
    if data is None:
        return None, None
    batch, channels, spatial = _data_parts(operator, window, data)
    out = [
        None if size is None else window.small_axis(operator, axis, size).size for axis, size in enumerate(spatial)
    ]
    per_group = None if channels is None else channels // window.groups
    weight = arrange(window.filters, per_group, window.kernel, window.channels_last)
    return weight, arrange(batch, window.filters, out, window.channels_last)


def _known(operator: str, window: Window, data: Shape) -> tuple[int, int, Shape]:
    batch, channels, spatial = _data_parts(operator, window, data)
    assert batch is not None
    assert channels is not None
    return batch, channels, tuple(size for size in spatial if size is not None)


@lru_cache(maxsize=4096)
def solve_deconvolution(operator: str, window: Window, data: Shape) -> Geometry:
    """Solve the geometry of a deconvolution of data of shape `data`.

    Raises
    ------
    ShapeError
        If no data of this shape can pass through `window`.
    OutOfMemoryError
        If an array would pass the 64-bit range.
    """
    batch, channels, spatial = _known(operator, window, data)
    axes = tuple(window.large_axis(operator, axis, size) for axis, size in enumerate(spatial))
    return _checked(operator, window, batch, channels, window.filters, axes)


@lru_cache(maxsize=4096)
def solve_convolution(operator: str, window: Window, data: Shape) -> Geometry:
    """Do for convolution what `solve_deconvolution` does; the data is the large side of the result."""
    batch, channels, spatial = _known(operator, window, data)
    axes = tuple(window.small_axis(operator, axis, size) for axis, size in enumerate(spatial))
    return _checked(operator, window, batch, window.filters, channels, axes)


def _checked(
    operator: str, window: Window, batch: int, channels: int, filters: int, axes: tuple[Axis, ...]
) -> Geometry:
    pad_mode = window.pad_mode
    if pad_mode != "zero" and not any(max(axis.pad_lo, axis.pad_hi) > 0 for axis in axes):
        pad_mode = "zero"
    if pad_mode != "zero" and any(max(axis.pad_lo, axis.pad_hi) > LONGEST_BORDER for axis in axes):
        raise ShapeError(
            f"{operator}: pad: got {window.pad}; pad_mode {pad_mode} continues an axis by {LONGEST_BORDER} "
            f"positions at most"
        )
    geometry = Geometry(batch, channels, filters, window.groups, axes, window.channels_last, pad_mode)
    check_elements(operator, "output", geometry.large_shape)
    check_elements(operator, "output", geometry.small_shape)
    check_elements(operator, "weight", geometry.weight_shape)
    return geometry
