"""Element types: the names tconv computes with and the codes MXNet's files carry."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tconv.errors import DTypeError

DType = np.dtype[Any]

# The order is the element type number of `.params` records and of the `__dtype__` attribute.
_CODED = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool")
_BFLOAT16_CODE = 12

COMPUTABLE = ("float32", "float64", "float16", "bfloat16")
COMPUTABLE_IN_WORDS = "a floating point type of 16, 32 or 64 bits"


@cache
def bfloat16() -> DType | None:
    """Return the bfloat16 type of ml_dtypes, or None where that package is absent."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    bfloat16_type: DType = np.dtype(ml_dtypes.bfloat16)
    return bfloat16_type


def as_dtype(value: Any, where: str = "dtype") -> DType:
    """Return the native-endian NumPy type for a name, a NumPy type, or a Python type.

    Raises
    ------
    DTypeError
        If `value` names no type.
    """
    if isinstance(value, str) and value == "bfloat16":
        found = bfloat16()
        if found is None:
            raise DTypeError(f"{where}: got 'bfloat16'; it needs the package ml_dtypes")
        return found
    try:
        named: DType = np.dtype(value)
    except (TypeError, ValueError, SyntaxError):
        raise DTypeError(f"{where}: got {value!r}; need the name of an element type") from None
    native: DType = named.newbyteorder("=")
    return native


@cache
def is_computable(dtype: DType) -> bool:
    """Tell whether convolutions compute in `dtype`: float16, float32, float64 or bfloat16."""
    return dtype.name in COMPUTABLE


@cache
def to_code(dtype: DType) -> int:
    """Return MXNet's number for `dtype`.

    Raises
    ------
    DTypeError
        If MXNet has no number for it.
    """
    if dtype.name in _CODED:
        return _CODED.index(dtype.name)
    if dtype.name == "bfloat16":
        return _BFLOAT16_CODE
    raise DTypeError(f"dtype: got {dtype.name}; need one of {', '.join(_CODED)}, bfloat16")


def from_code(code: int) -> DType:
    """Return the type for MXNet's number `code`.

    Raises
    ------
    DTypeError
        If no type has this number.
    """
    if 0 <= code < len(_CODED):
        return np.dtype(_CODED[code])
    if code == _BFLOAT16_CODE:
        return as_dtype("bfloat16")
    raise DTypeError(f"dtype: got number {code}; need 0 to {len(_CODED) - 1} or {_BFLOAT16_CODE}")
