"""Where arrays live: MXNet's contexts. Only the CPU computes here; a GPU context can be named, not used."""

from __future__ import annotations

import re
import threading
from typing import ClassVar

from tconv.errors import MXNetError, ParameterError

_TEXT = re.compile(r"(\w+)\((-?\d+)\)")


class Context:
    """A device, and as a `with` statement the device of the arrays made inside.

    Parameters
    ----------
    device_type : str or Context
        `cpu`, `gpu`, `cpu_pinned` or `cpu_shared`; or a context to copy.
    device_id : int, optional
        Number of the device. All numbers of a CPU are the same memory.

    Raises
    ------
    ParameterError
        If there is no device of that type, or the number is no int.

    Examples
    --------
    >>> import tconv as mx
    >>> with mx.cpu(1):
    ...     mx.nd.ones((2,)).context
    cpu(1)
    """

    __slots__ = ("device_id", "device_typeid")

    device_typeid: int
    device_id: int

    devtype2str: ClassVar[dict[int, str]] = {1: "cpu", 2: "gpu", 3: "cpu_pinned", 5: "cpu_shared"}
    devstr2type: ClassVar[dict[str, int]] = {name: number for number, name in devtype2str.items()}

    def __init__(self, device_type: str | Context, device_id: int = 0) -> None:
        if isinstance(device_type, Context):
            self.device_typeid, self.device_id = device_type.device_typeid, device_type.device_id
            return
        if device_type not in Context.devstr2type:
            raise ParameterError(f"Context: device_type: got {device_type!r}; need one of cpu, gpu, cpu_pinned")
        if not hasattr(type(device_id), "__index__"):
            raise ParameterError(f"Context: device_id: got {device_id!r}; need an int")
        self.device_typeid = Context.devstr2type[device_type]
        self.device_id = int(device_id)

    @property
    def device_type(self) -> str:
        """Name of the type of the device."""
        return Context.devtype2str[self.device_typeid]

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Context)
            and self.device_typeid == other.device_typeid
            and self.device_id == other.device_id
        )

    def __hash__(self) -> int:
        return hash((self.device_typeid, self.device_id))

    def __repr__(self) -> str:
        return f"{self.device_type}({self.device_id})"

    def __enter__(self) -> Context:
        _entered.stack = (*_entered.stack, self)
        return self

    def __exit__(self, *exception: object) -> None:
        _entered.stack = _entered.stack[:-1]

    def empty_cache(self) -> None:
        """Free memory kept for later arrays; there is none on the CPU."""
        usable(self)


class _Entered(threading.local):
    stack: tuple[Context, ...] = ()


_entered = _Entered()
CPU = Context("cpu", 0)
"""The context of arrays that ask for none."""


def cpu(device_id: int = 0) -> Context:
    """Return the CPU as a context."""
    return Context("cpu", device_id)


def cpu_pinned(device_id: int = 0) -> Context:
    """Return the context that MXNet keeps for memory shared with a GPU; here it is the CPU's."""
    return Context("cpu_pinned", device_id)


def gpu(device_id: int = 0) -> Context:
    """Return a GPU as a context; making an array there raises MXNetError."""
    return Context("gpu", device_id)


def num_gpus() -> int:
    """Return the number of GPUs that `mx.nd` can use: 0."""
    return 0


def gpu_memory_info(device_id: int = 0) -> tuple[int, int]:
    """Raise MXNetError, as there is no GPU whose free and total memory could be told."""
    raise _no_gpu(gpu(device_id))


def current_context() -> Context:
    """Return the context of the innermost `with` statement of this thread, else `cpu(0)`."""
    stack = _entered.stack
    return stack[-1] if stack else CPU


def usable(ctx: Context | str | None) -> Context:
    """Return the context an array is to be made in.

    Parameters
    ----------
    ctx : Context, str or None
        A context, its text such as `cpu(0)`, or None for the current one.

    Raises
    ------
    ParameterError
        If `ctx` is none of these.
    MXNetError
        If it is a GPU.
    """
    if ctx is None:
        ctx = current_context()
    elif isinstance(ctx, str) and (match := _TEXT.fullmatch(ctx)):
        ctx = Context(match[1], int(match[2]))
    if not isinstance(ctx, Context):
        raise ParameterError(f"ctx: got {ctx!r}; need a context such as mx.cpu()")
    if ctx.device_typeid == 2:
        raise _no_gpu(ctx)
    return ctx


def _no_gpu(ctx: Context) -> MXNetError:
    return MXNetError(f"ctx: got {ctx}; there is no GPU backend in this build, need mx.cpu()")
