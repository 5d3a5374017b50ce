"""The one registry: an operator is declared once; functions, gradient, inference and JSON follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from tconv.dtypes import DType
from tconv.errors import DTypeError, ParameterError, ShapeError
from tconv.geometry import PartialShape, Shape, check_elements
from tconv.params import Params, to_text

Array = np.ndarray[Any, Any]
PartialShapes = Sequence[PartialShape]
DTypes = Sequence[DType | None]


@dataclass
class Call:
    """What an implementation gets besides its arrays.

    Attributes
    ----------
    params : Params
        The parsed parameters.
    is_train : bool
        Whether the call is part of training.
    out : ndarray or None
        Where the first output may be written; an implementation that returns another array has it copied.
    wanted : tuple of bool
        For a gradient: which inputs want one.
    """

    params: Any
    is_train: bool = False
    out: Array | None = None
    wanted: tuple[bool, ...] = ()


ShapeRule = Callable[[Any, PartialShapes, PartialShapes], tuple[PartialShapes, PartialShapes]]
TypeRule = Callable[[Any, DTypes, DTypes], tuple[DTypes, DTypes]]
Forward = Callable[[Call, Sequence[Array]], Sequence[Array]]
Backward = Callable[[Call, Sequence[Array], Sequence[Array], Sequence[Array]], Sequence[Array | None]]


def one_dtype(params: Any, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
    """Infer types where all inputs and outputs share one, whichever is known first."""
    known = next((dtype for dtype in (*inputs, *outputs) if dtype is not None), None)
    return [known] * len(inputs), [known] * len(outputs)


def one_shape(params: Any, inputs: PartialShapes, outputs: PartialShapes) -> tuple[PartialShapes, PartialShapes]:
    """Infer shapes where all inputs and outputs share one."""
    merged: PartialShape = None
    for shape in (*inputs, *outputs):
        merged = merge("inputs", merged, shape)
    return [merged] * len(inputs), [merged] * len(outputs)


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator, declared.

    Attributes
    ----------
    name : str
        MXNet's name, also the `op` of symbol JSON.
    params : type
        A `Params` class.
    inputs : tuple of str, or callable
        Names of the inputs, auxiliary states last; or a function from parameters to them. Empty names with `count`
        set mean any number of inputs `arg0`, `arg1`, ...; names with `count` set are those of the first inputs.
    forward : callable
        `forward(call, inputs) -> outputs` on NumPy arrays.
    backward : callable, optional
        `backward(call, inputs, outputs, output gradients) -> input gradients`, None for what is not
        `call.wanted` or has no gradient. What it returns may be an argument or a view of one, so callers do not
        write into it. Without it, asking for a gradient is an error.
    shape, dtype : callable
        Inference in both directions over what is known; a rule returns what it can tell and need not merge.
    outputs : tuple of str, or callable
        Names of the outputs.
    visible : int, callable or None
        Outputs a caller sees, or a function from parameters to that; the rest are for `backward`. All by default.
    aux : tuple of str
        Inputs that are auxiliary states: no gradient, changed in place by training.
    count : str
        Parameter that tells the number of inputs, for a variadic operator.
    aliases : tuple of str
        Other names.
    view : bool
        Whether an output may be an input or a view of one, possibly read-only; an array function copies it.
    initial : mapping of str to str
        By input, the `__init__` attribute that a variable made for it gets.
    head : bool
        Whether `backward` ignores output gradients, as a loss does.
    """

    name: str
    params: type[Params]
    inputs: tuple[str, ...] | Callable[[Any], tuple[str, ...]]
    forward: Forward
    backward: Backward | None = None
    shape: ShapeRule = one_shape
    dtype: TypeRule = one_dtype
    outputs: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ("output",)
    visible: int | Callable[[Any], int] | None = None
    aux: tuple[str, ...] = ()
    count: str = ""
    aliases: tuple[str, ...] = ()
    view: bool = False
    initial: Mapping[str, str] = field(default_factory=dict)
    head: bool = False
    doc: str = ""

    def input_names(self, params: Any, given: int = 0) -> tuple[str, ...]:
        """Return the names of the inputs; `given` is how many a variadic operator has."""
        if self.count and not self.inputs:
            return tuple(f"arg{index}" for index in range(given))
        return self.inputs(params) if callable(self.inputs) else self.inputs

    def output_names(self, params: Any) -> tuple[str, ...]:
        """Return the names of all outputs."""
        return self.outputs(params) if callable(self.outputs) else self.outputs

    def visible_outputs(self, params: Any) -> int:
        """Return how many outputs a caller sees."""
        if callable(self.visible):
            return self.visible(params)
        return len(self.output_names(params)) if self.visible is None else self.visible


_OPERATORS: dict[str, Operator] = {}
_ALL_INPUTS: dict[str, tuple[str, ...]] = {}


def register(operator: Operator, all_inputs: tuple[str, ...] = ()) -> Operator:
    """Enter an operator under its name and aliases.

    Parameters
    ----------
    operator : Operator
        The declaration.
    all_inputs : tuple of str
        Every input the operator may have, in positional order, where `operator.inputs` is a function.
    """
    for name in (operator.name, *operator.aliases):
        if name in _OPERATORS:
            raise ParameterError(f"{name}: this operator is registered already")
        _OPERATORS[name] = operator
    _ALL_INPUTS[operator.name] = all_inputs or (() if callable(operator.inputs) else operator.inputs)
    return operator


def find(name: str) -> Operator:
    """Return the operator of that name or alias.

    Raises
    ------
    ParameterError
        If there is none.
    """
    operator = _OPERATORS.get(name)
    if operator is None:
        raise ParameterError(f"{name}: no operator of this name; known are {', '.join(sorted(_OPERATORS))}")
    return operator


def all_inputs(operator: Operator) -> tuple[str, ...]:
    """Return every input an operator may have, in positional order."""
    return _ALL_INPUTS[operator.name]


def names() -> Iterable[str]:
    """Return all names and aliases."""
    return _OPERATORS.keys()


def merge(where: str, known: PartialShape, other: PartialShape) -> PartialShape:
    """Return what two partial shapes tell together.

    Raises
    ------
    ShapeError
        If they contradict each other.
    """
    if known is None or other is None:
        return other if known is None else known
    if len(known) != len(other) or any(a is not None and b is not None and a != b for a, b in zip(known, other)):
        raise ShapeError(f"{where}: shape inconsistent: provided {show(known)}, inferred {show(other)}")
    return tuple(b if a is None else a for a, b in zip(known, other))


def show(shape: tuple[int | None, ...]) -> str:
    """Return a partly known shape as errors print it, `?` for an unknown size."""
    entries = ["?" if size is None else str(size) for size in shape]
    return f"({', '.join(entries)}{',' if len(entries) == 1 else ''})"


def infer_shapes(
    operator: Operator, params: Any, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[list[PartialShape], list[PartialShape]]:
    """Apply an operator's shape rule once and merge its findings with what is known.

    Raises
    ------
    ShapeError
        If the shapes do not fit together.
    """
    found_in, found_out = operator.shape(params, inputs, outputs)
    names = operator.input_names(params, len(inputs))
    return (
        [merge(f"{operator.name}: {n}", a, b) for n, a, b in zip(names, inputs, found_in)],
        [merge(f"{operator.name}: output", a, b) for a, b in zip(outputs, found_out)],
    )


def infer_dtypes(
    operator: Operator, params: Any, inputs: DTypes, outputs: DTypes
) -> tuple[list[DType | None], list[DType | None]]:
    """Apply an operator's type rule once and merge its findings with what is known.

    Raises
    ------
    DTypeError
        If the types do not fit together.
    """
    found_in, found_out = operator.dtype(params, inputs, outputs)
    names = operator.input_names(params, len(inputs))
    return (
        [_merge_dtype(f"{operator.name}: {n}", a, b) for n, a, b in zip(names, inputs, found_in)],
        [_merge_dtype(f"{operator.name}: output", a, b) for a, b in zip(outputs, found_out)],
    )


def _merge_dtype(where: str, known: DType | None, other: DType | None) -> DType | None:
    if known is not None and other is not None and known != other:
        raise DTypeError(f"{where}: got {known}; this operator needs a uniform type, here {other}")
    return other if known is None else known


@lru_cache(maxsize=4096)
def solve(
    operator: Operator, params: Any, shapes: tuple[Shape, ...], dtypes: tuple[DType, ...]
) -> tuple[tuple[Shape, DType], ...]:
    """Check an array call and return shape and type of every output.

    Raises
    ------
    ShapeError, DTypeError
        If the inputs do not fit the operator.
    OutOfMemoryError
        If an output would pass the 64-bit range.
    """
    count = len(operator.output_names(params))
    _, out_shapes = infer_shapes(operator, params, shapes, [None] * count)
    _, out_dtypes = infer_dtypes(operator, params, dtypes, [None] * count)
    solved = []
    for shape, dtype in zip(out_shapes, out_dtypes):
        known = None if shape is None else tuple(size for size in shape if size is not None)
        if known is None or shape is None or len(known) != len(shape) or dtype is None:
            raise ShapeError(
                f"{operator.name}: the shape or type of an output cannot be told from {shapes}, {dtypes}"
            )
        check_elements(operator.name, "output", known)
        solved.append((known, dtype))
    return tuple(solved)


@dataclass
class Bound:
    """Arguments of a call, sorted: inputs by name, texts of parameters, and keywords that are neither."""

    inputs: dict[str, Any]
    texts: dict[str, str]
    rest: dict[str, Any]


def bind(
    operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any], is_input: Callable[[Any], bool]
) -> Bound:
    """Sort the arguments of `operator(*args, **kwargs)`.

    Positional arguments are the inputs and then the parameters, in declared order; an input given as
    None is absent. A variadic operator takes its inputs positionally, singly or as one list.

    Raises
    ------
    DTypeError
        If an argument is given twice, there are too many, or an input is not what `is_input` accepts.
    """
    bound = Bound({}, {}, {})
    rows = [row.name for row in operator.params.rows()]
    if operator.count:
        if len(args) == 1 and isinstance(args[0], (list, tuple)):
            args = args[0]
        bound.inputs = {f"arg{index}": value for index, value in enumerate(args)}
        bound.texts[operator.count] = str(len(args))
        args = ()
    inputs = _ALL_INPUTS[operator.name]
    order = (*inputs, *rows)
    if len(args) > len(order):
        raise DTypeError(f"{operator.name}: got {len(args)} positional arguments; need at most {len(order)}")
    for key, value in (*zip(order, args), *kwargs.items()):
        if key in bound.inputs or (key in bound.texts and key != operator.count):
            raise DTypeError(f"{operator.name}: {key}: given twice")
        if key in inputs:
            if value is not None:
                bound.inputs[key] = value
        elif key in rows:
            bound.texts[key] = to_text(value)
        elif operator.count and is_input(value):
            bound.inputs[key] = value
        else:
            bound.rest[key] = value
    for key, value in bound.inputs.items():
        if not is_input(value):
            raise DTypeError(f"{operator.name}: {key}: got {type(value).__name__}; it cannot be an input here")
    return bound
