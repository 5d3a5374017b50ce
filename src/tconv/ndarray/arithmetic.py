"""Operators of Python on arrays and scalars, and the functions of the same names, from one table."""

from __future__ import annotations

import operator as python
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tconv.errors import DTypeError
from tconv.ndarray.ndarray import NDArray, call, invoke, parameters, wrap
from tconv.operators.registry import Operator, find

Function = Callable[..., Any]

_NUMBERS = (float, int, np.generic)


@dataclass(frozen=True)
class Row:
    """A function of two arrays or scalars.

    Attributes
    ----------
    name : str
        The function, `mx.nd.add`.
    arrays, scalar, reverse : str
        The operators for two arrays, for an array and a scalar, and for a scalar and an array.
    numbers : callable
        What two scalars give.
    doc : str
        What it computes.
    method, reflected, in_place : str
        Methods of arrays it becomes.
    """

    name: str
    arrays: str
    scalar: str
    reverse: str
    numbers: Function
    doc: str
    method: str = ""
    reflected: str = ""
    in_place: str = ""


def _truth(function: Function) -> Function:
    return lambda lhs, rhs: int(function(lhs, rhs))


def _arithmetic(name: str, short: str, numbers: Function, doc: str, reverse: bool = True) -> Row:
    word = {"add": "plus", "sub": "minus"}.get(short, short)
    dunder = {"div": "truediv", "power": "pow"}.get(short, short)
    return Row(
        name,
        f"broadcast_{short}",
        f"_{word}_scalar",
        f"_r{word}_scalar" if reverse else f"_{word}_scalar",
        numbers,
        doc,
        f"__{dunder}__",
        f"__r{dunder}__",
        # There is no in-place power, so Python makes a new array.
        "" if short == "power" else f"__i{dunder}__",
    )


def _comparison(name: str, mirrored: str, numbers: Function, doc: str, method: str = "") -> Row:
    return Row(name, f"broadcast_{name}", f"_{name}_scalar", f"_{mirrored}_scalar", _truth(numbers), doc, method)


TABLE = (
    _arithmetic("add", "add", python.add, "Return lhs + rhs.", reverse=False),
    _arithmetic("subtract", "sub", python.sub, "Return lhs - rhs."),
    _arithmetic("multiply", "mul", python.mul, "Return lhs * rhs.", reverse=False),
    _arithmetic("divide", "div", python.truediv, "Return lhs / rhs; integers divide towards 0."),
    _arithmetic("modulo", "mod", python.mod, "Return the remainder of lhs / rhs; it has the sign of rhs."),
    _arithmetic("power", "power", python.pow, "Return lhs to the power rhs."),
    Row("maximum", "broadcast_maximum", "_maximum_scalar", "_maximum_scalar", max, "Return the larger ones."),
    Row("minimum", "broadcast_minimum", "_minimum_scalar", "_minimum_scalar", min, "Return the smaller ones."),
    _comparison("equal", "equal", python.eq, "Return 1 where lhs equals rhs, else 0.", "__eq__"),
    _comparison("not_equal", "not_equal", python.ne, "Return 1 where lhs differs from rhs, else 0.", "__ne__"),
    _comparison("greater", "lesser", python.gt, "Return 1 where lhs is above rhs, else 0.", "__gt__"),
    _comparison(
        "greater_equal", "lesser_equal", python.ge, "Return 1 where lhs is not below rhs, else 0.", "__ge__"
    ),
    _comparison("lesser", "greater", python.lt, "Return 1 where lhs is below rhs, else 0.", "__lt__"),
    _comparison(
        "lesser_equal", "greater_equal", python.le, "Return 1 where lhs is not above rhs, else 0.", "__le__"
    ),
    _comparison("logical_and", "logical_and", lambda a, b: a and b, "Return 1 where both are not 0, else 0."),
    _comparison("logical_or", "logical_or", lambda a, b: a or b, "Return 1 where one is not 0, else 0."),
    _comparison(
        "logical_xor", "logical_xor", lambda a, b: bool(a) ^ bool(b), "Return 1 where just one is not 0, else 0."
    ),
)


def _on_scalar(scalar_operator: Operator, array: NDArray, scalar: Any, out: NDArray | None = None) -> Any:
    return invoke(scalar_operator, parameters(scalar_operator, scalar=float(scalar)), (array,), out)


def _as_array(row: Row, side: str, value: Any, like: NDArray) -> NDArray:
    """Return an operand as an array; one of NumPy takes the type of the other operand."""
    if isinstance(value, NDArray):
        return value
    if isinstance(value, np.ndarray):
        with np.errstate(all="ignore"):
            return wrap(value.astype(like._data.dtype, copy=False), like._ctx)
    raise DTypeError(f"{row.name}: {side}: got {type(value).__name__}; need an array or a number")


def _both(row: Row, arrays: Operator, lhs: Any, rhs: Any, out: NDArray | None = None) -> Any:
    like = lhs if isinstance(lhs, NDArray) else rhs
    if not isinstance(like, NDArray):
        raise DTypeError(f"{row.name}: lhs: got {type(lhs).__name__}; need an NDArray")
    inputs = (_as_array(row, "lhs", lhs, like), _as_array(row, "rhs", rhs, like))
    return invoke(arrays, parameters(arrays), inputs, out)


def _function(row: Row) -> Function:
    arrays, scalar, reverse = find(row.arrays), find(row.scalar), find(row.reverse)

    def function(lhs: Any, rhs: Any) -> Any:
        if isinstance(rhs, _NUMBERS):
            return row.numbers(lhs, rhs) if isinstance(lhs, _NUMBERS) else _on_scalar(scalar, lhs, rhs)
        if isinstance(lhs, _NUMBERS):
            return _on_scalar(reverse, _operand(row, rhs), lhs)
        return _both(row, arrays, lhs, rhs)

    function.__name__ = function.__qualname__ = row.name
    function.__module__ = "tconv.ndarray"
    function.__doc__ = f"{row.doc} Arrays are broadcast; either side may be a number."
    return function


def _operand(row: Row, value: Any) -> NDArray:
    if not isinstance(value, NDArray):
        raise DTypeError(f"{row.name}: rhs: got {type(value).__name__}; need an array or a number")
    return value


def _in_place(row: Row) -> Function:
    arrays, scalar = find(row.arrays), find(row.scalar)

    def method(self: NDArray, other: Any) -> NDArray:
        if isinstance(other, _NUMBERS):
            _on_scalar(scalar, self, other, self)
        else:
            _both(row, arrays, self, other, self)
        return self

    return method


def _swapped(function: Function) -> Function:
    return lambda self, other: function(other, self)


FUNCTIONS = {row.name: _function(row) for row in TABLE}
"""The functions by name."""


def _add_methods() -> None:
    for row in TABLE:
        function = FUNCTIONS[row.name]
        for name, method in (
            (row.method, function),
            (row.reflected, _swapped(function)),
            (row.in_place, _in_place(row)),
        ):
            if name:
                setattr(NDArray, name, method)
    setattr(NDArray, "__neg__", lambda self: _on_scalar(find("_mul_scalar"), self, -1.0))  # noqa: B010
    setattr(NDArray, "__abs__", lambda self: call("abs", self))  # noqa: B010


_add_methods()
