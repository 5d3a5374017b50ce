"""Attributes that every symbol made inside a `with` block gets: `mx.AttrScope`."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping


class _Scopes(threading.local):
    def __init__(self) -> None:
        self.stack: list[AttrScope] = [AttrScope()]


class _Current(type):
    @property
    def current(cls) -> AttrScope:
        """The scope in force in this thread."""
        return _scopes.stack[-1]


class AttrScope(metaclass=_Current):
    """Give every symbol made inside the `with` block these attributes; inner scopes go first.

    Parameters
    ----------
    **attrs : str
        Attributes. Keys of operators need the form `__key__`, or one of `ctx_group`, `lr_mult`, `wd_mult`,
        `force_mirroring`, `mirror_stage`.

    Raises
    ------
    ValueError
        If a value is not text.

    Examples
    --------
    >>> import tconv as mx
    >>> with mx.AttrScope(__stage__="up"):
    ...     x = mx.sym.var("x")
    >>> x.attr("__stage__")
    'up'
    """

    def __init__(self, **attrs: str) -> None:
        for key, value in attrs.items():
            if not isinstance(value, str):
                raise ValueError(f"AttrScope: {key}: got {type(value).__name__}; need text")
        self._attr = attrs

    def get(self, attr: Mapping[str, str] | None) -> dict[str, str]:
        """Return the attributes of the scope overridden by those of a symbol."""
        return {**self._attr, **(attr or {})}

    def __enter__(self) -> AttrScope:
        merged = copy.copy(self)
        merged._attr = {**AttrScope.current._attr, **self._attr}
        _scopes.stack.append(merged)
        return merged

    def __exit__(self, *exception: object) -> None:
        _scopes.stack.pop()


_scopes = _Scopes()
