"""Symbols: heads of a graph with names, attributes, inference, files and executors (`mx.sym.Symbol`)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Number
from os import PathLike
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tconv.attribute import AttrScope
from tconv.context import Context, current_context
from tconv.dtypes import as_dtype, to_code
from tconv.errors import MXNetError, ParameterError
from tconv.formats import symbol_json
from tconv.formats.symbol_json import HIDDEN_KEYS
from tconv.geometry import Shape
from tconv.name import NameManager
from tconv.operators.registry import Operator, find
from tconv.params import to_text
from tconv.symbol import executor, inference
from tconv.symbol.executor import Executor
from tconv.symbol.node import (
    Entry,
    Node,
    copied,
    from_record,
    is_hidden,
    joined,
    loaded_input_attrs,
    loaded_input_names,
    parse_params,
    to_record,
    variables,
    walk,
    wanted_inputs,
    without,
)

if TYPE_CHECKING:
    from tconv.ndarray import NDArray

_STORAGE_TYPES = {"undefined": -1, "default": 0, "row_sparse": 1, "csr": 2}


class NotImplementedForSymbol(MXNetError):  # noqa: N818
    """Something that arrays do and symbols cannot."""


class Symbol:
    """A node of a graph, or a group of outputs of nodes: something to be computed once its variables are bound.

    Symbols are made by `mx.sym.var`, by the operators of `mx.sym`, by arithmetic, and by `mx.sym.load`.

    Attributes
    ----------
    heads : tuple of Entry
        The outputs, as entries of the graph.

    Examples
    --------
    >>> import tconv as mx
    >>> up = mx.sym.Deconvolution(kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=8, name="up")
    >>> up.list_arguments(), up.list_outputs()
    (['up_data', 'up_weight'], ['up_output'])
    >>> up.infer_shape(up_data=(1, 3, 10, 10))
    ([(1, 3, 10, 10), (3, 8, 4, 4)], [(1, 8, 20, 20)], [])
    """

    __slots__ = ("__weakref__", "heads")

    # NumPy's scalars and arrays leave arithmetic with a symbol to the symbol.
    __array_ufunc__ = None
    __array_priority__ = 1000.0
    __hash__ = None  # type: ignore[assignment]

    heads: tuple[Entry, ...]

    @classmethod
    def of(cls, heads: Iterable[Entry]) -> Symbol:
        """Return the symbol of some entries."""
        symbol = cls.__new__(cls)
        symbol.heads = tuple(heads)
        return symbol

    def __repr__(self) -> str:
        if self.name is not None:
            return f"<{type(self).__name__} {self.name}>"
        return f"<{type(self).__name__} group [{', '.join(head.node.name for head in self.heads)}]>"

    def __len__(self) -> int:
        return len(self.heads)

    def __iter__(self) -> Iterator[Symbol]:
        return (Symbol.of([head]) for head in self.heads)

    def __getitem__(self, index: int | str | slice) -> Symbol:
        """Return an output by number or name, or a group of several by slice.

        Raises
        ------
        IndexError
            If there is no output of that number.
        MXNetError
            If the number is negative.
        ValueError
            If there is no output of that name, or more than one.
        TypeError
            If `index` is something else, or the slice is empty.
        """
        if isinstance(index, slice):
            start, stop, step = (index.start or 0, index.stop, index.step or 1)
            return Group([self[place] for place in range(start, len(self) if stop is None else stop, step)])
        if isinstance(index, str):
            places = [place for place, name in enumerate(self.list_outputs()) if name == index]
            if len(places) != 1:
                raise ValueError(f"symbol: {len(places) or 'no'} outputs are called {index!r}")
            index = places[0]
        if not isinstance(index, int):
            raise TypeError(f"symbol: index: got {type(index).__name__}; need an int, a name or a slice")
        if index < 0:
            raise MXNetError(f"symbol: index: got {index}; it may not be negative")
        if index >= len(self):
            raise IndexError(f"symbol: index: got {index}; there are {len(self)} outputs")
        return Symbol.of([self.heads[index]])

    @property
    def _single(self) -> Node | None:
        """The node, unless the outputs belong to several."""
        node = self.heads[0].node
        return node if all(head.node is node for head in self.heads) else None

    @property
    def name(self) -> str | None:
        """The name of the node; None for a group of several nodes."""
        node = self._single
        return None if node is None else node.name

    def attr(self, key: str) -> str | None:
        """Return an attribute of the node as it was spelt; None if it has none or this is a group."""
        node = self._single
        if node is None:
            return None
        if key == "name":
            return node.name
        return _shown(node.attrs).get(key)

    def list_attr(self, recursive: bool = False) -> dict[str, str]:
        """Return the attributes of the node, of the first one for a group.

        Raises
        ------
        DeprecationWarning
            If `recursive` is set; `attr_dict` does that.
        """
        if recursive:
            raise DeprecationWarning("list_attr: recursive: got True; use attr_dict")
        return _shown(self.heads[0].node.attrs)

    def attr_dict(self) -> dict[str, dict[str, str]]:
        """Return the attributes of every node that has any, by name of the node."""
        found: dict[str, dict[str, str]] = {}
        for node in walk(self.heads):
            if node.attrs:
                found.setdefault(node.name, {}).update(_shown(node.attrs))
        return found

    def _set_attr(self, **kwargs: str) -> None:
        """Set attributes of the node; parameters of an operator stay what they were parsed to.

        Raises
        ------
        ValueError
            If a value is not text.
        MXNetError
            If this is a group of several nodes, or a key speaks of a parameter's multiplier.
        """
        for key, value in kwargs.items():
            if not isinstance(value, str):
                raise ValueError(f"attr: {key}: got {type(value).__name__}; need text")
        node = self._single
        if node is None:
            raise MXNetError("attr: got a group; attributes belong to one node")
        node.attrs.update({_attribute_key(key, exact=True): value for key, value in kwargs.items()})

    def list_arguments(self) -> list[str]:
        """Return the names of the variables below, without auxiliary states."""
        return [node.name for node in variables(walk(self.heads))[0]]

    def list_auxiliary_states(self) -> list[str]:
        """Return the names of the variables that operators change in place."""
        return [node.name for node in variables(walk(self.heads))[1]]

    def list_inputs(self) -> list[str]:
        """Return the names of all variables below, in the order of the graph."""
        return [node.name for node in walk(self.heads) if node.operator is None]

    def list_outputs(self) -> list[str]:
        """Return the names of the outputs."""
        return [head.name for head in self.heads]

    def get_internals(self) -> Symbol:
        """Return the group of the outputs of all nodes below, variables included."""
        return Symbol.of(
            Entry(node, index, node.changes if node.operator is None else 0)
            for node in walk(self.heads)
            for index in range(node.visible_outputs)
        )

    def get_children(self) -> Symbol | None:
        """Return the group of the inputs of the nodes, or None if there are none."""
        nodes = dict.fromkeys(head.node for head in self.heads)
        entries = [entry for node in nodes for entry in node.inputs]
        return Symbol.of(entries) if entries else None

    def __call__(self, *args: Symbol, **kwargs: Any) -> Symbol:
        """Return a copy whose variables are replaced by other symbols.

        Parameters
        ----------
        **kwargs : Symbol
            What stands for the variable of each name; `name` is the new name of the node.

        Raises
        ------
        TypeError
            If something is no symbol, or there are positional and keyword arguments.
        MXNetError
            If no variable has a name, arguments are positional, or a symbol has several outputs.

        Examples
        --------
        >>> import tconv as mx
        >>> net = mx.sym.relu(mx.sym.var("x"), name="net")
        >>> net(x=mx.sym.var("y") + 1, name="other").list_arguments()
        ['y']
        """
        composed = copy.copy(self)
        composed._compose(*args, **kwargs)
        return composed

    def _compose(self, *args: Symbol, name: str | None = None, **kwargs: Symbol) -> None:
        """Replace variables of this symbol itself; see `__call__`."""
        if args and kwargs:
            raise TypeError("compose: got symbols by position and by name; need one or the other")
        for value in (*args, *kwargs.values()):
            if not isinstance(value, Symbol):
                raise TypeError(f"compose: got {type(value).__name__}; need a Symbol")
        if args:
            raise MXNetError("compose: got symbols by position; name the variable each one stands for")
        order = walk(self.heads)
        free = {entry.node.name for node in order for entry in node.inputs if entry.node.operator is None}
        unknown = [key for key in kwargs if key not in free]
        if unknown:
            raise MXNetError(f"compose: got {', '.join(unknown)}; the variables are {', '.join(sorted(free))}")
        entries = {key: _one_entry("compose", key, value) for key, value in kwargs.items()}
        for node in order:
            replaced = [
                entries.get(entry.node.name, entry) if entry.node.operator is None else entry
                for entry in node.inputs
            ]
            if any(new is not old for new, old in zip(replaced, node.inputs)):
                node.connect(replaced)
        if name:
            self.heads[0].node.name = name

    def __copy__(self) -> Symbol:
        return type(self).of(copied(self.heads))

    def __deepcopy__(self, memo: object) -> Symbol:
        return copy.copy(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self.tojson(remove_amp_cast=False))

    def infer_shape(
        self, *args: Any, **kwargs: Any
    ) -> tuple[list[Shape] | None, list[Shape] | None, list[Shape] | None]:
        """Infer all shapes from some.

        Parameters
        ----------
        *args, **kwargs : tuple of int
            Shapes of arguments, in their order or by name; 0 and -1 are unknown sizes, () is unknown.

        Returns
        -------
        arg_shapes, out_shapes, aux_shapes : list of tuple of int, or None
            All None, with a warning, if a shape stays unknown.

        Raises
        ------
        MXNetError
            If shapes do not fit together, or there is no argument of a name.

        Examples
        --------
        >>> import tconv as mx
        >>> x = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=3, name="fc")
        >>> x.infer_shape(data=(2, 5))
        ([(2, 5), (3, 5), (3,)], [(2, 3)], [])
        """
        return inference.infer_shape(self.heads, False, args, kwargs)

    def infer_shape_partial(
        self, *args: Any, **kwargs: Any
    ) -> tuple[list[Shape] | None, list[Shape] | None, list[Shape] | None]:
        """Infer what can be told; unknown sizes are 0 and unknown shapes (). See `infer_shape`."""
        return inference.infer_shape(self.heads, True, args, kwargs)

    def infer_type(self, *args: Any, **kwargs: Any) -> tuple[list[Any] | None, list[Any] | None, list[Any] | None]:
        """Infer all element types from some; as `infer_shape`.

        Examples
        --------
        >>> import tconv as mx
        >>> args, outputs, aux = mx.sym.relu(mx.sym.var("x")).infer_type(x="float64")
        >>> outputs[0].__name__
        'float64'
        """
        return inference.infer_type(self.heads, False, args, kwargs)

    def infer_type_partial(
        self, *args: Any, **kwargs: Any
    ) -> tuple[list[Any] | None, list[Any] | None, list[Any] | None]:
        """Infer what can be told; unknown types are None. See `infer_type`."""
        return inference.infer_type(self.heads, True, args, kwargs)

    def tojson(self, remove_amp_cast: bool = True) -> str:
        """Return the graph as JSON, as MXNet 1.9.1 writes it.

        Parameters
        ----------
        remove_amp_cast : bool
            Whether to leave out the casts of mixed precision.
        """
        return symbol_json.render(self._record(remove_amp_cast))

    def _record(self, remove_amp_cast: bool) -> symbol_json.GraphRecord:
        return to_record(without(("amp_cast",), self.heads) if remove_amp_cast else self.heads)

    def save(self, fname: str | PathLike[str], remove_amp_cast: bool = True) -> None:
        """Write the graph to a file as JSON; see `tojson`.

        Raises
        ------
        TypeError
            If `fname` is no path.
        MXNetError
            If the file cannot be written.
        """
        symbol_json.save(_path(fname), self._record(remove_amp_cast))

    def debug_str(self) -> str:
        """Return the outputs, variables and operators below as text."""
        order = walk(self.heads)
        if len(self.heads) == len(order) == 1:
            (node,) = order
            return f"AtomicFunctor  Op:{node.operator.name}\n" if node.operator else f"Variable:{node.name}\n"
        lines = ["Symbol Outputs:"]
        lines += [f"\toutput[{place}]={head.node.name}({head.output})" for place, head in enumerate(self.heads)]
        for node in order:
            if node.operator is None:
                lines.append(f"Variable:{node.name}")
                continue
            lines += ["-" * 20, f"Op:{node.operator.name}, Name={node.name}", "Inputs:"]
            for place, entry in enumerate(node.inputs):
                version = f" version={entry.version}" if entry.node.operator is None else ""
                lines.append(f"\targ[{place}]={entry.node.name}({entry.output}){version}")
            if node.attrs:
                lines += ["Attrs:", *(f"\t{key}={node.attrs[key]}" for key in sorted(node.attrs))]
        return "\n".join(lines) + "\n"

    def bind(
        self,
        ctx: Context,
        args: Any,
        args_grad: Any = None,
        grad_req: Any = "write",
        aux_states: Any = None,
        group2ctx: Mapping[str, Context] | None = None,
        shared_exec: Executor | None = None,
    ) -> Executor:
        """Bind the variables to arrays.

        Parameters
        ----------
        ctx : Context
            The device.
        args : list or dict of NDArray
            The arguments, in the order of `list_arguments` or by name.
        args_grad : list or dict of NDArray, optional
            Where gradients go; None or absent where none is wanted.
        grad_req : str, or list or dict of str
            What to do with gradients: "write", "add" or "null", for all arguments or for each; arguments absent
            from a dict are "null".
        aux_states : list or dict of NDArray, optional
            The auxiliary states.
        group2ctx, shared_exec
            Accepted for MXNet's sake: there is one device, and memory is shared by sharing arrays.

        Raises
        ------
        TypeError
            If something is no NDArray, or `ctx` no context.
        ValueError
            If an array is missing, or a word of `grad_req` unknown.
        MXNetError
            If the arrays do not fit the graph.

        Examples
        --------
        >>> import tconv as mx
        >>> ex = mx.sym.relu(mx.sym.var("x")).bind(mx.cpu(), [mx.nd.array([-1, 2])])
        >>> ex.forward()[0].asnumpy()
        array([0., 2.], dtype=float32)
        """
        return executor.bind(self, ctx, args, args_grad, grad_req, aux_states, group2ctx)

    def simple_bind(
        self,
        ctx: Context,
        grad_req: Any = "write",
        type_dict: Mapping[str, Any] | None = None,
        stype_dict: Mapping[str, str] | None = None,
        group2ctx: Mapping[str, Context] | None = None,
        shared_arg_names: list[str] | None = None,
        shared_exec: Executor | None = None,
        shared_buffer: dict[str, NDArray] | None = None,
        **kwargs: Shape,
    ) -> Executor:
        """Bind the variables to new arrays of zeros, whose shapes follow from some.

        Parameters
        ----------
        ctx : Context
            The device.
        grad_req : str, or list or dict of str
            As for `bind`.
        type_dict : dict of str to dtype, optional
            Types of arguments; what does not follow from them is float32.
        stype_dict, group2ctx
            Accepted for MXNet's sake: arrays are dense and on one device.
        shared_arg_names : list of str, optional
            Arguments to share with `shared_exec`.
        shared_exec : Executor, optional
            Whose arguments, gradients and auxiliary states are shared.
        shared_buffer : dict of str to NDArray, optional
            Memory to take arguments from; new arrays are added to it.
        **kwargs : tuple of int
            Shapes of arguments.

        Raises
        ------
        RuntimeError
            If shapes or types do not fit together, or one stays unknown.

        Examples
        --------
        >>> import tconv as mx
        >>> net = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=3, name="fc")
        >>> net.simple_bind(mx.cpu(), data=(2, 5)).arg_dict["fc_weight"].shape
        (3, 5)
        """
        return executor.simple_bind(
            self, ctx, grad_req, type_dict, group2ctx, shared_arg_names, shared_exec, shared_buffer, kwargs
        )

    def eval(self, ctx: Context | None = None, **kwargs: NDArray) -> list[NDArray]:
        """Return the outputs for arrays given by name.

        Raises
        ------
        ValueError
            If an array is missing.
        MXNetError
            If the arrays do not fit the graph.
        """
        return self.bind(ctx or current_context(), kwargs, grad_req="null").forward()

    def gradient(self, wrt: Sequence[str]) -> NoReturn:
        """Refuse: there are no symbols of gradients; bind, and use `Executor.backward`."""
        raise NotImplementedForSymbol("gradient: there are no symbols of gradients; bind, and use backward")

    def optimize_for(self, backend: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: there are no other backends to take parts of a graph."""
        raise NotImplementedForSymbol(f"optimize_for: backend: got {backend!r}; there are none here")

    def as_nd_ndarray(self) -> Symbol:
        """Return the symbol itself."""
        return self

    def __bool__(self) -> bool:
        raise NotImplementedForSymbol(
            "symbol: it has no truth value; comparisons of symbols are symbols, and give values once bound"
        )

    def __abs__(self) -> Symbol:
        return apply(find("abs"), "abs", [self])

    def __neg__(self) -> Symbol:
        return _MULTIPLY(self, -1.0)

    def __add__(self, other: Any) -> Symbol:
        return _ADD(self, other)

    def __radd__(self, other: Any) -> Symbol:
        return _ADD(self, other)

    def __sub__(self, other: Any) -> Symbol:
        return _SUBTRACT(self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return _SUBTRACT.reflected(self, other)

    def __mul__(self, other: Any) -> Symbol:
        return _MULTIPLY(self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return _MULTIPLY(self, other)

    def __truediv__(self, other: Any) -> Symbol:
        return _DIVIDE(self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return _DIVIDE.reflected(self, other)

    def __mod__(self, other: Any) -> Symbol:
        return _REMAINDER(self, other)

    def __rmod__(self, other: Any) -> Symbol:
        return _REMAINDER.reflected(self, other)

    def __pow__(self, other: Any) -> Symbol:
        return RAISE(self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return RAISE.reflected(self, other)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return _EQUAL(self, other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return _NOT_EQUAL(self, other)

    def __gt__(self, other: Any) -> Symbol:
        return _GREATER(self, other)

    def __ge__(self, other: Any) -> Symbol:
        return _GREATER_EQUAL(self, other)

    def __lt__(self, other: Any) -> Symbol:
        return _LESSER(self, other)

    def __le__(self, other: Any) -> Symbol:
        return _LESSER_EQUAL(self, other)


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(self: Symbol, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedForSymbol(f"symbol: {name}: symbols hold no values; bind it, or use an NDArray")

    refuse.__name__ = name
    refuse.__doc__ = "Refuse: symbols hold no values."
    return refuse


for _name in (
    *("__iadd__", "__isub__", "__imul__", "__itruediv__"),
    *("asnumpy", "asscalar", "wait_to_read", "copy", "as_in_context", "detach", "backward"),
):
    setattr(Symbol, _name, _refusal(_name))


class Arithmetic:
    """An arithmetic operation between symbols and numbers, and what its nodes are called.

    Parameters
    ----------
    of_two, of_two_hint : str
        The operator of two symbols, and what it is named after.
    of_number, of_number_hint : str
        The operator of a symbol and a number.
    mirrored, mirrored_hint : str
        The operator of a number and a symbol; absent where the order does not matter.
    """

    def __init__(
        self,
        of_two: str,
        of_two_hint: str,
        of_number: str,
        of_number_hint: str,
        mirrored: str = "",
        mirrored_hint: str = "",
    ) -> None:
        self._of_two = (of_two, of_two_hint)
        self._of_number = (of_number, of_number_hint)
        self._mirrored = (mirrored, mirrored_hint) if mirrored else self._of_number

    def __call__(self, left: Symbol, right: Any) -> Symbol:
        """Return the operation of a symbol and a symbol or number."""
        if isinstance(right, Symbol):
            name, hint = self._of_two
            return apply(find(name), hint, [left, right])
        return self._scalar(self._of_number, left, right)

    def renamed(self, mirrored_hint: str) -> Arithmetic:
        """Return the operation with another name for a number and a symbol."""
        return Arithmetic(*self._of_two, *self._of_number, self._mirrored[0], mirrored_hint)

    def reflected(self, right: Symbol, left: Any) -> Symbol:
        """Return the operation of a number and a symbol."""
        return self._scalar(self._mirrored, right, left)

    @staticmethod
    def _scalar(operator: tuple[str, str], symbol: Symbol, number: Any) -> Symbol:
        if not isinstance(number, (Number, np.generic)):
            raise TypeError(f"symbol: got {type(number).__name__}; need a Symbol or a number")
        name, hint = operator
        return apply(find(name), hint, [symbol], {"scalar": to_text(number)})


_ADD = Arithmetic("elemwise_add", "_plus", "_plus_scalar", "_plusscalar")
_SUBTRACT = Arithmetic("elemwise_sub", "_minus", "_minus_scalar", "_minusscalar", "_rminus_scalar", "_rminusscalar")
_MULTIPLY = Arithmetic("elemwise_mul", "_mul", "_mul_scalar", "_mulscalar")
_DIVIDE = Arithmetic("elemwise_div", "_div", "_div_scalar", "_divscalar", "_rdiv_scalar", "_rdivscalar")
_REMAINDER = Arithmetic("_mod", "_mod", "_mod_scalar", "_modscalar", "_rmod_scalar", "_rmodscalar")
RAISE = Arithmetic("_power", "_power", "_power_scalar", "_powerscalar", "_rpower_scalar", "_rpower_scalar")
_EQUAL = Arithmetic("_equal", "_equal", "_equal_scalar", "_equal_scalar")
_NOT_EQUAL = Arithmetic("_not_equal", "_not_equal", "_not_equal_scalar", "_not_equal_scalar")
_GREATER = Arithmetic("_greater", "_greater", "_greater_scalar", "_greater_scalar")
_GREATER_EQUAL = Arithmetic("_greater_equal", "_greater_equal", "_greater_equal_scalar", "_greater_equal_scalar")
_LESSER = Arithmetic("_lesser", "_lesser", "_lesser_scalar", "_lesser_scalar")
_LESSER_EQUAL = Arithmetic("_lesser_equal", "_lesser_equal", "_lesser_equal_scalar", "_lesser_equal_scalar")


def apply(
    operator: Operator,
    hint: str,
    inputs: Sequence[Symbol] | Mapping[str, Symbol],
    texts: Mapping[str, str] | None = None,
    name: str | None = None,
    attr: Mapping[str, Any] | None = None,
) -> Symbol:
    """Return the symbol of an operator applied to symbols.

    Parameters
    ----------
    operator : Operator
        What to apply.
    hint : str
        What the node is named after if it gets no name.
    inputs : sequence, or mapping by name of the input
        The inputs; those missing become variables.
    texts : mapping of str to str, optional
        Parameters.
    name : str, optional
        The name of the node, for the name manager to complete.
    attr : mapping, optional
        Attributes.

    Raises
    ------
    MXNetError
        If a parameter or input is unknown, missing or does not parse.
    """
    attrs = {**(texts or {})}
    for key, value in AttrScope.current.get(attr).items():
        attrs[_attribute_key(key)] = to_text(value)
    name = NameManager.current.get(name, hint)
    try:
        params = parse_params(operator, attrs, len(inputs))
    except ParameterError as error:
        raise MXNetError(str(error)) from error
    node = Node(operator, name, attrs, params)
    names = wanted_inputs(operator, params)
    if not isinstance(inputs, Mapping):
        inputs = {**dict(zip(names, inputs)), **{f"arg{n}": inputs[n] for n in range(len(names), len(inputs))}}
    unknown = [key for key in inputs if key not in names]
    if unknown:
        if not operator.count or len(inputs) > len(names):
            raise MXNetError(
                f"{operator.name}: got the inputs {', '.join(inputs)}; with these parameters it takes "
                f"{', '.join(names) or 'none'}"
            )
        # An operator of any number of inputs takes symbols under any name, in their order.
        inputs = dict(zip(names, inputs.values()))
    entries = [
        _one_entry(operator.name, key, inputs[key])
        if key in inputs
        else Entry(Node(None, joined(name, key), dict(attrs)))
        for key in names
    ]
    for key, entry in zip(names, entries):
        if entry.node.operator is None and key in operator.initial:
            entry.node.attrs.setdefault("__init__", operator.initial[key])
    node.connect(entries)
    return Symbol.of(Entry(node, index) for index in range(node.visible_outputs))


def _one_entry(where: str, key: str, symbol: Symbol) -> Entry:
    if len(symbol.heads) != 1:
        raise MXNetError(f"{where}: {key}: got a symbol of {len(symbol.heads)} outputs; need one")
    return symbol.heads[0]


def _attribute_key(key: str, exact: bool = False) -> str:
    """Return under which key an attribute is kept; with `exact`, longer keys that begin so stay as they are."""
    if is_hidden(key):
        return key
    for hidden in HIDDEN_KEYS:
        if key == hidden or (key.startswith(hidden) and not exact):
            return f"__{key}__"
        if key.endswith(hidden):
            owner = key[: -len(hidden) - 1]
            raise MXNetError(
                f"attr: got {key}; give {hidden} to the variable instead: {owner}=mx.sym.var(..., {hidden}=...)"
            )
    return key


def _shown(attrs: Mapping[str, str]) -> dict[str, str]:
    """Return attributes as they are shown: hidden keys in their plain form too."""
    plain = {hidden: attrs[f"__{hidden}__"] for hidden in HIDDEN_KEYS if f"__{hidden}__" in attrs}
    return {**attrs, **plain}


def var(
    name: str,
    attr: Mapping[str, str] | None = None,
    shape: Any = None,
    lr_mult: float | None = None,
    wd_mult: float | None = None,
    dtype: Any = None,
    init: Any = None,
    stype: str | None = None,
    profiler_scope: str | None = None,
    **kwargs: Any,
) -> Symbol:
    """Return a variable.

    Parameters
    ----------
    name : str
        Its name.
    attr : dict of str to str, optional
        Attributes.
    shape : tuple of int, optional
        Its shape, where inference is given none; 0 is an unknown size.
    lr_mult, wd_mult : float, optional
        Multipliers of learning rate and weight decay.
    dtype : dtype, optional
        Its type, where inference is given none.
    init : Initializer or str, optional
        How to initialise it.
    stype : str, optional
        Storage type; only kept.
    profiler_scope : str, optional
        Only kept.
    **kwargs
        Attributes of the form `__key__`.

    Raises
    ------
    TypeError
        If `name` is no text.
    ValueError
        If a key is not of the form `__key__`, or an attribute no text.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.sym.var("data", shape=(0, 3), lr_mult=2.0).list_attr()
    {'__shape__': '(0, 3)', '__lr_mult__': '2.0', 'lr_mult': '2.0'}
    """
    if not isinstance(name, str):
        raise TypeError(f"var: name: got {type(name).__name__}; need text")
    attrs: dict[str, Any] = AttrScope.current.get(attr)
    given = {"shape": shape, "lr_mult": lr_mult, "wd_mult": wd_mult, "profiler_scope": profiler_scope}
    attrs |= {f"__{key}__": to_text(value) for key, value in given.items() if value is not None}
    if dtype is not None:
        attrs["__dtype__"] = str(to_code(as_dtype(dtype, "var: dtype")))
    if init is not None:
        attrs["__init__"] = init if isinstance(init, str) else init.dumps()
    if stype is not None:
        if stype not in _STORAGE_TYPES:
            raise ValueError(f"var: stype: got {stype!r}; need one of {', '.join(_STORAGE_TYPES)}")
        attrs["__storage_type__"] = str(_STORAGE_TYPES[stype])
    for key, value in kwargs.items():
        if not is_hidden(key):
            raise ValueError(f"var: got {key}; further attributes need the form __{key}__")
        attrs[key] = to_text(value)
    symbol = Symbol.of([Entry(Node(None, name, {}))])
    symbol._set_attr(**attrs)
    return symbol


Variable = var


def Group(symbols: Sequence[Symbol]) -> Symbol:  # noqa: N802
    """Return the symbol of all outputs of several.

    Raises
    ------
    TypeError
        If there are none, or something is no symbol.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.sym.Group([mx.sym.var("a"), mx.sym.var("b")]).list_outputs()
    ['a', 'b']
    """
    if len(symbols) == 0 or any(not isinstance(symbol, Symbol) for symbol in symbols):
        raise TypeError("Group: got something else than symbols; need a list of at least one")
    return Symbol.of(head for symbol in symbols for head in symbol.heads)


def load_json(json_str: str) -> Symbol:
    """Return the symbol of a JSON text of any MXNet version.

    Raises
    ------
    TypeError
        If `json_str` is no text.
    MXNetError
        If it is damaged, or an operator or parameter is unknown; all unknown operators are listed.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.sym.load_json(mx.sym.relu(mx.sym.var("x"), name="r").tojson())
    <Symbol r>
    """
    if not isinstance(json_str, str):
        raise TypeError(f"load_json: got {type(json_str).__name__}; need text")
    return Symbol.of(
        from_record(symbol_json.parse(json_str, input_names=loaded_input_names, input_attrs=loaded_input_attrs))
    )


def load(fname: str | PathLike[str]) -> Symbol:
    """Return the symbol of a JSON file of any MXNet version.

    Raises
    ------
    TypeError
        If `fname` is no path.
    MXNetError
        If the file cannot be read; as for `load_json`.
    """
    return Symbol.of(
        from_record(symbol_json.load(_path(fname), input_names=loaded_input_names, input_attrs=loaded_input_attrs))
    )


def _path(fname: Any) -> Any:
    if not isinstance(fname, (str, PathLike)):
        raise TypeError(f"symbol: fname: got {type(fname).__name__}; need a path")
    return fname


def _unpickled(cls: type[Symbol], text: str) -> Symbol:
    return cls.of(load_json(text).heads)
