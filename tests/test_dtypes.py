"""Names and numbers of element types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tconv import dtypes
from tconv.dtypes import COMPUTABLE, as_dtype, from_code, is_computable, to_code
from tconv.errors import DTypeError

CODES = {
    0: "float32",
    1: "float64",
    2: "float16",
    3: "uint8",
    4: "int32",
    5: "int8",
    6: "int64",
    7: "bool",
    12: "bfloat16",
}


@pytest.mark.parametrize("name", CODES.values())
def test_name_type_and_number_go_together(name: str) -> None:
    dtype = as_dtype(name)
    assert dtype.name == name
    assert as_dtype(dtype) == dtype
    assert as_dtype(dtype.type) == dtype
    assert CODES[to_code(dtype)] == name
    assert from_code(to_code(dtype)) == dtype


@pytest.mark.parametrize("code", [-1, 8, 11, 13, 2**31, -(2**31)])
def test_number_without_a_type(code: int) -> None:
    with pytest.raises(DTypeError, match=rf"^dtype: got number {code}; need 0 to 7 or 12$"):
        from_code(code)


@pytest.mark.parametrize("name", ["uint16", "complex64", "datetime64[s]", "U4", "longdouble"])
def test_type_without_a_number(name: str) -> None:
    with pytest.raises(DTypeError, match=r"^dtype: got .*; need one of float32, .*, bool, bfloat16$"):
        to_code(np.dtype(name))


@pytest.mark.parametrize("spelling", [">f4", "<f4", np.float32, np.dtype(">f4"), "f", "single"])
def test_byte_order_is_the_machines(spelling: Any) -> None:
    assert as_dtype(spelling) == np.dtype("float32")
    assert as_dtype(spelling).isnative


NAMELESS = ["float23", "", "f4,(", "(", "f4)", "1(", {"names": ["a"]}, ("f4", (2, -1)), 5, 5.0, object(), ()]


@pytest.mark.parametrize("value", NAMELESS, ids=lambda value: repr(value)[:12])
def test_what_names_no_type(value: Any) -> None:
    with pytest.raises(DTypeError, match=r"^somewhere: got .*; need the name of an element type$"):
        as_dtype(value, "somewhere")


@given(st.text("fiub1248,()<>=|{}[]:'? ", max_size=6))
def test_any_text_names_a_type_or_is_refused(text: str) -> None:
    try:
        dtype = as_dtype(text)
    except DTypeError:
        return
    assert dtype.isnative


def test_bfloat16_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "bfloat16", lambda: None)
    with pytest.raises(DTypeError, match=r"^weight: got 'bfloat16'; it needs the package ml_dtypes$"):
        as_dtype("bfloat16", "weight")
    assert as_dtype("float16") == np.float16


def test_computable_types() -> None:
    every = ["bool", "int8", "uint8", "int32", "int64", "complex64", "longdouble", *COMPUTABLE]
    assert [name for name in every if is_computable(as_dtype(name))] == list(COMPUTABLE)
    assert is_computable(np.dtype(">f8"))
