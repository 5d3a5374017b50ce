"""`NDArray`, MXNet's array, over NumPy memory, and `invoke`, which runs operators on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tconv.context import CPU, Context, usable
from tconv.dtypes import DType, as_dtype, to_code
from tconv.errors import (
    ArrayIndexError,
    DTypeError,
    MXNetError,
    OutOfMemoryError,
    ParameterError,
    ShapeError,
)
from tconv.geometry import Shape
from tconv.ndarray import tape
from tconv.ndarray.indexing import Key, covers, expand, slice_texts
from tconv.operators.registry import Array, Call, Operator, find, solve
from tconv.operators.tensor import reshaped

_PINNED = Context("cpu_pinned").device_typeid
_NO_PARAMS: dict[str, str] = {}


def supported(dtype: Any, where: str) -> DType:
    """Return `dtype` as a NumPy type that arrays may have.

    Raises
    ------
    DTypeError
        If MXNet has no such type.
    """
    found = as_dtype(dtype, where)
    try:
        to_code(found)
    except DTypeError:
        raise DTypeError(
            f"{where}: got {found}; need float32, float64, float16, bfloat16, uint8, int32, int8, int64 or bool"
        ) from None
    return found


class NDArray:
    """An array on the CPU.

    Parameters
    ----------
    array : ndarray
        The memory, which is shared, not copied; only a foreign byte order is converted. `mx.nd.array` copies.
    ctx : Context, optional
        Where the array says it is; the current context by default.

    Raises
    ------
    DTypeError
        If `array` is no NumPy array or of a type that MXNet does not have.

    Examples
    --------
    >>> import numpy as np
    >>> import tconv as mx
    >>> memory = np.zeros((2, 3), np.float32)
    >>> x = mx.nd.NDArray(memory)
    >>> x[0] = 7
    >>> memory
    array([[7., 7., 7.],
           [0., 0., 0.]], dtype=float32)
    >>> x + 1
    <BLANKLINE>
    [[8. 8. 8.]
     [1. 1. 1.]]
    <NDArray 2x3 @cpu(0)>
    """

    __slots__ = ("__weakref__", "_ctx", "_data", "_index", "_node")

    __array_priority__ = 1000.0

    _data: Array
    _ctx: Context
    _node: tape.Node | None
    _index: int

    if TYPE_CHECKING:
        # The methods of the tables in `functions` and `arithmetic`.
        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any) -> NDArray: ...
        def __sub__(self, other: Any) -> NDArray: ...
        def __mul__(self, other: Any) -> NDArray: ...
        def __truediv__(self, other: Any) -> NDArray: ...
        def __mod__(self, other: Any) -> NDArray: ...
        def __pow__(self, other: Any) -> NDArray: ...
        def __radd__(self, other: Any) -> NDArray: ...
        def __rsub__(self, other: Any) -> NDArray: ...
        def __rmul__(self, other: Any) -> NDArray: ...
        def __rtruediv__(self, other: Any) -> NDArray: ...
        def __rmod__(self, other: Any) -> NDArray: ...
        def __rpow__(self, other: Any) -> NDArray: ...
        def __iadd__(self, other: Any) -> NDArray: ...
        def __isub__(self, other: Any) -> NDArray: ...
        def __imul__(self, other: Any) -> NDArray: ...
        def __itruediv__(self, other: Any) -> NDArray: ...
        def __imod__(self, other: Any) -> NDArray: ...
        def __neg__(self) -> NDArray: ...
        def __abs__(self) -> NDArray: ...
        def __eq__(self, other: object) -> Any: ...
        def __ne__(self, other: object) -> Any: ...
        def __lt__(self, other: Any) -> NDArray: ...
        def __le__(self, other: Any) -> NDArray: ...
        def __gt__(self, other: Any) -> NDArray: ...
        def __ge__(self, other: Any) -> NDArray: ...

    def __init__(self, array: Array, ctx: Context | None = None) -> None:
        if not isinstance(array, np.ndarray):
            raise DTypeError(f"NDArray: array: got {type(array).__name__}; need a NumPy array")
        dtype = supported(array.dtype, "NDArray: array")
        self._data = array if array.dtype.isnative else array.astype(dtype)
        self._ctx = usable(ctx)
        self._node = None
        self._index = 0

    # What it is.

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        shape: Shape = self._data.shape
        return shape

    @property
    def dtype(self) -> Any:
        """Element type, as the NumPy scalar type: `numpy.float32`."""
        return self._data.dtype.type

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._data.size

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._data.ndim

    @property
    def context(self) -> Context:
        """Where the array is."""
        return self._ctx

    ctx = context

    @property
    def stype(self) -> str:
        """How the array is stored: `default`, as there are no sparse arrays here."""
        return "default"

    @property
    def writable(self) -> bool:
        """Whether the array may be written into."""
        return self._data.flags.writeable

    @property
    def T(self) -> NDArray:  # noqa: N802
        """The array with its axes in reverse order; itself if it has fewer than two."""
        return self if self.ndim < 2 else call("transpose", self)

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.shape)
        return f"\n{self._data}\n<{type(self).__name__} {shape} @{self._ctx}>"

    def __hash__(self) -> int:
        return id(self) // 16

    def __len__(self) -> int:
        if not self.shape:
            raise DTypeError("NDArray: len: got an array without axes; need one axis at least")
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray]:
        return (self[index] for index in range(len(self)))

    def __bool__(self) -> bool:
        if self.size > 1:
            raise ParameterError(f"NDArray: bool: got an array of {self.size} elements; its truth is ambiguous")
        return bool(self.size and self._data.item())

    def __float__(self) -> float:
        return float(self.asscalar())

    def __int__(self) -> int:
        return int(self.asscalar())

    def __index__(self) -> int:
        if self._data.dtype.kind not in "iu":
            raise DTypeError(f"NDArray: index: got an array of {self._data.dtype}; need one integer")
        return int(self.asscalar())

    # NumPy and other libraries.

    def asnumpy(self) -> Array:
        """Return a copy as a NumPy array; `numpy.asarray` shares the memory instead."""
        copied: Array = self._data.copy()
        return copied

    def asscalar(self) -> Any:
        """Return the only element.

        Raises
        ------
        ShapeError
            If there are more or none.
        """
        if self.size != 1:
            raise ShapeError(f"NDArray: asscalar: got shape {self.shape}; need a single element")
        return self._data.reshape(1)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if dtype is None or np.dtype(dtype) == self._data.dtype:
            return self._data.copy() if copy else self._data
        if copy is False:
            raise ParameterError(f"NDArray: copy: got False with type {dtype}; need a copy to convert")
        return self._data.astype(dtype)

    def __buffer__(self, flags: int) -> memoryview:
        return self._data.data

    def __dlpack__(self, **options: Any) -> Any:
        return self._data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._data.__dlpack_device__()

    def to_dlpack_for_read(self) -> Any:
        """Return a DLPack capsule of the memory."""
        try:
            return self._data.__dlpack__()
        except BufferError as error:
            raise DTypeError(f"NDArray: to_dlpack_for_read: {error}") from None

    def to_dlpack_for_write(self) -> Any:
        """Return a DLPack capsule of the memory.

        Raises
        ------
        ParameterError
            If the array is read-only.
        """
        self._check_writable()
        return self.to_dlpack_for_read()

    def __reduce__(self) -> Any:
        return NDArray, (self._data, self._ctx)

    def __copy__(self) -> NDArray:
        return wrap(self._data.copy(), self._ctx)

    def __deepcopy__(self, memo: dict[int, Any]) -> NDArray:
        return self.__copy__()

    # Copies.

    def copy(self) -> NDArray:
        """Return a copy."""
        return self.copyto(self._ctx)

    def copyto(self, other: NDArray | Context) -> NDArray:
        """Copy into another array, converting to its type, or to a context.

        Returns
        -------
        NDArray
            `other`, or a new array in that context.

        Raises
        ------
        ShapeError
            If `other` has another shape.
        DTypeError
            If `other` is neither.
        """
        if isinstance(other, NDArray):
            if other is self:
                warnings.warn("copyto: got the array itself; nothing to copy", RuntimeWarning, stacklevel=2)
                return other
            if other.shape != self.shape:
                raise ShapeError(f"copyto: other: got shape {other.shape}; need {self.shape}")
            if self.size:
                other._write((), self)
            return other
        if not isinstance(other, Context):
            raise DTypeError(f"copyto: other: got {type(other).__name__}; need an NDArray or a context")
        ctx = usable(other)
        copied: NDArray = call("_copy", self)
        copied._ctx = ctx
        return copied

    def astype(self, dtype: Any, copy: bool = True) -> NDArray:
        """Return the array in another element type.

        Parameters
        ----------
        dtype : dtype, type or str
            The wanted type.
        copy : bool
            Whether to copy if the type is that already.
        """
        wanted = supported(dtype, "astype: dtype")
        if not copy and wanted == self._data.dtype:
            return self
        cast: NDArray = call("Cast", self, dtype=wanted.name)
        return cast

    def as_in_context(self, context: Context) -> NDArray:
        """Return the array itself if it is in `context`, else a copy there."""
        return self if context == self._ctx else self.copyto(context)

    as_in_ctx = as_in_context

    def as_nd_ndarray(self) -> NDArray:
        """Return the array itself."""
        return self

    def tostype(self, stype: str) -> NDArray:
        """Return a copy stored in another way, of which there is only `default`.

        Raises
        ------
        MXNetError
            If `stype` is sparse.
        """
        check_dense(stype, "tostype")
        return self.copy()

    def wait_to_read(self) -> None:
        """Return at once, as an array is computed by the time it is returned."""

    wait_to_write = wait_to_read

    # Shapes.

    def reshape(self, *shape: Any, **kwargs: Any) -> NDArray:
        """Return an array of another shape over the same memory.

        Parameters
        ----------
        *shape : int, or one tuple
            The sizes; 0 keeps a size, -1 is what remains, -2 keeps all that follow, -3 merges two, -4 splits one
            into the two that follow.
        reverse : bool
            Whether these codes are read from the last axis to the first.

        Raises
        ------
        ShapeError
            If the elements do not fit.
        """
        if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
            shape = tuple(shape[0])
        elif not shape:
            given = kwargs.pop("shape", None)
            if given is None:
                raise ParameterError("reshape: shape: missing; need the wanted sizes")
            shape = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        reverse = bool(kwargs.pop("reverse", False))
        if kwargs:
            raise ParameterError(f"reshape: {next(iter(kwargs))}: unknown argument; need shape and reverse")
        return self._reshaped(whole_sizes("reshape", shape, negative=True), reverse)

    def _reshaped(self, codes: Shape, reverse: bool = False) -> NDArray:
        sizes = reshaped("reshape", self.shape, codes, reverse)
        assert sizes is not None
        return self._viewed(tuple([size or 0 for size in sizes]), shape=codes, reverse=reverse)

    def _viewed(self, sizes: Shape, **recorded: Any) -> NDArray:
        """Return the memory in a shape that fits; on the tape it is a `Reshape` with the parameters `recorded`."""
        view = wrap(self._data.reshape(sizes), self._ctx)
        if tape.will_record([self]):
            operator = find("Reshape")
            tape.record_operator(operator, parameters(operator, **(recorded or {"shape": sizes})), [self], [view])
        return view

    def flatten(self, inplace: bool = False) -> NDArray:
        """Return the array with all axes but the first made one; `inplace` shares the memory."""
        flat: NDArray = self._reshaped((0, -1)) if inplace else call("Flatten", self)
        return flat

    def expand_dims(self, axis: int, inplace: bool = False) -> NDArray:
        """Return the array with a new axis of size 1 at `axis`; `inplace` shares the memory."""
        operator = find("expand_dims")
        params = operator.params.parse({"axis": str(axis)})
        if not inplace:
            expanded: NDArray = invoke(operator, params, [self])
            return expanded
        ((shape, _),) = solve(operator, params, (self.shape,), (self._data.dtype,))
        return self._viewed(shape)

    def squeeze(self, axis: int | tuple[int, ...] | None = None, inplace: bool = False) -> NDArray:
        """Return the array without axes of size 1; `inplace` shares the memory."""
        operator = find("squeeze")
        params = operator.params.parse({} if axis is None else {"axis": str(axis)})
        if not inplace:
            squeezed: NDArray = invoke(operator, params, [self])
            return squeezed
        ((shape, _),) = solve(operator, params, (self.shape,), (self._data.dtype,))
        return self._viewed(shape)

    def broadcast_to(self, shape: int | tuple[int, ...]) -> NDArray:
        """Return the array repeated along axes of size 1, and along new ones in front, to `shape`."""
        sizes = whole_sizes("broadcast_to", shape if isinstance(shape, (tuple, list)) else (shape,))
        missing = len(sizes) - self.ndim
        # The operator keeps a size where 0 is asked for, so it takes what cannot be broadcast for itself.
        array = self._viewed((1,) * missing + self.shape) if missing > 0 else self
        repeated: NDArray = call("broadcast_to", array, shape=sizes)
        return repeated

    def broadcast_like(self, other: NDArray) -> NDArray:
        """Return the array repeated along axes of size 1 to the shape of `other`."""
        return self.broadcast_to(other.shape)

    # Indices.

    def __getitem__(self, key: Any) -> NDArray:
        if type(key) is slice and key == slice(None):
            return self
        if type(key) is tuple and not key:
            return self
        if type(key) is int and not tape.state.recording and (data := self._data).flags.c_contiguous:
            # The way of loops: what an int takes from an array in C order is a view in C order.
            size = data.shape[0] if data.shape else 0
            if -size <= key < size:
                at = key % size
                return wrap(data[at] if data.ndim > 1 else data[at : at + 1], self._ctx)
        places, basic = expand(key, self.shape)
        if not basic:
            return self._take_places(places)
        # With the Ellipsis NumPy gives a view even of a single element.
        dotted = (*places, ...)
        part = self._data[dotted]
        view = part if part.flags.c_contiguous else part.copy()
        if not view.shape:
            view = view.reshape(1)
        taken = wrap(view, self._ctx)
        if tape.will_record([self]):
            self._record_part(places, taken)
        return taken

    def _record_part(self, places: Key, taken: NDArray) -> None:
        operator = find("slice")
        key = [one for one in places if isinstance(one, (int, slice))]
        texts = slice_texts(key)
        sizes = [1 if isinstance(one, int) else len(range(*one.indices(n))) for one, n in zip(key, self.shape)]
        block = wrap(taken._data.reshape(sizes), self._ctx)
        tape.record_operator(operator, operator.params.parse(texts), [self], [block])
        operator = find("Reshape")
        tape.record_operator(operator, parameters(operator, shape=taken.shape), [block], [taken])

    def _take_places(self, places: Any) -> NDArray:
        try:
            taken = wrap(np.ascontiguousarray(self._data[places]), self._ctx)
        except IndexError as error:
            raise ArrayIndexError(f"NDArray: index: {error}") from None
        shape, dtype = self.shape, self._data.dtype

        def backward(out_grads: list[Array]) -> list[Array | None]:
            gradient = np.zeros(shape, dtype)
            np.add.at(gradient, places, out_grads[0])
            return [gradient]

        tape.record([self], [taken], backward)
        return taken

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is slice and key == slice(None):
            key = ()
        places, _ = expand(key, self.shape)
        if self.size:
            self._write(places, value)

    def _write(self, places: Key, value: Any) -> None:
        self._check_writable()
        tape.check_writable_in_place(self)
        if isinstance(value, NDArray) and tape.state.recording and tape.source(value) is not None:
            self._write_recorded(places, value)
            return
        source = value._data if isinstance(value, NDArray) else _assignable(value)
        if source.size == 1:
            source = source.reshape(())
        try:
            with np.errstate(all="ignore"):
                self._data[places] = source
        except IndexError as error:
            raise ArrayIndexError(f"NDArray: index: {error}") from None
        except ValueError:
            target = self._data[places].shape
            raise ShapeError(f"NDArray: assignment: got shape {source.shape}; need {target}") from None

    def _write_recorded(self, places: Key, value: NDArray) -> None:
        if not covers(places, self.shape):
            raise MXNetError(
                "NDArray: got an assignment of a recorded array to a part of another; record whole arrays only"
            )
        if value.ndim > self.ndim and value.size == self.size:
            value = value._viewed(self.shape)
        if value.shape != self.shape:
            value = value.broadcast_to(self.shape)
        invoke(find("Cast"), find("Cast").params.parse({"dtype": self._data.dtype.name}), [value], out=self)

    def _check_writable(self) -> None:
        if not self._data.flags.writeable:
            raise ParameterError("NDArray: got a read-only array; need one that can be written into")

    # Gradients.

    def attach_grad(self, grad_req: str = "write", stype: str | None = None) -> None:
        """Give the array a gradient, of zeros, that `backward` writes, and cut it off the graph it came from.

        Parameters
        ----------
        grad_req : str
            `write`, `add` to what is there, or `null`.
        stype : str, optional
            Storage of the gradient: `default`.
        """
        check_dense(stype, "attach_grad")
        self._mark(wrap(np.zeros(self.shape, self._data.dtype), self._ctx), grad_req)

    def _mark(self, gradient: NDArray, grad_req: str) -> None:
        if grad_req not in tape.GRAD_REQS:
            raise ParameterError(f"NDArray: grad_req: got {grad_req!r}; need one of {', '.join(tape.GRAD_REQS)}")
        if gradient.shape != self.shape:
            raise ShapeError(f"NDArray: gradient: got shape {gradient.shape}; need {self.shape}")
        gradient._check_writable()
        self._node, self._index = tape.Leaf(gradient, grad_req), 0

    @property
    def grad(self) -> NDArray | None:
        """The gradient, or None without `attach_grad`."""
        return self._node.grad if isinstance(self._node, tape.Leaf) else None

    @property
    def _fresh_grad(self) -> bool:
        """Whether `backward` has written the gradient since this was last set to False."""
        return isinstance(self._node, tape.Leaf) and self._node.fresh

    @_fresh_grad.setter
    def _fresh_grad(self, fresh: bool) -> None:
        if isinstance(self._node, tape.Leaf):
            self._node.fresh = fresh

    def detach(self) -> NDArray:
        """Return an array over the same memory that is in no graph."""
        return wrap(self._data, self._ctx)

    def backward(
        self, out_grad: NDArray | None = None, retain_graph: bool = False, train_mode: bool = True
    ) -> None:
        """Compute the gradients of all arrays with `attach_grad` that this one came from.

        Parameters
        ----------
        out_grad : NDArray, optional
            Gradient of this array; ones by default.
        retain_graph : bool
            Whether the graph is kept, to go back over it again.
        train_mode : bool
            Whether operators are told that this is training.

        Raises
        ------
        MXNetError
            If this array is in no graph.

        Examples
        --------
        >>> import tconv as mx
        >>> x = mx.nd.array([1, 2, 3])
        >>> x.attach_grad()
        >>> with mx.autograd.record():
        ...     y = x * x
        >>> y.backward()
        >>> x.grad
        <BLANKLINE>
        [2. 4. 6.]
        <NDArray 3 @cpu(0)>
        """
        tape.backward([self], [out_grad], retain_graph=retain_graph, is_train=train_mode)


def wrap(data: Array, ctx: Context) -> NDArray:
    """Return an array over `data`, which is known to be fit."""
    array = NDArray.__new__(NDArray)
    array._data = data
    array._ctx = ctx
    array._node = None
    array._index = 0
    return array


def check_dense(stype: str | None, where: str) -> None:
    """Raise MXNetError if `stype` asks for a sparse array."""
    if stype not in (None, "default"):
        raise MXNetError(f"{where}: stype: got {stype!r}; there are no sparse arrays here, need 'default'")


def whole_sizes(where: str, sizes: Sequence[Any], negative: bool = False) -> Shape:
    """Return sizes as ints.

    Raises
    ------
    DTypeError
        If one is no int.
    ShapeError
        If one is negative and that means nothing.
    """
    for size in sizes:
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool):
            raise DTypeError(f"{where}: shape: got {size!r}; need ints")
        if size < 0 and not negative:
            raise ShapeError(f"{where}: shape: got {tuple(sizes)}; no size may be negative")
    return tuple([int(size) for size in sizes])


def _assignable(value: Any) -> Array:
    try:
        array = np.asarray(value)
        if array.dtype.kind in "OUS":
            array = array.astype(np.float64)
        supported(array.dtype, "NDArray: assignment") if array.dtype.kind not in "iu" else None
    except (TypeError, ValueError):
        raise DTypeError(f"NDArray: assignment: got {type(value).__name__}; need numbers or an array") from None
    return array


def parameters(operator: Operator, **values: Any) -> Any:
    """Return parameters of an operator that are known to be fit."""
    params: Any = operator.params
    return params(**values)


def call(name: str, *inputs: NDArray, **params: Any) -> Any:
    """Run the operator `name` with parameters spelt as a user would."""
    operator = find(name)
    texts = {key: str(value) for key, value in params.items()} if params else _NO_PARAMS
    return invoke(operator, operator.params.parse(texts), inputs)


def invoke(
    operator: Operator,
    params: Any,
    inputs: Sequence[NDArray],
    out: NDArray | list[NDArray] | tuple[NDArray, ...] | None = None,
) -> Any:
    """Run an operator, and record it if this thread records.

    Parameters
    ----------
    operator : Operator
        What to run.
    params : Params
        Its parameters.
    inputs : sequence of NDArray
        Its inputs, all of them.
    out : NDArray or list of NDArray, optional
        Where the visible outputs go. They may be inputs too.

    Returns
    -------
    NDArray or list of NDArray
        The visible outputs: `out` if that is given, else one array or, of an operator with several, a list.

    Raises
    ------
    MXNetError
        If the inputs do not fit, or `out` does not; all arrays are as before then.
    """
    arrays = [x._data for x in inputs]
    solved = solve(operator, params, tuple([a.shape for a in arrays]), tuple([a.dtype for a in arrays]))
    visible = len(solved) if operator.visible is None else operator.visible_outputs(params)
    state = tape.state
    if out is None:
        results = _forward(operator, Call(params, state.training), arrays, visible)
        ctx = inputs[0]._ctx if inputs else CPU
        if ctx.device_typeid == _PINNED:
            ctx = CPU
        outputs = [wrap(result, ctx) for result in results[:visible]]
    else:
        outputs = list(out) if isinstance(out, (list, tuple)) else [out]
        _check_outputs(operator, outputs, solved[:visible])
        if tape.will_record(inputs) and any(np.may_share_memory(y._data, x) for y in outputs for x in arrays):
            raise MXNetError(
                f"{operator.name}: out: got an input of a recorded call; it cannot be changed in place"
            )
        first = outputs[0]._data
        # Operators may write over an input element by element, but know nothing of shifted memory.
        shifted = any(x is not first and np.may_share_memory(x, first) for x in arrays)
        results = _forward(operator, Call(params, state.training, None if shifted else first), arrays, 0)
        for target, result in zip(outputs, results):
            if result is not target._data:
                target._data[...] = result
    if state.recording:
        tape.record_operator(operator, params, inputs, outputs, results[visible:])
    if out is not None:
        return out
    return outputs[0] if visible == 1 else outputs


def _forward(operator: Operator, call: Call, arrays: Sequence[Array], own: int) -> list[Array]:
    """Return the outputs, the first `own` of them as arrays of their own, in C order."""
    try:
        results = list(operator.forward(call, arrays))
        for at, result in enumerate(results[:own]):
            if operator.view or not result.flags.c_contiguous:
                results[at] = result.copy()
    except MemoryError as error:
        raise OutOfMemoryError(f"{operator.name}: {error}") from None
    return results


def _check_outputs(operator: Operator, outputs: Sequence[Any], solved: Sequence[tuple[Shape, DType]]) -> None:
    if len(outputs) != len(solved):
        raise ParameterError(f"{operator.name}: out: got {len(outputs)} arrays; need {len(solved)}")
    for target, (shape, dtype) in zip(outputs, solved):
        if not isinstance(target, NDArray):
            raise DTypeError(f"{operator.name}: out: got {type(target).__name__}; need an NDArray")
        if target.shape != shape:
            raise ShapeError(f"{operator.name}: out: got shape {target.shape}; need {shape}")
        if target._data.dtype != dtype:
            raise DTypeError(f"{operator.name}: out: got {target._data.dtype}; need {dtype}")
        target._check_writable()
        tape.check_writable_in_place(target)
