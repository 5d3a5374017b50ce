"""Any array that offers `__dlpack__`, through the DLPack protocol (https://dmlc.github.io/dlpack/latest/)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """Return an array over the same memory."""
    return np.from_dlpack(array)


def from_numpy(array: np.ndarray[Any, Any], like: Any) -> Any:
    """Return an array of the package of `like`, by its `from_dlpack`; `array` itself where it offers none."""
    if hasattr(like, "__array_namespace__"):
        return like.__array_namespace__().from_dlpack(array)
    package = sys.modules.get(type(like).__module__.partition(".")[0])
    reader = getattr(package, "from_dlpack", None)
    return array if reader is None else reader(array)
