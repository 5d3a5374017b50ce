"""NumPy arrays, subclasses and scalars."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """Return a plain array over the same memory."""
    return np.asarray(array)


def from_numpy(array: np.ndarray[Any, Any], like: Any) -> np.ndarray[Any, Any]:
    """Return `array` itself."""
    return array
