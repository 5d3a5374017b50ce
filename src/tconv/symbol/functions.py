"""Symbol functions: one for each operator of the registry, made when first asked for, and a few by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from types import ModuleType
from typing import Any

import numpy as np

from tconv import ndarray
from tconv.dtypes import as_dtype
from tconv.errors import DTypeError, MXNetError, ParameterError
from tconv.geometry import Shape
from tconv.ndarray import NDArray, hooks
from tconv.ndarray.tape import Record
from tconv.operators import registry
from tconv.operators.registry import Operator, find
from tconv.params import to_text
from tconv.symbol.node import Entry, Node
from tconv.symbol.symbol import RAISE, Arithmetic, Symbol, apply

Function = Callable[..., Any]

NAMESPACES = {
    "_internal": "",
    "contrib": "_contrib_",
    "linalg": "_linalg_",
    "op": "",
    "random": "_random_",
}
"""The modules `mx.sym.NAME`, and with what the names of their operators begin."""

METHODS = (
    *ndarray.functions.METHODS,
    *("astype", "broadcast_like", "broadcast_to", "expand_dims", "flatten", "reshape", "squeeze"),
)
"""Functions that symbols have as methods too, the symbol being their first input."""

_OTHER_NAMES = {"astype": "cast"}
_SPELT_OUT: dict[str, dict[str, Any]] = {"diag": {"k": 0}, "squeeze": {"axis": None}}
_IN_PLACE = ("expand_dims", "flatten", "squeeze")


def make_function(operator: Operator, name: str) -> Function:
    """Return the symbol function of an operator under one of its names."""

    def symbol_function(*args: Any, **kwargs: Any) -> Any:
        if _has_array(args, kwargs):
            return ndarray.functions.function(name)(*args, **kwargs)
        return call(operator, args, kwargs, name.lower())

    symbol_function.__name__ = symbol_function.__qualname__ = name
    symbol_function.__module__ = "tconv.symbol"
    symbol_function.__doc__ = _doc(operator)
    symbol_function.__signature__ = _signature(operator)  # type: ignore[attr-defined]
    return symbol_function


def call(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], hint: str = "") -> Symbol:
    """Return the symbol of `operator(*args, **kwargs)`.

    Parameters
    ----------
    operator : Operator
        What to apply.
    args, kwargs
        Inputs, parameters, `name`, `attr`, and attributes of the form `__key__`.
    hint : str, optional
        What the node is named after if it gets no name; the operator by default.

    Raises
    ------
    MXNetError
        If something is unknown, missing or does not parse.
    TypeError
        If an argument is given twice, or an input is no symbol.
    """
    bound = registry.bind(operator, args, kwargs, _is_symbol)
    rest = bound.rest
    rest.pop("out", None)
    name, attr = rest.pop("name", None), rest.pop("attr", None)
    if not isinstance(name, (str, type(None))):
        raise DTypeError(f"{operator.name}: name: got {type(name).__name__}; need text")
    if not isinstance(attr, (Mapping, type(None))):
        raise DTypeError(f"{operator.name}: attr: got {type(attr).__name__}; need a dict")
    strange = [key for key, value in rest.items() if _is_symbol(value)]
    if strange:
        raise MXNetError(
            f"{operator.name}: got the inputs {', '.join(strange)}; its inputs are "
            f"{', '.join(registry.all_inputs(operator)) or 'none'}"
        )
    if operator.count and operator.count not in kwargs:
        bound.texts[operator.count] = str(len(bound.inputs))
    return apply(operator, hint or operator.name.lower(), bound.inputs, bound.texts, name, {**rest, **(attr or {})})


def _is_symbol(value: object) -> bool:
    return isinstance(value, Symbol)


def _has_array(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return any(isinstance(value, NDArray) for value in (*args, *kwargs.values()))


def _doc(operator: Operator) -> str:
    lines = [operator.doc, "", "Parameters", "----------"]
    for name in registry.all_inputs(operator):
        lines += [f"{name} : Symbol, optional", f"    Input; a variable `NAME_{name}` by default."]
    if operator.count:
        lines += ["*data : Symbol", "    Inputs, any number of them."]
    for row in operator.params.rows():
        lines += [f"{row.name} : {row.grammar.expects}", f"    {row.doc}"]
    lines += [
        "name : str, optional",
        "    Name of the node.",
        "attr : dict of str to str, optional",
        "    Attributes of the form `__key__`.",
    ]
    return "\n".join(lines)


def _signature(operator: Operator) -> inspect.Signature:
    kind = inspect.Parameter
    style = kind.KEYWORD_ONLY if operator.count else kind.POSITIONAL_OR_KEYWORD
    parameters = [kind("data", kind.VAR_POSITIONAL)] if operator.count else []
    parameters += [kind(name, style, default=None) for name in registry.all_inputs(operator)]
    # A required parameter may follow inputs that have a default, which Python does not let it show.
    parameters += [
        kind(row.name, style, default=... if row.required else row.default) for row in operator.params.rows()
    ]
    parameters += [kind(name, kind.KEYWORD_ONLY, default=None) for name in ("name", "attr")]
    return inspect.Signature([*parameters, kind("kwargs", kind.VAR_KEYWORD)])


class Namespace(ModuleType):
    """A module of symbol functions, each made when it is first asked for.

    Parameters
    ----------
    name : str
        Name of the module.
    prefix : str
        With what the names of its operators begin; functions go without it.
    """

    def __init__(self, name: str, prefix: str) -> None:
        super().__init__(f"tconv.symbol.{name}", f"The operators `{prefix}*` as symbol functions.")
        self._prefix = prefix

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        function = find_function(self._prefix, name)
        setattr(self, name, function)
        return function

    def __dir__(self) -> list[str]:
        return sorted(public_names(self._prefix))


def find_function(prefix: str, name: str) -> Function:
    """Return the symbol function of the operator `prefix` + `name`.

    Raises
    ------
    AttributeError
        If there is no such operator.
    """
    try:
        return make_function(find(prefix + name), name)
    except ParameterError:
        raise AttributeError(f"mx.sym has no function {prefix}{name}: no operator of this name is known") from None


def public_names(prefix: str = "") -> list[str]:
    """Return the names of the operators that begin with `prefix`, without it."""
    return [name[len(prefix) :] for name in registry.names() if name.startswith(prefix)]


def _method(name: str) -> Function:
    target = _OTHER_NAMES.get(name, name)

    def method(self: Symbol, *args: Any, **kwargs: Any) -> Symbol:
        if name in _IN_PLACE:
            kwargs.pop("inplace", None)
        if name in _SPELT_OUT and not args:
            kwargs = {**_SPELT_OUT[name], **kwargs}
        return call(find(target), (self, *args), kwargs, target)

    method.__name__ = name
    method.__qualname__ = f"Symbol.{name}"
    method.__doc__ = f"Return `mx.sym.{target}` of the symbol."
    return method


for _name in METHODS:
    if _OTHER_NAMES.get(_name, _name) in registry.names():
        setattr(Symbol, _name, _method(_name))


def _filled(operator: str, texts: Mapping[str, Any], dtype: Any, kwargs: Mapping[str, Any]) -> Symbol:
    name = as_dtype(np.float32 if dtype is None else dtype, f"{operator}: dtype").name
    return call(find(operator), (), {**texts, "dtype": name, **kwargs})


def zeros(shape: int | Shape, dtype: Any = None, **kwargs: Any) -> Symbol:
    """Return a symbol of zeros; float32 by default.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.sym.zeros((2, 3)).infer_shape()
    ([], [(2, 3)], [])
    """
    return _filled("_zeros", {"shape": shape}, dtype, kwargs)


def ones(shape: int | Shape, dtype: Any = None, **kwargs: Any) -> Symbol:
    """Return a symbol of ones; float32 by default."""
    return _filled("_ones", {"shape": shape}, dtype, kwargs)


def full(shape: int | Shape, val: float, dtype: Any = None, **kwargs: Any) -> Symbol:
    """Return a symbol filled with one value; float32 by default."""
    return _filled("_full", {"shape": shape, "value": float(val)}, dtype, kwargs)


def eye(N: int, M: int = 0, k: int = 0, dtype: Any = None, **kwargs: Any) -> Symbol:  # noqa: N803
    """Return a symbol with ones on the diagonal `k` and zeros elsewhere; M is N by default."""
    return _filled("_eye", {"N": N, "M": M, "k": k}, dtype, kwargs)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1.0,
    repeat: int = 1,
    infer_range: bool = False,
    name: str | None = None,
    dtype: Any = None,
) -> Symbol:
    """Return a symbol of evenly spaced values, each repeated; without `stop`, from 0 to `start`."""
    texts = {"start": start, "stop": stop, "step": step, "repeat": repeat, "infer_range": infer_range}
    return _filled("_arange", texts, dtype, {"name": name})


def _of_either(name: str, numbers: Function, operation: Arithmetic) -> Function:
    def function(left: Any, right: Any) -> Any:
        if isinstance(left, Symbol):
            return operation(left, right)
        if isinstance(right, Symbol):
            return operation.reflected(right, left)
        if isinstance(left, Number) and isinstance(right, Number):
            return numbers(left, right)
        raise TypeError(f"{name}: got {type(left).__name__} and {type(right).__name__}; need symbols or numbers")

    function.__name__ = function.__qualname__ = name
    function.__module__ = "tconv.symbol"
    function.__doc__ = f"Return `{name}` of two symbols, a symbol and a number, or two numbers."
    return function


power = _of_either("power", lambda base, exponent: base**exponent, RAISE.renamed("_rpowerscalar"))
maximum = _of_either("maximum", max, Arithmetic("_maximum", "_maximum", "_maximum_scalar", "_maximumscalar"))
minimum = _of_either("minimum", min, Arithmetic("_minimum", "_minimum", "_minimum_scalar", "_minimumscalar"))
hypot = _of_either("hypot", np.hypot, Arithmetic("_hypot", "_hypot", "_hypot_scalar", "_hypotscalar"))


def split_v2(
    ary: Symbol, indices_or_sections: int | tuple[int, ...], axis: int = 0, squeeze_axis: bool = False
) -> Symbol:
    """Return the parts of a symbol cut along an axis, into equal sections or at indices.

    Raises
    ------
    ValueError
        If `indices_or_sections` is neither an int nor a tuple.
    """
    if isinstance(indices_or_sections, int):
        indices, sections = [], indices_or_sections
    elif isinstance(indices_or_sections, tuple):
        indices, sections = [0, *indices_or_sections], 0
    else:
        raise ValueError(f"split_v2: got {type(indices_or_sections).__name__}; need an int or a tuple of ints")
    return call(find("_split_v2"), (ary, indices, axis, squeeze_axis, sections), {})


def rebuild(records: Sequence[Record], head: tuple[int, int]) -> Symbol:
    """Return the symbol of a graph the tape recorded; see `tconv.ndarray.tape.history`."""
    nodes: list[Node] = []
    counts = {True: 0, False: 0}
    for record in records:
        operator = record.operator
        number = counts[operator is None]
        counts[operator is None] += 1
        if operator is None:
            nodes.append(Node(None, f"var{number}", {}))
            continue
        texts = {
            row.name: to_text(getattr(record.params, row.name))
            for row in operator.params.rows()
            if row.required or getattr(record.params, row.name) != row.default
        }
        node = Node(operator, f"node_{number}", texts, record.params)
        node.connect(Entry(nodes[place], index) for place, index in record.inputs)
        nodes.append(node)
    return Symbol.of([Entry(nodes[head[0]], head[1])])


hooks.symbols = hooks.Symbols(Symbol, call, rebuild)
