"""Pooling: the maximum, mean or sum of windows over 1, 2 or 3 spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from tconv import engine, loops
from tconv.errors import ParameterError, ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.operators.compute import arithmetic, quiet
from tconv.operators.deconvolution import check_computable
from tconv.operators.registry import Array, Call, Operator, PartialShapes, register, show
from tconv.params import (
    BOOL,
    BOOL_OR_NONE,
    INT_OR_NONE,
    LAYOUT,
    SHAPE,
    ChoiceText,
    Params,
    check_layout,
    named,
    param,
)


class PoolingParams(Params):
    """Parameters of `Pooling`."""

    kernel: Shape = param(SHAPE, "Size of a window, one entry a spatial axis.", default=())
    pool_type: str = param(ChoiceText(("avg", "lp", "max", "sum")), "What is taken of a window.", default="max")
    global_pool: bool = param(BOOL, "Whether one window covers all.", default=False)
    cudnn_off: bool = param(BOOL, "Whether to keep off cuDNN; no effect on the CPU.", default=False)
    pooling_convention: str = param(
        ChoiceText(("full", "same", "valid")),
        "Windows over the high end: valid drops them, full keeps one, same keeps all that begin.",
        default="valid",
    )
    stride: Shape = param(SHAPE, "Distance of windows; 1 by default.", default=())
    pad: Shape = param(SHAPE, "Margin on both sides; 0 by default.", default=())
    p_value: int | None = param(
        INT_OR_NONE, "Power of lp, the p-th root of the sum of p-th powers: 1, 2 or 3.", default=None
    )
    count_include_pad: bool | None = param(
        BOOL_OR_NONE, "Whether a mean counts the margin; true by default.", default=None
    )
    layout: str | None = param(LAYOUT, "Order of the axes; channel first by default.", default=None)

    def _check(self) -> None:
        kernel = self.kernel
        if kernel is None or (not self.global_pool and len(kernel) not in (1, 2, 3)) or 0 in kernel:
            raise ParameterError(f"{self.operator}: kernel: got {kernel}; need 1, 2 or 3 entries, none of them 0")
        for name, sizes in (("stride", self.stride), ("pad", self.pad)):
            if sizes is None or (not self.global_pool and len(sizes) not in (0, len(kernel))):
                raise ParameterError(f"{self.operator}: {name}: got {sizes}; need {len(kernel)} entries")
        if any(size < 1 for size in (*kernel, *self.stride)) or any(size < 0 for size in self.pad):
            raise ParameterError(
                f"{self.operator}: kernel: got {kernel}, stride {self.stride}, pad {self.pad}; need positive sizes"
            )
        if self.pool_type == "lp" and self.p_value not in (1, 2, 3):
            raise ParameterError(f"{self.operator}: p_value: got {self.p_value}; lp needs 1, 2 or 3")


@dataclass(frozen=True)
class Windows:
    """The windows along one axis."""

    axis: int
    size: int
    kernel: int
    stride: int
    pad: int
    out: int

    @property
    def counts(self) -> Array:
        """Number of places of each window that lie in the array."""
        starts = np.arange(self.out) * self.stride - self.pad
        counts: Array = np.maximum(np.minimum(starts + self.kernel, self.size) - np.maximum(starts, 0), 0)
        return counts

    @property
    def padded_counts(self) -> Array:
        """Number of places of each window that lie in the array or its margins."""
        starts = np.arange(self.out) * self.stride - self.pad
        counts: Array = np.minimum(starts + self.kernel, self.size + self.pad) - starts
        return counts


def windows_of(params: PoolingParams, data: tuple[int | None, ...]) -> list[Windows | None]:
    """Return the windows along each spatial axis, None where the size is not known.

    Raises
    ------
    ShapeError
        If the data has another rank or a window does not fit.
    """
    rank = len(data) - 2
    if rank not in (1, 2, 3) or (not params.global_pool and len(params.kernel) != rank):
        raise ShapeError(f"{params.operator}: data: got shape {show(data)}; kernel is {params.kernel}")
    first = 1 if check_layout(params.operator, params.layout, rank) else 2
    windows: list[Windows | None] = []
    for index in range(rank):
        axis, size = first + index, data[first + index]
        if size is None:
            windows.append(None)
            continue
        if params.global_pool:
            windows.append(Windows(axis, size, max(size, 1), 1, 0, 1))
            continue
        kernel = params.kernel[index]
        stride = params.stride[index] if params.stride else 1
        pad = params.pad[index] if params.pad else 0
        reach = size + 2 * pad - kernel
        if reach < 0 or size < 1:
            raise ShapeError(
                f"{params.operator}: kernel: got {kernel}; axis {axis} has {size + 2 * pad} with its margins"
            )
        if params.pooling_convention == "same":
            out = -(-(size + 2 * pad) // stride)
        else:
            out = (reach if params.pooling_convention == "valid" else reach + stride - 1) // stride + 1
        windows.append(Windows(axis, size, kernel, stride, pad, out))
    return windows


def _shape(
    params: PoolingParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    (data,) = inputs
    if data is None:
        return inputs, outputs
    windows = windows_of(params, data)
    first = 1 if check_layout(params.operator, params.layout, len(windows)) else 2
    sizes = [1 if params.global_pool else None if one is None else one.out for one in windows]
    found: PartialShape = (*data[:first], *sizes, *data[first + len(sizes) :])
    return inputs, [found]


def _solved(params: PoolingParams, data: Array) -> list[Windows]:
    return [one for one in windows_of(params, data.shape) if one is not None]


def _extended(x: Array, windows: Windows, value: float) -> Array:
    """Return `x` with so much margin along an axis that every window lies within."""
    low = windows.pad
    high = max((windows.out - 1) * windows.stride + windows.kernel - windows.size - low, 0)
    if not low and not high:
        return x
    margins = [(0, 0)] * x.ndim
    margins[windows.axis] = (low, high)
    return np.pad(x, margins, constant_values=value)


def _places(windows: Windows, offset: int, rank: int) -> tuple[slice, ...]:
    """Return where the element `offset` of every window is along the axis of `windows`."""
    step = slice(offset, offset + (windows.out - 1) * windows.stride + 1, windows.stride)
    return tuple(step if axis == windows.axis else slice(None) for axis in range(rank))


def _reduced(x: Array, all_windows: list[Windows], function: np.ufunc, value: float) -> Array:
    for windows in all_windows:
        if windows.out == 1 and windows.kernel == windows.size and not windows.pad:
            x = function.reduce(x, axis=windows.axis, keepdims=True)
            continue
        wide = _extended(x, windows, value)
        x = wide[_places(windows, 0, x.ndim)].copy()
        for offset in range(1, windows.kernel):
            function(x, wide[_places(windows, offset, x.ndim)], out=x)
    return x


def _counts(params: PoolingParams, windows: Windows) -> Array:
    counts = windows.counts if params.count_include_pad is False else windows.padded_counts
    least: Array = np.maximum(counts, 1)
    return least


def _divisor(params: PoolingParams, all_windows: list[Windows], rank: int, dtype: type) -> Array:
    divisor: Array = np.ones((1,) * rank, dtype)
    for windows in all_windows:
        shape = [-1 if axis == windows.axis else 1 for axis in range(rank)]
        divisor = divisor * _counts(params, windows).reshape(shape)
    return divisor


def _by_loop(params: PoolingParams, data: Array, all_windows: list[Windows], out: Array | None) -> Array | None:
    """Return what the compiled loop makes of maps of two axes, or None where it refuses."""
    if len(all_windows) != 2 or all_windows[0].axis != 2 or params.pool_type == "lp":
        return None
    shape = (*data.shape[:2], *(windows.out for windows in all_windows))
    if out is None or not out.flags.c_contiguous or np.may_share_memory(out, data):
        out = engine.allocate(shape, data.dtype)
    axes = [[one.size, one.out, one.kernel, one.stride, one.pad] for one in all_windows]
    factors = None
    if params.pool_type != "max":
        rows, columns = (
            np.ones(one.out) if params.pool_type == "sum" else 1 / _counts(params, one) for one in all_windows
        )
        factors = (rows.astype(np.float32), columns.astype(np.float32))
    return out if loops.pool(data, out, axes, factors) else None


@quiet
def _pooling(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: PoolingParams = call.params
    (data,) = inputs
    check_computable(params.operator, data)
    all_windows = _solved(params, data)
    done = _by_loop(params, data, all_windows, call.out)
    if done is not None:
        return [done]
    x = arithmetic(data)
    if params.pool_type == "max":
        out = _reduced(x, all_windows, np.maximum, np.finfo(x.dtype).min)
    elif params.pool_type == "lp":
        power = params.p_value or 1
        summed = _reduced(x**power, all_windows, np.add, 0)
        out = np.sqrt(summed) if power == 2 else np.cbrt(summed) if power == 3 else summed
    else:
        out = _reduced(x, all_windows, np.add, 0)
        if params.pool_type == "avg":
            out = out / _divisor(params, all_windows, x.ndim, x.dtype.type)
    return [out.astype(data.dtype, copy=False)]


def _spread(grad: Array, all_windows: list[Windows]) -> Array:
    """Undo `_reduced` of sums: give every element of every window that window's gradient."""
    for windows in reversed(all_windows):
        reach = max((windows.out - 1) * windows.stride + windows.kernel, windows.pad + windows.size)
        shape = [reach if axis == windows.axis else size for axis, size in enumerate(grad.shape)]
        wide = np.zeros(shape, grad.dtype)
        for offset in range(windows.kernel):
            wide[_places(windows, offset, grad.ndim)] += grad
        grad = wide.take(range(windows.pad, windows.pad + windows.size), axis=windows.axis)
    return grad


def _to_maximum(x: Array, out: Array, grad: Array, all_windows: list[Windows]) -> Array:
    """Give the first element of every window that is its maximum the window's gradient."""
    wide = x
    for windows in all_windows:
        wide = _extended(wide, windows, np.finfo(x.dtype).min)
    result = np.zeros(wide.shape, grad.dtype)
    free = np.ones(out.shape, bool)
    for offsets in product(*(range(windows.kernel) for windows in all_windows)):
        merged = [slice(None)] * x.ndim
        for windows, offset in zip(all_windows, offsets):
            merged[windows.axis] = _places(windows, offset, x.ndim)[windows.axis]
        places = tuple(merged)
        here = free & (wide[places] == out)
        result[places] += grad * here
        free &= ~here
    inner = [slice(None)] * x.ndim
    for windows in all_windows:
        inner[windows.axis] = slice(windows.pad, windows.pad + windows.size)
    return result[tuple(inner)]


@quiet
def _pooling_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: PoolingParams = call.params
    (data,) = inputs
    all_windows = _solved(params, data)
    x, grad = arithmetic(data), arithmetic(out_grads[0])
    if params.pool_type == "max":
        result = _to_maximum(x, arithmetic(outputs[0]), grad, all_windows)
    elif params.pool_type == "lp":
        power = params.p_value or 1
        norm = arithmetic(outputs[0])
        shares = np.where((norm == 0) & (power > 1), 0, grad * norm ** float(1 - power))
        result = _spread(shares, all_windows) * x ** (power - 1)
    else:
        if params.pool_type == "avg":
            grad = grad / _divisor(params, all_windows, x.ndim, x.dtype.type)
        result = _spread(grad, all_windows)
    return [result.astype(data.dtype, copy=False)]


register(
    Operator(
        name="Pooling",
        params=named(PoolingParams, "Pooling"),
        inputs=("data",),
        shape=_shape,
        forward=_pooling,
        backward=_pooling_backward,
        doc="""The maximum, mean, sum or norm of windows over the spatial axes.

Along each axis there are `(size + 2 * pad - kernel) // stride + 1` windows, rounded up where
`pooling_convention` is full.""",
    )
)
