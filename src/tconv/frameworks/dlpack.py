"""Any array that offers `__dlpack__`, through the DLPack protocol (https://dmlc.github.io/dlpack/latest/)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tconv.errors import FrameworkError


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """Return an array over the same memory."""
    return np.from_dlpack(array)


def from_numpy(array: np.ndarray[Any, Any], like: Any) -> Any:
    """Return an array of the package of `like`, by its `from_dlpack`."""
    if hasattr(like, "__array_namespace__"):
        return like.__array_namespace__().from_dlpack(array)
    package = type(like).__module__.partition(".")[0]
    reader = getattr(sys.modules[package], "from_dlpack", None)
    if reader is None:
        raise FrameworkError(f"deconvolution: x: got {type(like).__qualname__}; {package} offers no from_dlpack")
    return reader(array)
