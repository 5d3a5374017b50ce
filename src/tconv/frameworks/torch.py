"""PyTorch tensors on the CPU."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tconv.dtypes import as_dtype


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """Return an array over the tensor's memory; NumPy has no bfloat16, so that goes by way of its bits."""
    torch = sys.modules["torch"]
    tensor = array.detach()
    if tensor.dtype == torch.bfloat16:
        bits: np.ndarray[Any, Any] = tensor.view(torch.int16).numpy()
        return bits.view(as_dtype("bfloat16"))
    plain: np.ndarray[Any, Any] = tensor.numpy()
    return plain


def from_numpy(array: np.ndarray[Any, Any], like: Any = None) -> Any:
    """Return a tensor over the memory of `array`."""
    torch = sys.modules["torch"]
    # The kind tells it fastest; ml_dtypes has one of its own.
    if array.dtype.kind == "V" and array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
