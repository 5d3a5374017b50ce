"""Arrays made from parameters alone, and arrays changed to another type."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tconv.dtypes import DType, as_dtype
from tconv.errors import ParameterError, ShapeError
from tconv.geometry import PartialShape, Shape, check_elements
from tconv.operators.compute import Function, quiet
from tconv.operators.registry import Array, Call, DTypes, Operator, PartialShapes, register
from tconv.params import (
    BOOL,
    DTYPE,
    DTYPE_OR_BOOL,
    FLOAT,
    FLOAT_OR_NONE,
    INT,
    SHAPE,
    TEXT,
    Params,
    named,
    param,
)

_CTX = "Where the array lives."
_DTYPE = "Type of the elements."


def _own_dtype(params: Params, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
    return inputs, [as_dtype(params.dtype)]  # type: ignore[attr-defined]


def _declare(name: str, base: type[Params], shape: Function, make: Function, doc: str) -> None:
    """Declare an operator without inputs that gives `make(params, shape, dtype)`."""

    def rule(params: Params, inputs: PartialShapes, outputs: PartialShapes) -> tuple[PartialShapes, PartialShapes]:
        return inputs, [shape(params)]

    @quiet
    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        # A symbol may leave sizes to be told by inference; they are those of the array to fill.
        wanted = call.out.shape if call.out is not None else [size or 0 for size in shape(call.params) or ()]
        return [make(call.params, wanted, as_dtype(call.params.dtype))]

    register(
        Operator(
            name=name,
            params=named(base, name),
            inputs=(),
            shape=rule,
            dtype=_own_dtype,
            forward=forward,
            backward=lambda call, inputs, outputs, out_grads: [],
            doc=doc,
        )
    )


class FilledParams(Params):
    """Parameters of `_zeros` and `_ones`."""

    shape: Shape = param(SHAPE, "Shape; 0 is a size to be inferred in a symbol.", default=())
    ctx: str = param(TEXT, _CTX, default="")
    dtype: str = param(DTYPE_OR_BOOL, _DTYPE, default="float32")


class FullParams(FilledParams):
    """Parameters of `_full`."""

    value: float = param(FLOAT, "The value.")


def _given_shape(params: FilledParams) -> PartialShape:
    shape = params.shape
    if not shape:
        return None
    if min(shape) < -1:
        raise ShapeError(f"{params.operator}: shape: got {shape}; no size may be negative")
    check_elements(params.operator, "shape", tuple(size for size in shape if size > 0))
    return tuple(size if size > 0 else None for size in shape)


def _filled(value: float) -> Function:
    return lambda params, shape, dtype: np.full(shape, value, dtype)


_declare("_zeros", FilledParams, _given_shape, _filled(0), "Zeros.")
_declare("_ones", FilledParams, _given_shape, _filled(1), "Ones.")


def _full(params: FullParams, shape: Shape, dtype: DType) -> Array:
    return np.full(shape, np.float64(params.value).astype(dtype), dtype)


_declare("_full", FullParams, _given_shape, _full, "One value throughout.")


class ArangeParams(Params):
    """Parameters of `_arange`."""

    start: float = param(FLOAT, "First value.")
    stop: float | None = param(FLOAT_OR_NONE, "Where to stop, exclusive.", default=None)
    step: float = param(FLOAT, "Difference of neighbours.", default=1.0)
    repeat: int = param(INT, "How often each value occurs.", default=1)
    infer_range: bool = param(BOOL, "Whether the end follows from the shape the output must have.", default=False)
    ctx: str = param(TEXT, _CTX, default="")
    dtype: str = param(DTYPE, _DTYPE, default="float32")


def _range(params: ArangeParams) -> tuple[float, float | None]:
    """Return start and stop; a single number is the stop."""
    if params.stop is None and not params.infer_range:
        return 0.0, params.start
    return params.start, params.stop


def _arange_shape(params: ArangeParams) -> PartialShape:
    if params.step == 0 or params.repeat < 1:
        raise ParameterError(f"_arange: step: got {params.step}, repeat {params.repeat}; 0 is no step")
    start, stop = _range(params)
    if stop is None:
        return None
    count = math.ceil((stop - start) / params.step)
    if count < 1:
        raise ParameterError(f"_arange: stop: got {stop} from {start} by {params.step}; none is there")
    return (count * params.repeat,)


def _arange(params: ArangeParams, shape: Shape, dtype: DType) -> Array:
    steps = np.arange(math.prod(shape)) // params.repeat
    return (_range(params)[0] + steps * params.step).astype(dtype).reshape(shape)


_declare("_arange", ArangeParams, _arange_shape, _arange, "Values at equal distances.")


class EyeParams(Params):
    """Parameters of `_eye`."""

    N: int = param(INT, "Number of rows.")
    M: int = param(INT, "Number of columns; as many as rows by default.", default=0)
    k: int = param(INT, "Which diagonal: 0 the main one, above 0 an upper one.", default=0)
    ctx: str = param(TEXT, _CTX, default="")
    dtype: str = param(DTYPE, _DTYPE, default="float32")


def _eye_shape(params: EyeParams) -> PartialShape:
    if params.N < 1 or params.M < 0:
        raise ShapeError(f"_eye: N: got {params.N} with M {params.M}; need sizes above 0")
    return (params.N, params.M or params.N)


_declare(
    "_eye",
    EyeParams,
    _eye_shape,
    lambda params, shape, dtype: np.eye(shape[0], shape[1], params.k, dtype),
    "Ones on a diagonal, zeros elsewhere.",
)


class CastParams(Params):
    """Parameters of `Cast`."""

    dtype: str = param(DTYPE_OR_BOOL, "Type of the result.")


@quiet
def _cast(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    return [inputs[0].astype(as_dtype(call.params.dtype))]


@quiet
def _cast_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    return [out_grads[0].astype(inputs[0].dtype)]


for _name, _aliases in (("Cast", ("cast",)), ("amp_cast", ())):
    register(
        Operator(
            name=_name,
            params=named(CastParams, _name),
            inputs=("data",),
            dtype=_own_dtype,
            forward=_cast,
            backward=_cast_backward,
            aliases=_aliases,
            doc="`data` in another type; fractions are cut off where that has none.",
        )
    )
