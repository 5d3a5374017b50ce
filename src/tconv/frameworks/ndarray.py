"""tconv's own `NDArray`, every element type included, of which DLPack knows no bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """Return an array over the same memory."""
    if not hasattr(array, "__array__"):
        raise TypeError("it holds no elements")
    return np.asarray(array)


def from_numpy(array: np.ndarray[Any, Any], like: Any) -> Any:
    """Return an `NDArray` over the memory of `array`, where `like` is."""
    return type(like)(array, like.context)
