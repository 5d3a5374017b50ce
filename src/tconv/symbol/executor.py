"""A symbol bound to arrays: forward, backward, and the arrays by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tconv.context import Context
from tconv.dtypes import DType
from tconv.errors import DTypeError, MXNetError, OutOfMemoryError, ParameterError, ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.ndarray import NDArray
from tconv.ndarray.ndarray import supported
from tconv.operators.registry import Array
from tconv.symbol.inference import DTypes, Shapes, to_inner, to_outer
from tconv.symbol.passes import Streamlined
from tconv.symbol.program import Monitor, Program, Run

if TYPE_CHECKING:
    from tconv.symbol.symbol import Symbol

T = TypeVar("T")
GradReq = str | list[str] | dict[str, str]

_GRAD_REQS = ("null", "write", "add")


class Executor:
    """A symbol bound to arrays, made by `Symbol.bind` or `Symbol.simple_bind`.

    The arrays are those given, not copies: what is written into them counts at the next `forward`.

    Attributes
    ----------
    arg_arrays : list of NDArray
        The arguments, in the order of `list_arguments`.
    grad_arrays : list of NDArray or None
        Their gradients; None where none is computed.
    aux_arrays : list of NDArray
        The auxiliary states.
    outputs : list of NDArray
        The outputs. Their memory stays the same from one `forward` to the next.

    Examples
    --------
    >>> import tconv as mx
    >>> x = mx.sym.var("x")
    >>> ex = (2 * x).bind(mx.cpu(), {"x": mx.nd.array([1, 2])}, args_grad={"x": mx.nd.zeros((2,))})
    >>> ex.forward(is_train=True)[0].asnumpy()
    array([2., 4.], dtype=float32)
    >>> ex.backward(mx.nd.array([1, 10]))
    >>> ex.grad_dict["x"].asnumpy()
    array([ 2., 20.], dtype=float32)
    """

    def __init__(
        self,
        symbol: Symbol,
        ctx: Context,
        args: Sequence[NDArray],
        grads: Sequence[NDArray | None],
        aux: Sequence[NDArray],
        reqs: Sequence[str],
        grad_req: Any,
        group2ctx: Mapping[str, Context] | None = None,
    ) -> None:
        self._symbol = copy.deepcopy(symbol)
        self._ctx = ctx
        self._grad_req = copy.deepcopy(grad_req)
        self._group2ctx = group2ctx
        self._program = Program(self._symbol)
        self._streamlined = Streamlined(self._program)
        self._monitor: Monitor | None = None
        self._run: Run | None = None
        self.arg_arrays = list(args)
        self.grad_arrays = list(grads)
        self.aux_arrays = list(aux)
        self._reqs = {
            name: req
            for name, req, grad in zip(self._program.arguments, reqs, self.grad_arrays)
            if grad is not None and req != "null"
        }
        for name, array, grad in zip(self._program.arguments, self.arg_arrays, self.grad_arrays):
            if name in self._reqs and grad is not None:
                if grad.shape != array.shape:
                    raise ShapeError(f"bind: args_grad: {name}: got shape {grad.shape}; need {array.shape}")
                if not grad._data.flags.writeable:
                    raise MXNetError(f"bind: args_grad: {name}: got an array that cannot be written to")
        self._buffers = [_zeros(shape, dtype) for shape, dtype in self._program.solve(self._arrays())]
        self.outputs = self._wrapped()

    def _arrays(self) -> dict[str, Array]:
        names = (*self._program.arguments, *self._program.auxiliaries)
        return {name: array._data for name, array in zip(names, (*self.arg_arrays, *self.aux_arrays))}

    def _wrapped(self) -> list[NDArray]:
        return [NDArray(buffer, self._ctx) for buffer in self._buffers]

    @property
    def arg_dict(self) -> dict[str, NDArray]:
        """The arguments by name."""
        return dict(zip(self._program.arguments, self.arg_arrays))

    @property
    def grad_dict(self) -> dict[str, NDArray | None]:
        """The gradients by name of the argument."""
        return dict(zip(self._program.arguments, self.grad_arrays))

    @property
    def aux_dict(self) -> dict[str, NDArray]:
        """The auxiliary states by name."""
        return dict(zip(self._program.auxiliaries, self.aux_arrays))

    @property
    def output_dict(self) -> dict[str, NDArray]:
        """The outputs by name.

        Raises
        ------
        ValueError
            If two have one name.
        """
        names = self._program.outputs
        if len(set(names)) != len(names):
            raise ValueError(f"output_dict: got the outputs {', '.join(names)}; need one of each name")
        return dict(zip(names, self.outputs))

    def forward(self, is_train: bool = False, **kwargs: Any) -> list[NDArray]:
        """Compute the outputs.

        Parameters
        ----------
        is_train : bool
            Whether this is part of training: auxiliary states change, and a backward pass may follow at no
            further cost.
        **kwargs : NDArray or ndarray
            Arrays to copy into the arguments of these names first.

        Returns
        -------
        list of NDArray
            The outputs, also at `outputs`.

        Raises
        ------
        TypeError
            If there is no argument of a name.
        ValueError
            If an array is none, or of another shape than the argument.
        """
        for name, array in kwargs.items():
            if not isinstance(array, (NDArray, np.ndarray)):
                raise ValueError(f"forward: {name}: got {type(array).__name__}; need an NDArray or a NumPy array")
            target = self.arg_dict.get(name)
            if target is None:
                raise TypeError(
                    f"forward: got an argument {name}; there are {', '.join(self._program.arguments) or 'none'}"
                )
            if target.shape != array.shape:
                raise ValueError(f"forward: {name}: got shape {array.shape}; need {target.shape}")
            target[:] = array
        if is_train or self._monitor is not None:
            self._run = self._program.forward(
                self._arrays(),
                bool(is_train),
                keep=bool(is_train and self._reqs),
                out=self._buffers,
                monitor=self._monitor,
            )
        else:
            self._run = None
            self._streamlined(self._arrays(), self._buffers)
        self.outputs = self._wrapped()
        return self.outputs

    def backward(
        self,
        out_grads: NDArray | Sequence[NDArray] | Mapping[str, NDArray] | None = None,
        is_train: bool = True,
    ) -> None:
        """Compute the gradients of the arguments, and write or add them as `grad_req` says.

        Parameters
        ----------
        out_grads : NDArray, list, or dict by name of output
            Gradients of the outputs; not needed for losses.
        is_train : bool
            Accepted for MXNet's sake; the mode is that of the forward pass.

        Raises
        ------
        TypeError
            If a gradient is no NDArray.
        MXNetError
            If one is missing or of another shape than the output.
        """
        grads = self._out_grads(out_grads)
        if not self._reqs:
            return
        if self._run is None or not self._run.kept:
            # A forward pass outside of training keeps nothing.
            self._run = self._program.forward(self._arrays(), False, keep=True, out=self._buffers)
        found = self._program.backward(self._run, [grad._data for grad in grads], self._reqs, self._monitor)
        for name, grad in zip(self._program.arguments, self.grad_arrays):
            if grad is not None and name in self._reqs:
                if self._reqs[name] == "add":
                    np.add(grad._data, found[name], out=grad._data, casting="unsafe")
                else:
                    np.copyto(grad._data, found[name], casting="unsafe")

    def _out_grads(self, given: Any) -> list[NDArray]:
        if given is None:
            return []
        if isinstance(given, NDArray):
            given = [given]
        elif isinstance(given, Mapping):
            missing = [name for name in self._program.outputs if name not in given]
            if missing:
                raise MXNetError(f"backward: out_grads: {', '.join(missing)}: missing; need every output")
            given = [given[name] for name in self._program.outputs]
        for grad in given:
            if not isinstance(grad, NDArray):
                raise TypeError(f"backward: out_grads: got {type(grad).__name__}; need NDArrays")
        return list(given)

    def set_monitor_callback(self, callback: Callable[[str, NDArray], object], monitor_all: bool = False) -> None:
        """Have every array of a pass shown to a function.

        Parameters
        ----------
        callback : callable
            `callback(name, array)`, called in the order of computation: with the outputs of every operator, and in
            the backward pass with the gradients it passes back.
        monitor_all : bool
            Whether to show the inputs of every operator as well.
        """

        def show(name: str, array: Array) -> None:
            callback(name, NDArray(array, self._ctx))

        self._monitor = Monitor(show, monitor_all)

    def copy_params_from(
        self,
        arg_params: Mapping[str, NDArray],
        aux_params: Mapping[str, NDArray] | None = None,
        allow_extra_params: bool = False,
    ) -> None:
        """Copy parameters into the arrays of the executor, converting their type.

        Parameters
        ----------
        arg_params, aux_params : dict of str to NDArray
            Arguments, and auxiliary states.
        allow_extra_params : bool
            Whether names the symbol does not have are ignored.

        Raises
        ------
        ValueError
            If a name is not among the arguments or auxiliary states.
        ShapeError
            If an array is of another shape.
        """
        targets: tuple[tuple[str, Mapping[str, NDArray], dict[str, NDArray]], ...] = (
            ("arguments", arg_params, self.arg_dict),
            ("auxiliary states", aux_params or {}, self.aux_dict),
        )
        for what, params, arrays in targets:
            for name, array in params.items():
                if name in arrays:
                    if arrays[name].shape != array.shape:
                        raise ShapeError(
                            f"copy_params_from: {name}: got shape {array.shape}; need {arrays[name].shape}"
                        )
                    arrays[name][:] = array
                elif not allow_extra_params:
                    raise ValueError(f"copy_params_from: got {name}; the {what} are {', '.join(arrays) or 'none'}")

    def reshape(self, partial_shaping: bool = False, allow_up_sizing: bool = False, **kwargs: Any) -> Executor:
        """Return an executor of the same symbol for other shapes, sharing memory with this one.

        Parameters
        ----------
        partial_shaping : bool
            Whether arguments that were not named may change their shape.
        allow_up_sizing : bool
            Whether arrays may grow; those that do get new memory.
        **kwargs : tuple of int
            New shapes of arguments.

        Raises
        ------
        MXNetError
            If an argument changes its shape or grows without leave.
        """
        known = _shapes_by_name("reshape", kwargs, (*self._program.arguments, *self._program.auxiliaries))
        try:
            found = Shapes(self._symbol.heads, known)
        except MXNetError as error:
            raise MXNetError(f"reshape: {error}") from error
        shapes = [
            *zip(self._program.arguments, found.of_variables(found.arguments)),
            *zip(self._program.auxiliaries, found.of_variables(found.auxiliaries)),
        ]
        arrays: dict[str, NDArray] = {}
        grads: list[NDArray | None] = []
        old_arrays, old_grads = {**self.arg_dict, **self.aux_dict}, self.grad_dict
        for name, partial in shapes:
            old = old_arrays[name]
            shape = _whole("reshape", name, partial)
            if shape != old.shape and name not in kwargs and not partial_shaping:
                raise MXNetError(
                    f"reshape: {name}: its shape would change from {old.shape} to {shape}; name it, or allow it by "
                    "partial_shaping=True"
                )
            if prod(shape) > prod(old.shape) and not allow_up_sizing:
                raise MXNetError(
                    f"reshape: {name}: its shape would grow from {old.shape} to {shape}; allow it by "
                    "allow_up_sizing=True, or start with a large executor"
                )
            arrays[name] = _resized(old, shape)
            if name in old_grads:
                grad = old_grads[name]
                grads.append(None if grad is None else _resized(grad, shape))
        resized = Executor(
            self._symbol,
            self._ctx,
            [arrays[name] for name in self._program.arguments],
            grads,
            [arrays[name] for name in self._program.auxiliaries],
            [self._reqs.get(name, "null") for name in self._program.arguments],
            self._grad_req,
            self._group2ctx,
        )
        resized._monitor = self._monitor
        return resized

    def debug_str(self) -> str:
        """Return the graph and the memory of the outputs, as text."""
        total = sum(buffer.nbytes for buffer in self._buffers)
        return f"{self._symbol.debug_str()}Total {total // 2**20} MB allocated\n"

    def get_optimized_symbol(self) -> Symbol:
        """Return a copy of the symbol, which is what runs."""
        return copy.deepcopy(self._symbol)


def bind(
    symbol: Symbol,
    ctx: Context,
    args: Any,
    args_grad: Any,
    grad_req: Any,
    aux_states: Any,
    group2ctx: Mapping[str, Context] | None,
) -> Executor:
    """Do `Symbol.bind`."""
    if not isinstance(ctx, Context):
        raise TypeError(f"bind: ctx: got {type(ctx).__name__}; need a Context")
    names = symbol.list_arguments()
    arrays = _by_position("args", args, names)
    grads: Sequence[NDArray | None] = [None] * len(names)
    if args_grad is not None:
        grads = _by_position("args_grad", args_grad, names, optional=True)
    aux = _by_position("aux_states", [] if aux_states is None else aux_states, symbol.list_auxiliary_states())
    reqs = _grad_reqs("bind", grad_req, names)
    try:
        return Executor(symbol, ctx, arrays, grads, aux, reqs, grad_req, group2ctx)  # type: ignore[arg-type]
    except (ShapeError, DTypeError) as error:
        raise MXNetError(str(error)) from error


def simple_bind(
    symbol: Symbol,
    ctx: Context,
    grad_req: Any,
    type_dict: Mapping[str, Any] | None,
    group2ctx: Mapping[str, Context] | None,
    shared_arg_names: list[str] | None,
    shared_exec: Executor | None,
    shared_buffer: dict[str, NDArray] | None,
    shapes: Mapping[str, Any],
) -> Executor:
    """Do `Symbol.simple_bind`."""
    if not isinstance(ctx, Context):
        raise TypeError(f"simple_bind: ctx: got {type(ctx).__name__}; need a Context")
    if not isinstance(shared_arg_names, (list, type(None))):
        raise ValueError(f"simple_bind: shared_arg_names: got {type(shared_arg_names).__name__}; need a list")
    if not isinstance(shared_buffer, (dict, type(None))):
        raise ValueError(f"simple_bind: shared_buffer: got {type(shared_buffer).__name__}; need a dict")
    dtypes = {
        name: supported(dtype, f"simple_bind: type_dict: {name}") for name, dtype in (type_dict or {}).items()
    }
    names, aux_names = symbol.list_arguments(), symbol.list_auxiliary_states()
    try:
        reqs = _grad_reqs("simple_bind", grad_req, names)
        # MXNet ignores what is no shape, and names that no variable has.
        given = {name: shape for name, shape in shapes.items() if isinstance(shape, tuple)}
        known = {name: to_inner(shape, f"simple_bind: {name}") for name, shape in given.items()}
        solved = _solve_variables(symbol, known, dtypes)
        store = _Store(ctx, shared_arg_names or [], shared_exec, shared_buffer)
        arrays = [store.argument(name, *solved[name]) for name in names]
        grads = [None if req == "null" else store.gradient(name, *solved[name]) for name, req in zip(names, reqs)]
        aux = [store.auxiliary(name, *solved[name]) for name in aux_names]
        return Executor(symbol, ctx, arrays, grads, aux, reqs, grad_req, group2ctx)
    except OutOfMemoryError:
        raise
    except (MXNetError, ValueError) as error:
        listed = ", ".join(f"{name}: {shape}" for name, shape in shapes.items())
        raise RuntimeError(f"simple_bind with ({listed}): {error}") from error


class _Store:
    """Where `simple_bind` finds or makes its arrays."""

    def __init__(
        self,
        ctx: Context,
        shared_names: list[str],
        executor: Executor | None,
        buffer: dict[str, NDArray] | None,
    ) -> None:
        self._ctx = ctx
        self._names = set(shared_names) if executor is not None else set()
        self._executor = executor
        self._buffer = buffer

    def _new(self, shape: Shape, dtype: DType) -> NDArray:
        return NDArray(_zeros(shape, dtype), self._ctx)

    def argument(self, name: str, shape: Shape, dtype: DType) -> NDArray:
        """Return the other executor's array, memory of the buffer, or a new array."""
        if self._executor is not None and name in self._names:
            return _same("arg", name, self._executor.arg_dict.get(name), shape, dtype)
        if self._buffer is None:
            return self._new(shape, dtype)
        pooled = self._buffer.get(name)
        if pooled is None or pooled._data.dtype != dtype or pooled._data.size < prod(shape):
            self._buffer[name] = self._new(shape, dtype)
            return self._buffer[name]
        return _resized(pooled, shape)

    def gradient(self, name: str, shape: Shape, dtype: DType) -> NDArray:
        """Return the other executor's gradient, or a new array."""
        if self._executor is not None and name in self._names:
            shared = self._executor.grad_dict.get(name)
            if shared is not None:
                return _same("grad", name, shared, shape, dtype)
        return self._new(shape, dtype)

    def auxiliary(self, name: str, shape: Shape, dtype: DType) -> NDArray:
        """Return the other executor's state, or a new array."""
        shared = self._executor.aux_dict.get(name) if self._executor is not None else None
        if shared is not None:
            return _same("aux", name, shared, shape, dtype)
        return self._new(shape, dtype)


def _same(what: str, name: str, array: NDArray | None, shape: Shape, dtype: DType) -> NDArray:
    if array is None or array.shape != shape or array._data.dtype != dtype:
        got = "nothing" if array is None else f"shape {array.shape}, {array._data.dtype}"
        raise ShapeError(f"shared_exec: {what} {name}: got {got}; need shape {shape}, {dtype}")
    return array


def _solve_variables(
    symbol: Symbol, shapes: Mapping[str, PartialShape], dtypes: Mapping[str, DType]
) -> dict[str, tuple[Shape, DType]]:
    found = Shapes(symbol.heads, shapes)
    types = DTypes(symbol.heads, dtypes)
    undecided = {
        node.name: np.dtype(np.float32) for node in types.arguments if types.of_variables([node])[0] is None
    }
    if undecided:
        types = DTypes(symbol.heads, {**undecided, **dtypes})
    solved: dict[str, tuple[Shape, DType]] = {}
    nodes = (*found.arguments, *found.auxiliaries)
    type_nodes = (*types.arguments, *types.auxiliaries)
    if found.unknown_variables():
        listed = ", ".join(
            f"{node.name}: {to_outer(found.of_variables([node])[0])}" for node in found.unknown_variables()
        )
        raise ShapeError(f"the shape of these inputs cannot be told: {listed}")
    for node, shape, dtype in zip(nodes, found.of_variables(nodes), types.of_variables(type_nodes)):
        if dtype is None:
            raise ShapeError(f"the type of {node.name} cannot be told; name it in type_dict")
        solved[node.name] = (_whole("simple_bind", node.name, shape), dtype)
    return solved


def _whole(where: str, name: str, shape: PartialShape) -> Shape:
    known = tuple(size for size in shape or () if size is not None)
    if shape is None or len(known) != len(shape):
        raise MXNetError(f"{where}: {name}: got shape {to_outer(shape)}; need every size")
    return known


def _shapes_by_name(where: str, given: Mapping[str, Any], names: Iterable[str]) -> dict[str, PartialShape]:
    known = set(names)
    shapes = {}
    for name, shape in given.items():
        if name not in known:
            raise MXNetError(f"{where}: got {name}; the inputs are {', '.join(sorted(known))}")
        if not isinstance(shape, tuple):
            raise MXNetError(f"{where}: {name}: got {type(shape).__name__}; need a tuple")
        shapes[name] = to_inner(shape, f"{where}: {name}")
    return shapes


def _zeros(shape: Shape, dtype: DType) -> Array:
    try:
        return np.zeros(shape, dtype)
    except (MemoryError, ValueError):
        raise OutOfMemoryError(f"bind: shape {shape} of {dtype} does not fit in memory") from None


def _resized(array: NDArray, shape: Shape) -> NDArray:
    """Return the array itself, its first elements in another shape, or a new array where it is too small."""
    if array.shape == shape:
        return array
    data = array._data
    if data.size < prod(shape) or not data.flags.c_contiguous:
        return NDArray(_zeros(shape, data.dtype), array.context)
    return NDArray(data.reshape(-1)[: prod(shape)].reshape(shape), array.context)


def _by_position(what: str, given: Any, names: Sequence[str], optional: bool = False) -> list[NDArray | None]:
    if isinstance(given, list):
        if len(given) != len(names):
            raise ValueError(f"bind: {what}: got {len(given)} arrays; need {len(names)}: {', '.join(names)}")
        arrays = list(given)
    elif isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing and not optional:
            raise ValueError(f"bind: {what}: {', '.join(missing)}: missing; need {', '.join(names)}")
        arrays = [given.get(name) for name in names]
    else:
        raise TypeError(f"bind: {what}: got {type(given).__name__}; need a list or dict of NDArrays")
    for name, array in zip(names, arrays):
        if not isinstance(array, NDArray) and not (optional and array is None):
            raise TypeError(f"bind: {what}: {name}: got {type(array).__name__}; need an NDArray")
    return arrays


def _grad_reqs(where: str, given: Any, names: Sequence[str]) -> list[str]:
    if given is None or isinstance(given, str):
        reqs = [given or "null"] * len(names)
    elif isinstance(given, (list, tuple)):
        if len(given) != len(names):
            raise ValueError(f"{where}: grad_req: got {len(given)} entries; need {len(names)}: {', '.join(names)}")
        reqs = list(given)
    elif isinstance(given, Mapping):
        reqs = [given.get(name, "null") for name in names]
    else:
        raise ParameterError(f"{where}: grad_req: got {type(given).__name__}; need text, a list or a dict")
    for req in reqs:
        if req not in _GRAD_REQS:
            raise ValueError(f"{where}: grad_req: got {req!r}; need one of {', '.join(_GRAD_REQS)}")
    return reqs
