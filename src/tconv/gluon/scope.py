"""How blocks get their names: counted within the block whose `name_scope` is open, else over the whole program."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tconv import name as names
from tconv.gluon.parameter import ParameterDict

if TYPE_CHECKING:
    from typing_extensions import Self

    from tconv.gluon.block import Block

_open = threading.local()


def _current() -> BlockScope | None:
    scope: BlockScope | None = getattr(_open, "scope", None)
    return scope


def new_names(prefix: str | None, params: ParameterDict | None, hint: str) -> tuple[str, ParameterDict]:
    """Return prefix and parameter dict of a new block.

    Parameters
    ----------
    prefix : str or None
        What its maker asked for; None to count.
    params : ParameterDict or None
        Parameters to share.
    hint : str
        What automatic prefixes begin with.
    """
    scope = _current()
    if scope is None:
        full = names.NameManager.current.get(None, hint) + "_" if prefix is None else prefix
        if params is None:
            return full, ParameterDict(full)
        return full, ParameterDict(params.prefix, params)
    own = scope.count(hint) if prefix is None else prefix
    if params is None:
        outer = scope.block.params
        return scope.block.prefix + own, ParameterDict(outer.prefix + own, outer._shared)
    return scope.block.prefix + own, ParameterDict(params.prefix, params)


class BlockScope:
    """What `Block.name_scope` returns; blocks and symbols made inside get the block's prefix."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self._counts: dict[str, int] = {}
        self._entered: list[tuple[BlockScope | None, names.Prefix]] = []

    def count(self, hint: str) -> str:
        """Return the next automatic prefix of that kind."""
        number = self._counts.get(hint, 0)
        self._counts[hint] = number + 1
        return f"{hint}{number}_"

    def __enter__(self) -> Self:
        # A block without a prefix of its own leaves naming to the scope around it.
        if not self.block._empty_prefix:
            prefix = names.Prefix(self.block.prefix)
            prefix.__enter__()
            self._entered.append((_current(), prefix))
            _open.scope = self
        return self

    def __exit__(self, *exception: object) -> None:
        if not self.block._empty_prefix:
            _open.scope, prefix = self._entered.pop()
            prefix.__exit__(*exception)
