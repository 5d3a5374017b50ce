"""Batches cut over devices, and gradients clipped by their common norm (`mx.gluon.utils`)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tconv import ndarray
from tconv.context import Context
from tconv.gluon import errors
from tconv.gluon.hooks import HookHandle
from tconv.gluon.parameter import shape_is_known
from tconv.ndarray import NDArray

__all__ = ["HookHandle", "clip_global_norm", "shape_is_known", "split_and_load", "split_data"]


def split_data(data: NDArray, num_slice: int, batch_axis: int = 0, even_split: bool = True) -> list[NDArray]:
    """Cut an array into parts.

    Parameters
    ----------
    data : NDArray
        The array.
    num_slice : int
        Number of parts.
    batch_axis : int
        The axis to cut.
    even_split : bool
        Whether the parts have to be equal; if not, the first ones may be larger by one.

    Raises
    ------
    ShapeError
        If they have to be equal and cannot.
    """
    size = data.shape[batch_axis]
    if even_split and size % num_slice:
        raise errors.ValueError(
            f"split_data: data: got {size} along axis {batch_axis}; need a multiple of {num_slice}, "
            "or even_split=False"
        )
    ends = np.cumsum([size // num_slice + (part < size % num_slice) for part in range(num_slice)]).tolist()
    return [ndarray.slice_axis(data, axis=batch_axis, begin=begin, end=end) for begin, end in zip([0, *ends], ends)]


def split_and_load(
    data: Any, ctx_list: Sequence[Context], batch_axis: int = 0, even_split: bool = True
) -> list[NDArray]:
    """Cut an array into one part a device, and put each part there; arguments as of `split_data`.

    Examples
    --------
    >>> import tconv as mx
    >>> [part.shape for part in mx.gluon.utils.split_and_load(mx.nd.ones((4, 2)), [mx.cpu(0), mx.cpu(1)])]
    [(2, 2), (2, 2)]
    """
    array = data if isinstance(data, NDArray) else ndarray.array(data, ctx=ctx_list[0])
    if len(ctx_list) == 1:
        return [array.as_in_context(ctx_list[0])]
    parts = split_data(array, len(ctx_list), batch_axis, even_split)
    return [part.as_in_context(ctx) for part, ctx in zip(parts, ctx_list)]


def clip_global_norm(arrays: Sequence[NDArray], max_norm: float, check_isfinite: bool = True) -> Any:
    """Scale arrays in place so that the norm of all together is at most `max_norm`.

    Parameters
    ----------
    arrays : sequence of NDArray
        The arrays.
    max_norm : float
        The limit.
    check_isfinite : bool
        Whether to warn if the norm is not finite, and return it as a float; else it is an array of one element.

    Raises
    ------
    ArgumentError
        If there are no arrays.
    """
    if not arrays:
        raise errors.AssertionError("clip_global_norm: arrays: got none; need at least one")
    norm = np.float32(np.sqrt(sum(float(np.square(array.asnumpy(), dtype=np.float64).sum()) for array in arrays)))
    if check_isfinite and not np.isfinite(norm):
        warnings.warn(
            "clip_global_norm: the norm is not finite; the arrays are of no use", UserWarning, stacklevel=2
        )
    scale = float(max_norm / (norm + 1e-8))
    if not scale >= 1:
        for array in arrays:
            array *= scale
    return float(norm) if check_isfinite else ndarray.array([norm], ctx=arrays[0].ctx)
