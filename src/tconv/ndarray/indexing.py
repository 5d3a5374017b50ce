"""What may stand between the brackets of an array: MXNet's rules, brought to NumPy's indices."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as whole
from typing import Any

import numpy as np

from tconv.errors import ArrayIndexError, ParameterError
from tconv.geometry import Shape
from tconv.operators.registry import Array

Key = tuple[int | slice | Array | None, ...]


def expand(key: Any, shape: Shape) -> tuple[Key, bool]:
    """Return one index for each axis, and for each new one, and whether all of them are basic.

    Parameters
    ----------
    key : object
        Ints, slices, None, an Ellipsis, arrays, lists, ranges, or a tuple of those.
    shape : tuple of int
        Of the array to index.

    Raises
    ------
    ArrayIndexError
        If an int is out of bounds, or there are more indices than axes.
    ParameterError
        If something cannot be an index.
    """
    given = list(key) if isinstance(key, tuple) else [key]
    converted = [_entry(one) for one in given]
    used = sum(one is not None and one is not Ellipsis for one in converted)
    if used > len(shape):
        raise ArrayIndexError(f"NDArray: index: got {used} indices; the array has {len(shape)} dimensions")
    dots = [at for at, one in enumerate(converted) if one is Ellipsis]
    if len(dots) > 1:
        raise ArrayIndexError("NDArray: index: got more than one Ellipsis; need one at most")
    at = dots[0] if dots else len(converted)
    full = [*converted[:at], *[slice(None)] * (len(shape) - used), *converted[at + 1 :]]
    axis = 0
    for one in full:
        if one is None:
            continue
        if isinstance(one, int) and not -shape[axis] <= one < shape[axis]:
            raise ArrayIndexError(f"NDArray: index: got {one} for axis {axis}; its size is {shape[axis]}")
        axis += 1
    return tuple(full), not any(isinstance(one, np.ndarray) for one in full)


def _entry(one: Any) -> Any:
    if one is None or one is Ellipsis:
        return one
    if isinstance(one, slice):
        return _slice(one)
    if isinstance(one, (int, np.integer)):
        return int(one)
    if isinstance(one, (list, tuple, range, np.ndarray)) or hasattr(one, "asnumpy"):
        return _places(one)
    raise ParameterError(
        f"NDArray: index: got {type(one).__name__}; need ints, slices, None, an Ellipsis or arrays of ints"
    )


def _slice(one: slice) -> slice:
    try:
        start, stop, step = (None if part is None else whole(part) for part in (one.start, one.stop, one.step))
    except TypeError:
        raise ParameterError(f"NDArray: index: got {one}; a slice is made of ints") from None
    if step == 0:
        raise ParameterError(f"NDArray: index: got {one}; the step of a slice cannot be 0")
    return slice(start, stop, step)


def _places(one: Any) -> int | Array:
    try:
        array = np.asarray(one)
    except ValueError:
        raise ParameterError("NDArray: index: got a ragged list; need ints, or lists of one length") from None
    if array.dtype == bool:
        # MXNet takes True and False for the places 1 and 0, or refuses; neither is what a mask means.
        raise ParameterError("NDArray: index: got booleans; a mask cannot be an index, use mx.nd.where")
    if array.size == 0:
        return array.astype(np.intp)
    if array.dtype.kind not in "iuf":
        raise ParameterError(f"NDArray: index: got an array of {array.dtype}; need ints")
    if array.ndim == 0:
        return int(array)
    return array.astype(np.intp)


def covers(key: Key, shape: Shape) -> bool:
    """Tell whether a key stands for every element, in order."""
    axis = 0
    for one in key:
        if one is None:
            continue
        if not isinstance(one, slice) or range(*one.indices(shape[axis])) != range(shape[axis]):
            return False
        axis += 1
    return True


def slice_texts(key: Sequence[int | slice]) -> dict[str, str]:
    """Return the parameters of the operator `slice` that takes the places of a key without new axes."""
    parts = [slice(one, one + 1 or None) if isinstance(one, int) else one for one in key]
    return {
        "begin": str(tuple(part.start for part in parts)),
        "end": str(tuple(part.stop for part in parts)),
        "step": str(tuple(part.step for part in parts)),
    }
