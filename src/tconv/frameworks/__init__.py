"""What a tensor is: each module turns one framework's arrays into NumPy arrays of the same memory, and back.

A framework is imported only after one of its arrays has arrived, which means the caller has imported it already.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from tconv.errors import FrameworkError

ADAPTERS = {"numpy": "numpy", "tconv": "ndarray", "torch": "torch"}
"""Top module of an array's class, and its adapter; all other classes with `__dlpack__` go by that."""


@lru_cache(maxsize=256)
def _adapter_of(cls: type) -> ModuleType | None:
    for base in cls.__mro__:
        if name := ADAPTERS.get(base.__module__.partition(".")[0]):
            return import_module(f"tconv.frameworks.{name}")
    return import_module("tconv.frameworks.dlpack") if hasattr(cls, "__dlpack__") else None


def to_numpy(where: str, array: Any) -> np.ndarray[Any, Any]:
    """Return a NumPy array that shares the memory of `array`.

    Parameters
    ----------
    where : str
        What the array is, for the error: `deconvolution: x`.
    array : array
        A NumPy array, a PyTorch tensor, or any CPU array with `__dlpack__`.

    Raises
    ------
    FrameworkError
        If `array` is none of these or does not live in the CPU's memory.
    """
    if type(array) is np.ndarray:
        return array
    adapter = _adapter_of(type(array))  # type: ignore[arg-type]
    if adapter is None:
        known = ", ".join(ADAPTERS)
        raise FrameworkError(
            f"{where}: got {type(array).__qualname__}; need an array of {known} or with __dlpack__"
        )
    try:
        numpy_array: np.ndarray[Any, Any] = adapter.to_numpy(array)
    except (BufferError, TypeError, RuntimeError, ValueError) as error:
        raise FrameworkError(f"{where}: got {type(array).__qualname__} that NumPy cannot read: {error}") from error
    return numpy_array


def from_numpy(array: np.ndarray[Any, Any], like: Any) -> Any:
    """Return `array` as an array of the kind of `like`, sharing memory."""
    if type(like) is np.ndarray:
        return array
    adapter = _adapter_of(type(like))  # type: ignore[arg-type]
    assert adapter is not None
    return adapter.from_numpy(array, like)
