"""Loops between convolutions, which the compiled engine runs on all cores; who gets False computes otherwise."""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from tconv import engine

Array = np.ndarray[Any, Any]

_FLOAT = np.dtype(np.float32)


def compiled() -> bool:
    """Tell whether the compiled engine is in use; `pointwise` and `pool` then refuse odd arrays only."""
    name: str = engine.preferred().name
    return name == "native"


def _compiled(*arrays: Array | None) -> ModuleType | None:
    """Return the compiled backend if it is the one in use and can read these arrays."""
    backend = engine.preferred()
    if backend.name != "native":
        return None
    for array in arrays:
        if array is not None and not (
            array.dtype == _FLOAT and array.flags.c_contiguous and array.flags.aligned and array.size
        ):
            return None
    return backend


def _by_row(numbers: Array | None) -> tuple[Array | None, int]:
    return (None, 1) if numbers is None else (numbers, numbers.size)


def pointwise(
    x: Array,
    out: Array,
    *,
    z: Array | None = None,
    scale: Array | None = None,
    shift: Array | None = None,
    bend: str = "none",
    slope: Array | None = None,
) -> bool:
    """Write `bend(x * scale + shift + z)`.

    Parameters
    ----------
    x, z, out : ndarray
        Of one shape (N, C, ...); `out` may be `x` or `z`, else it shares no memory with them.
    scale, shift, slope : ndarray, optional
        One number, one for each channel, or one for each channel of each sample.
    bend : str
        `none`, `leaky` (times `slope` below 0), `sigmoid` or `tanh`.

    Returns
    -------
    bool
        Whether it was done; nothing is written otherwise.
    """
    numbers = (scale, shift, slope)
    backend = _compiled(x, out, z, *numbers)
    if backend is None or x.ndim < 2:
        return False
    rows = x.shape[0] * x.shape[1]
    if all(one is None or one.size == 1 for one in numbers):
        rows = 1
    backend.pointwise(x, z, *map(_by_row, numbers), bend, rows, x.size // rows, out)
    return True


def pool(x: Array, out: Array, axes: list[list[int]], factors: tuple[Array, Array] | None = None) -> bool:
    """Write the largest element of every window, or the sum of it times factors.

    Parameters
    ----------
    x, out : ndarray
        Of shape (N, C, height, width).
    axes : list of list of int
        For height and width: size, out, kernel, stride, pad.
    factors : tuple of ndarray, optional
        By row and by column of `out`, what sums are multiplied by.

    Returns
    -------
    bool
        Whether it was done; nothing is written otherwise.
    """
    backend = _compiled(x, out, *(factors or ()))
    if backend is None:
        return False
    backend.pool(x, prod(x.shape[:-2]), axes, factors, out)
    return True
