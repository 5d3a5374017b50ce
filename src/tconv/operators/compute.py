"""What the NumPy implementations of operators share: the type to compute in, exact sums, broadcasting undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tconv.dtypes import DType
from tconv.errors import ShapeError
from tconv.operators.registry import Array, Call

Function = Callable[..., Any]

_NATIVE = ("float32", "float64")

# Infinities and NaNs come out as C computes them, without a warning. Use as a decorator.
quiet = np.errstate(all="ignore")


def no_gradient(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    """Be the gradient of what does not pass any on: zeros."""
    return [np.zeros_like(array) if wanted else None for array, wanted in zip(inputs, call.wanted)]


def normal_axis(operator: str, axis: int, rank: int) -> int:
    """Return `axis` counted from the front.

    Raises
    ------
    ShapeError
        If there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ShapeError(f"{operator}: axis: got {axis}; an array of {rank} dimensions has none of that number")
    return axis % rank


def working_type(dtype: DType) -> DType:
    """Return the floating-point type that functions of `dtype` are computed in."""
    if dtype.name in _NATIVE:
        return dtype
    return np.dtype(np.float64 if dtype.name in ("int32", "int64") else np.float32)


def widened(array: Array) -> Array:
    """Return `array` in its working type, itself where that is its own."""
    return array.astype(working_type(array.dtype), copy=False)


def arithmetic(array: Array) -> Array:
    """Return `array` in the type its sums and products are computed in: half types widen, the rest stay."""
    if array.dtype.kind in "iub" or array.dtype.name in _NATIVE:
        return array
    return array.astype(np.float32)


def total(array: Array, axes: tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Return the sum over `axes` in the type of `array`, accumulated in float64, or in int64 for integers."""
    wide = np.float64 if array.dtype.kind not in "iub" else np.int64
    summed: Array = np.asarray(np.sum(array, axis=axes, dtype=wide, keepdims=keepdims))
    return summed.astype(array.dtype, copy=False)


def unbroadcast(grad: Array, shape: Sequence[int]) -> Array:
    """Sum `grad` over the axes along which an array of `shape` was broadcast."""
    if grad.shape == tuple(shape):
        return grad
    extra = grad.ndim - len(shape)
    axes = (
        *range(extra),
        *(extra + axis for axis, size in enumerate(shape) if size == 1 and grad.shape[extra + axis] != 1),
    )
    return total(grad, axes, keepdims=True).reshape(shape)
