"""What the symbol room lends to this one, which sits below it: it fills `symbols` in when it is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tconv.ndarray.tape import Record
from tconv.operators.registry import Operator


@dataclass(frozen=True)
class Symbols:
    """The symbol room, as arrays need it.

    Attributes
    ----------
    symbol_type : type
        The class of symbols.
    call : callable
        `call(operator, args, kwargs) -> Symbol` of an array function that was given a symbol.
    rebuild : callable
        `rebuild(records, (position, output)) -> Symbol` of a recorded graph; see `tconv.ndarray.tape.history`.
    """

    symbol_type: type
    call: Callable[[Operator, Sequence[Any], Mapping[str, Any]], Any]
    rebuild: Callable[[Sequence[Record], tuple[int, int]], Any]


symbols: Symbols | None = None


def symbol_room() -> Symbols:
    """Return the symbol room; the package, which stands above all rooms, imports it if need be."""
    if symbols is None:
        _ = sys.modules["tconv"].symbol
    assert symbols is not None
    return symbols


def is_symbol(value: object) -> bool:
    """Tell whether `value` is a symbol; there is none before the symbol room is imported."""
    return symbols is not None and isinstance(value, symbols.symbol_type)
