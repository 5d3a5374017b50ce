"""Nested lists of arrays as a flat list and a form, so that a graph sees only flat inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tconv.gluon import errors
from tconv.ndarray import NDArray
from tconv.symbol import Symbol

# The form of one array is 0, of None -1, of a symbol with n > 1 outputs n, of a list the list of their forms.
Form = Any
_ONE = 0
_NONE = -1


def flatten(values: Any, what: str) -> tuple[list[Any], Form]:
    """Return the arrays, symbols and Nones in `values`, and the form they had.

    Raises
    ------
    ArgumentError
        If there is anything else in it; `what` is its name in the message.
    """
    if isinstance(values, NDArray):
        return [values], _ONE
    if isinstance(values, Symbol):
        count = len(values.list_outputs())
        return [values], count if count > 1 else _ONE
    if values is None:
        return [None], _NONE
    if not isinstance(values, (list, tuple)):
        raise errors.ValueError(
            f"HybridBlock: {what}: got {type(values).__name__}; need arrays or symbols, or lists of them"
        )
    flat: list[Any] = []
    form = []
    for value in values:
        inside, its_form = flatten(value, what)
        flat += inside
        form.append(its_form)
    return flat, form


def regroup(flat: Sequence[Any], form: Form) -> Any:
    """Return the values of `flat` in `form`."""
    rest = list(flat)

    def take(form: Form) -> Any:
        if isinstance(form, list):
            return [take(inner) for inner in form]
        if form == _NONE:
            if rest.pop(0) is not None:
                raise errors.ValueError("HybridBlock: input: got an array where the first call had None")
            return None
        if form == _ONE:
            return rest.pop(0)
        taken, rest[:form] = rest[:form], []
        return taken

    return take(form)


def forms_agree(first: Form, second: Form) -> bool:
    """Tell whether two forms of argument lists are one, Nones at the end aside."""
    if not isinstance(first, list) or not isinstance(second, list):
        return bool(first == second)
    shared = min(len(first), len(second))
    return first[:shared] == second[:shared] and all(form == _NONE for form in (*first[shared:], *second[shared:]))
