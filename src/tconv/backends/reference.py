"""The slow reference: float64 loops written from the definition, sharing no code with the fast paths.

Each function works in float64 whatever the arrays hold and rounds once, at the end. `workspace`, `threads` and
`tune` are part of every backend's signature and mean nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from tconv.activations import NONE, Activation
from tconv.dtypes import DType
from tconv.geometry import Axis, Geometry, Shape

Array = np.ndarray[Any, Any]

name = "reference"


def refusal(geometry: Geometry, dtype: DType) -> str | None:
    """Refuse nothing."""
    return None


Index = tuple[Any, ...]


def empty(shape: Shape, dtype: DType) -> Array:
    """Return an array of undefined content."""
    return np.empty(shape, dtype)


def use_team(address: int) -> None:
    """Do nothing: the reference has no threads."""


def fingerprint(array: Array, *, threads: int | None = None) -> int:
    """Return a number that tells whether the bytes of a contiguous array have changed."""
    return hash(array.tobytes())


def KeptWeights(plain: Array) -> Array:  # noqa: N802 - a class in backends that pack
    """Return the weights as they are."""
    return plain


def _pairs(geometry: Geometry) -> Iterator[tuple[Index, Index, Index]]:
    """Yield the index of small position, large position and tap for all that the kernel joins."""
    axes = geometry.axes
    for small in product(*(range(axis.size) for axis in axes)):
        for tap in product(*(range(axis.kernel) for axis in axes)):
            reached = (i * axis.stride + k * axis.dilation - axis.pad_lo for i, k, axis in zip(small, tap, axes))
            large = tuple(_read_at(geometry.pad_mode, y, axis) for y, axis in zip(reached, axes))
            if None not in large:
                yield (..., *small), (..., *large), (..., *tap)


def _read_at(pad_mode: str, y: int, axis: Axis) -> int | None:
    """Return the large position that a convolution reads at `y`, which the pads may have put beyond an end."""
    if 0 <= y < axis.out:
        return y
    if pad_mode == "zero":
        return None
    if pad_mode == "circular":
        return y % axis.out
    while pad_mode == "reflect" and axis.out > 1 and not 0 <= y < axis.out:
        y = -y if y < 0 else 2 * (axis.out - 1) - y
    return min(max(y, 0), axis.out - 1)


def _maps_second(geometry: Geometry, array: Array) -> Array:
    """View or convert to float64 in channel-first order, maps on axis 1."""
    wide = array.astype(np.float64)
    return np.moveaxis(wide, -1, 1) if geometry.channels_last else wide


def _store(geometry: Geometry, value: Array, out: Array) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        out[...] = (np.moveaxis(value, 1, -1) if geometry.channels_last else value).astype(out.dtype)


def _groups(geometry: Geometry) -> Iterator[tuple[slice, slice]]:
    """Yield the channels and the filters of each group."""
    channels, filters = geometry.channels // geometry.groups, geometry.filters // geometry.groups
    for group in range(geometry.groups):
        yield (
            slice(group * channels, (group + 1) * channels),
            slice(group * filters, (group + 1) * filters),
        )


def forward(
    geometry: Geometry,
    data: Array,
    weight: Array,
    bias: Array | None,
    out: Array,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
    activation: Activation = NONE,
) -> None:
    """Write the large side: `large[f, y] = bias[f] + sum of small[c, i] * weight[c, f, k]`."""
    x, w = _maps_second(geometry, data), _maps_second(geometry, weight)
    y = np.zeros((geometry.batch, geometry.filters, *(axis.out for axis in geometry.axes)))
    if bias is not None:
        y += bias.astype(np.float64).reshape(-1, *(1,) * len(geometry.axes))
    with np.errstate(invalid="ignore", over="ignore"):
        for small, large, tap in _pairs(geometry):
            for channels, filters in _groups(geometry):
                pixel, taps = x[:, channels][small], w[channels][tap]
                y[:, filters][large] += (pixel[:, :, None] * taps[None]).sum(axis=1)
    activation.apply(y)
    _store(geometry, y, out)


def data_gradient(
    geometry: Geometry,
    out_grad: Array,
    weight: Array,
    bias: Array | None,
    out: Array,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
    activation: Activation = NONE,
) -> None:
    """Write the small side: `small[c, i] = bias[c] + sum of large[f, y] * weight[c, f, k]`."""
    y, w = _maps_second(geometry, out_grad), _maps_second(geometry, weight)
    x = np.zeros((geometry.batch, geometry.channels, *(axis.size for axis in geometry.axes)))
    if bias is not None:
        x += bias.astype(np.float64).reshape(-1, *(1,) * len(geometry.axes))
    with np.errstate(invalid="ignore", over="ignore"):
        for small, large, tap in _pairs(geometry):
            for channels, filters in _groups(geometry):
                pixel, taps = y[:, filters][large], w[channels][tap]
                x[:, channels][small] += (pixel[:, None, :] * taps[None]).sum(axis=2)
    activation.apply(x)
    _store(geometry, x, out)


def weight_gradient(
    geometry: Geometry,
    data: Array,
    out_grad: Array,
    out: Array,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
) -> None:
    """Write the weight's gradient: `weight[c, f, k] = sum of small[c, i] * large[f, y]`."""
    x, y = _maps_second(geometry, data), _maps_second(geometry, out_grad)
    w = np.zeros((geometry.channels, geometry.filters // geometry.groups, *(axis.kernel for axis in geometry.axes)))
    with np.errstate(invalid="ignore", over="ignore"):
        for small, large, tap in _pairs(geometry):
            for channels, filters in _groups(geometry):
                pixel, grad = x[:, channels][small], y[:, filters][large]
                w[channels][tap] += (pixel[:, :, None] * grad[:, None, :]).sum(axis=0)
    _store(geometry, w, out)


def bias_gradient(grad: Array, channel_axis: int, out: Array, *, threads: int | None = None) -> None:
    """Write the sum of `grad` over all axes but `channel_axis`."""
    axes = tuple(axis for axis in range(grad.ndim) if axis != channel_axis)
    with np.errstate(invalid="ignore", over="ignore"):
        out[...] = grad.astype(np.float64).sum(axis=axes).astype(out.dtype)


def explain(
    geometry: Geometry,
    pass_name: str,
    dtype: DType,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
    packed: bool = False,
    measure: bool = False,
) -> dict[str, Any]:
    """Return the little there is to tell."""
    return {"algorithm": "loops", "kernel": "NumPy in float64", "flops": geometry.flops, "refusals": {}}


def steady(geometry: Geometry, dtype: DType, *, workspace: int) -> tuple[tuple[str, ...], int]:
    """Name nothing: there is one algorithm, and it sums in the order of the small positions."""
    return (), 1
