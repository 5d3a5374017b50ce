"""Automatic names of symbols: `mx.name.NameManager` and `mx.name.Prefix`."""

from __future__ import annotations

import threading


class _Managers(threading.local):
    def __init__(self) -> None:
        self.stack: list[NameManager] = [NameManager()]


class _Current(type):
    @property
    def current(cls) -> NameManager:
        """The manager in force in this thread."""
        return _managers.stack[-1]


class NameManager(metaclass=_Current):
    """Name symbols that were given no name; in force inside a `with` block.

    Examples
    --------
    >>> import tconv as mx
    >>> with mx.name.NameManager():
    ...     [mx.sym.relu(mx.sym.var("x")).name for _ in range(2)]
    ['relu0', 'relu1']
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def get(self, name: str | None, hint: str) -> str:
        """Return `name`, or a new one made of `hint` and a number if there is none."""
        if name:
            return name
        count = self._counts.get(hint, 0)
        self._counts[hint] = count + 1
        return f"{hint}{count}"

    def __enter__(self) -> NameManager:
        _managers.stack.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _managers.stack.pop()


class Prefix(NameManager):
    """Put a prefix before given and automatic names.

    Parameters
    ----------
    prefix : str
        What every name starts with.

    Examples
    --------
    >>> import tconv as mx
    >>> with mx.name.Prefix("head_"):
    ...     mx.sym.relu(mx.sym.var("x"), name="r").name
    'head_r'
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def get(self, name: str | None, hint: str) -> str:
        """Return the name `NameManager` would give, behind the prefix."""
        return self._prefix + super().get(name, hint)


_managers = _Managers()
