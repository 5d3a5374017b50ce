"""Functions that run before or after a block."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tconv.gluon import errors

if TYPE_CHECKING:
    from typing_extensions import Self

Hook = Callable[..., Any]


class Hooks(OrderedDict[int, Hook]):
    """The hooks of one block, in the order they came; a class of its own because handles refer to it weakly."""


class HookHandle:
    """Detaches the hook it stands for, when asked or at the end of a `with` statement."""

    def __init__(self) -> None:
        self._hooks: weakref.ref[Any] | None = None
        self._id = 0

    def attach(self, hooks_dict: Any, hook: Hook) -> None:
        """Put `hook` among the hooks of a block.

        Raises
        ------
        ArgumentError
            If this handle stands for a hook already.
        """
        if self._hooks is not None:
            raise errors.AssertionError("HookHandle: attach: this handle is attached already")
        self._id = id(hook)
        hooks_dict[self._id] = hook
        self._hooks = weakref.ref(hooks_dict)

    def detach(self) -> None:
        """Take the hook away; a second time has no effect."""
        hooks = self._hooks() if self._hooks is not None else None
        if hooks is not None:
            hooks.pop(self._id, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()
