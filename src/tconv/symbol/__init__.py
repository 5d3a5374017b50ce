"""Graphs and what runs them: `mx.sym`, also called `mx.symbol`.

Every operator is a function here. Given symbols it returns a symbol, given arrays an array.
"""

from collections.abc import Callable
from typing import Any

from tconv.symbol import functions
from tconv.symbol.executor import Executor
from tconv.symbol.functions import (
    arange,
    eye,
    full,
    hypot,
    maximum,
    minimum,
    ones,
    power,
    split_v2,
    zeros,
)
from tconv.symbol.symbol import Group, Symbol, Variable, load, load_json, var

__all__ = [
    "Executor",
    "Group",
    "Symbol",
    "Variable",
    "arange",
    "eye",
    "full",
    "hypot",
    "load",
    "load_json",
    "maximum",
    "minimum",
    "ones",
    "pow",
    "power",
    "split_v2",
    "var",
    "zeros",
]

pow = power  # noqa: A001


def __getattr__(name: str) -> Callable[..., Any] | Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'tconv.symbol' has no attribute {name!r}")
    made: Any
    if name in functions.NAMESPACES:
        made = functions.Namespace(name, functions.NAMESPACES[name])
    else:
        made = functions.find_function("", name)
    globals()[name] = made
    return made


def __dir__() -> list[str]:
    return sorted({*globals(), *functions.NAMESPACES, *functions.public_names()})
