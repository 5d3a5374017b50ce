"""Array functions, one for each operator of the registry, made when they are first asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tconv.context import current_context
from tconv.dtypes import DType
from tconv.errors import ParameterError
from tconv.ndarray import hooks
from tconv.ndarray.ndarray import NDArray, invoke, supported, wrap
from tconv.operators import registry
from tconv.operators.registry import Operator

Function = Callable[..., Any]

# fmt: off
METHODS = (
    "abs", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "argmax", "argmax_channel", "argmin",
    "argsort", "broadcast_axes", "cbrt", "ceil", "clip", "cos", "cosh", "degrees", "depth_to_space", "diag",
    "exp", "expm1", "fix", "flip", "floor", "log", "log10", "log1p", "log2", "log_softmax", "max", "mean",
    "min", "nanprod", "nansum", "norm", "one_hot", "ones_like", "pad", "pick", "prod", "radians", "rcbrt",
    "reciprocal", "relu", "repeat", "reshape_like", "rint", "round", "rsqrt", "shape_array", "sigmoid", "sign",
    "sin", "sinh", "size_array", "slice", "slice_axis", "slice_like", "softmax", "softmin", "sort",
    "space_to_depth", "split", "sqrt", "square", "sum", "swapaxes", "take", "tan", "tanh", "tile", "topk",
    "transpose", "trunc", "zeros_like",
)
# fmt: on
"""Functions that arrays have as methods too, the array being their first input."""

_made: dict[str, Function] = {}


def function(name: str) -> Function:
    """Return the array function of an operator.

    Parameters
    ----------
    name : str
        Name or alias of the operator.

    Raises
    ------
    ParameterError
        If there is no operator of this name.
    """
    found = _made.get(name)
    if found is None:
        found = _made[name] = _make(registry.find(name), name)
    return found


def _is_input(value: object) -> bool:
    return isinstance(value, (NDArray, np.ndarray))


# Types whose equal values are spelt alike, so that they may stand for their text.
_PLAIN = frozenset((int, float, str, bool, type(None), type))
_MOST_KNOWN = 1024


class _Calls:
    """How calls of one operator were sorted, by the form of their arguments: where arrays are, what the rest is."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], tuple[Any, tuple[int, ...]]] = {}

    def form(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...] | None, list[NDArray]]:
        """Return the form, None if it is not worth keeping, and the arrays in the order they come."""
        form: list[Any] = [len(args)]
        arrays = []
        for name, value in (*enumerate(args), *kwargs.items()):
            kind = type(value)
            if kind is NDArray:
                arrays.append(value)
                form.append(name)
            elif kind in _PLAIN:
                form += (name, kind, value)
            elif kind is tuple and _PLAIN.issuperset(kinds := tuple(map(type, value))):
                form += (name, kinds, value)
            else:
                return None, arrays
        return tuple(form), arrays

    def keep(self, form: tuple[Any, ...], params: Any, order: tuple[int, ...]) -> None:
        if len(self.known) >= _MOST_KNOWN:
            self.known.clear()
        self.known[form] = params, order


def _make(operator: Operator, name: str) -> Function:
    calls = _Calls()

    def array_function(*args: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        symbol_name = kwargs.pop("name", None)
        form, arrays = calls.form(args, kwargs)
        known = None if form is None else calls.known.get(form)
        if known is not None:
            params, order = known
            return invoke(operator, params, [arrays[at] for at in order], out)
        if hooks.symbols is not None and _has_symbol(args, kwargs):
            return hooks.symbols.call(operator, args, {**kwargs, "name": symbol_name, "out": out})
        params, given = _sorted(operator, args, kwargs)
        if form is not None:
            places = {name: at for at, name in enumerate(_array_names(operator, args, kwargs))}
            calls.keep(form, params, tuple([places[name] for name in given]))
        return invoke(operator, params, [_as_array(operator, value) for value in given.values()], out)

    array_function.__name__ = array_function.__qualname__ = name
    array_function.__module__ = "tconv.ndarray"
    array_function.__doc__ = _doc(operator)
    array_function.__signature__ = _signature(operator)  # type: ignore[attr-defined]
    return array_function


def _array_names(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """Return the names of the inputs that are arrays, in the order they come."""
    names = [f"arg{at}" for at in range(len(args))] if operator.count else registry.all_inputs(operator)
    pairs = (*zip(names, args), *kwargs.items())
    return [name for name, value in pairs if isinstance(value, NDArray)]


def _sorted(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the parameters of a call and its inputs in the operator's order."""
    bound = registry.bind(operator, args, kwargs, _is_input)
    params = operator.params.parse(bound.texts)
    for key in bound.rest:
        listed = ", ".join(row.name for row in operator.params.rows()) or "none"
        raise ParameterError(f"{operator.name}: {key}: unknown argument; possible arguments: {listed}")
    given = bound.inputs
    if operator.count and getattr(params, operator.count) != len(given):
        raise ParameterError(f"{operator.name}: {operator.count}: got another number than {len(given)} inputs")
    names = operator.input_names(params, len(given))
    for name in names:
        if name not in given:
            raise ParameterError(f"{operator.name}: {name}: missing; need the inputs {', '.join(names)}")
    for name in given:
        if name not in names:
            raise ParameterError(f"{operator.name}: {name}: got an array; need the inputs {', '.join(names)}")
    return params, {name: given[name] for name in names}


def _has_symbol(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    values = [*args, *kwargs.values()]
    if len(args) == 1 and isinstance(args[0], (list, tuple)):
        values += args[0]
    return any(map(hooks.is_symbol, values))


def _as_array(operator: Operator, value: NDArray | np.ndarray[Any, Any]) -> NDArray:
    if isinstance(value, NDArray):
        return value
    dtype: DType = supported(value.dtype, operator.name)
    return wrap(value if value.dtype.isnative else value.astype(dtype), current_context())


def _doc(operator: Operator) -> str:
    lines = [operator.doc, "", "Parameters", "----------"]
    for name in registry.all_inputs(operator):
        lines += [f"{name} : NDArray or ndarray", "    Input."]
    if operator.count:
        lines += ["*data : NDArray or ndarray", "    Inputs, any number of them."]
    for row in operator.params.rows():
        if row.name == operator.count:
            continue
        lines += [f"{row.name} : {row.grammar.expects}", f"    {row.doc}"]
    lines += ["out : NDArray, optional", "    Where the result goes."]
    return "\n".join(lines)


def _signature(operator: Operator) -> inspect.Signature:
    kind = inspect.Parameter
    parameters = [kind("data", kind.VAR_POSITIONAL)] if operator.count else []
    style = kind.KEYWORD_ONLY if operator.count else kind.POSITIONAL_OR_KEYWORD
    parameters += [kind(name, style, default=None) for name in registry.all_inputs(operator)]
    for row in operator.params.rows():
        if row.name != operator.count:
            # A required parameter may follow inputs that have a default, which Python does not let it show.
            parameters.append(kind(row.name, style, default=... if row.required else row.default))
    parameters += [kind(name, kind.KEYWORD_ONLY, default=None) for name in ("out", "name")]
    return inspect.Signature(parameters)


def _method(name: str) -> Function:
    def method(self: NDArray, *args: Any, **kwargs: Any) -> Any:
        return function(name)(self, *args, **kwargs)

    method.__name__ = name
    method.__qualname__ = f"NDArray.{name}"
    method.__doc__ = f"Return `mx.nd.{name}` of the array."
    return method


def _add_methods() -> None:
    for name in METHODS:
        setattr(NDArray, name, _method(name))


_add_methods()


def __getattr__(name: str) -> Any:
    if name not in registry.names():
        raise AttributeError(f"module 'tconv.ndarray' has no attribute {name!r}")
    return function(name)
