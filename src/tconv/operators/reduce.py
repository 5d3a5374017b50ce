"""Reductions: sums and their kin over some axes, from a table of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tconv.dtypes import as_dtype
from tconv.errors import ParameterError, ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.operators.compute import Function, arithmetic, normal_axis, quiet, total
from tconv.operators.registry import Array, Call, DTypes, Operator, PartialShapes, one_dtype, register, show
from tconv.operators.tensor import forwards
from tconv.params import BOOL, INT, SHAPE, ChoiceText, Params, named, param


class ReduceParams(Params):
    """Parameters of a reduction."""

    axis: Shape | None = param(SHAPE, "Axes to reduce, from the end where negative; all by default.", default=None)
    keepdims: bool = param(BOOL, "Whether reduced axes stay with size 1.", default=False)
    exclude: bool = param(BOOL, "Whether the axes not named are the ones to reduce.", default=False)


def reduced_axes(operator: str, axis: Shape | None, rank: int, exclude: bool = False) -> Shape:
    """Return the axes a reduction goes over, from the front and in order.

    Raises
    ------
    ShapeError
        If an axis is named twice or is not there.
    """
    if not axis:
        return tuple(range(rank))
    named_axes = sorted(normal_axis(operator, one, rank) for one in axis)
    if len(set(named_axes)) != len(named_axes):
        raise ShapeError(f"{operator}: axis: got {axis}; an axis is named twice")
    return tuple(one for one in range(rank) if (one in named_axes) is not exclude)


def reduced_shape(data: tuple[int | None, ...], axes: Shape, keepdims: bool) -> tuple[int | None, ...]:
    """Return the shape left by reducing `axes`; one axis at least is left, as there are no scalars."""
    if keepdims:
        return tuple(1 if axis in axes else size for axis, size in enumerate(data))
    return tuple(size for axis, size in enumerate(data) if axis not in axes) or (1,)


@dataclass(frozen=True)
class Reduction:
    """A reduction.

    Attributes
    ----------
    name : str
        The operator.
    function : callable
        The values from an array and axes, keeping them.
    slope : callable
        The derivative from input and output, broadcast against each other, and the number of elements reduced.
    aliases : tuple of str
        Other names of it.
    doc : str
        What it computes.
    """

    name: str
    function: Function
    slope: Function
    doc: str
    aliases: tuple[str, ...] = ()


def _mean(x: Array, axes: Shape) -> Array:
    count = np.prod([x.shape[axis] for axis in axes], dtype=np.int64)
    summed = np.sum(x, axis=axes, dtype=np.int64 if x.dtype.kind in "iu" else np.float64, keepdims=True)
    mean: Array = (np.trunc(summed / count) if x.dtype.kind in "iu" else summed / count).astype(x.dtype)
    return mean


def _product(x: Array, axes: Shape) -> Array:
    return np.asarray(np.prod(x, axis=axes, keepdims=True, dtype=x.dtype))


def _without_nan(function: Function, value: float) -> Function:
    return lambda x, axes: function(np.where(np.isnan(x), x.dtype.type(value), x), axes)


REDUCTIONS = (
    Reduction("sum", lambda x, axes: total(x, axes, keepdims=True), lambda x, y, n: 1, "The sum.", ("sum_axis",)),
    Reduction("mean", _mean, lambda x, y, n: 1 / n, "The mean."),
    Reduction("prod", _product, lambda x, y, n: y / x, "The product."),
    Reduction(
        "nansum",
        _without_nan(lambda x, axes: total(x, axes, keepdims=True), 0),
        lambda x, y, n: ~np.isnan(x),
        "The sum of what is not NaN.",
    ),
    Reduction(
        "nanprod",
        _without_nan(_product, 1),
        lambda x, y, n: np.where(np.isnan(x), 0, y / x),
        "The product of what is not NaN.",
    ),
    Reduction(
        "max",
        lambda x, axes: np.max(x, axis=axes, keepdims=True),
        lambda x, y, n: x == y,
        "The maximum; its gradient goes to all elements that equal it.",
        ("max_axis",),
    ),
    Reduction(
        "min",
        lambda x, axes: np.min(x, axis=axes, keepdims=True),
        lambda x, y, n: x == y,
        "The minimum; its gradient goes to all elements that equal it.",
        ("min_axis",),
    ),
)


def _declare(row: Reduction) -> None:
    extremum = row.name in ("max", "min")

    def shape(
        params: ReduceParams, inputs: PartialShapes, outputs: PartialShapes
    ) -> tuple[PartialShapes, PartialShapes]:
        (data,) = inputs
        found: PartialShape = None
        if data is not None:
            axes = reduced_axes(row.name, params.axis, len(data), params.exclude)
            if extremum and any(data[axis] == 0 for axis in axes):
                raise ShapeError(f"{row.name}: data: got shape {show(data)}; nothing has no {row.name}")
            found = reduced_shape(data, axes, params.keepdims)
        return inputs, [found]

    @quiet
    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        (data,) = inputs
        axes = reduced_axes(row.name, call.params.axis, data.ndim, call.params.exclude)
        kept = np.asarray(row.function(arithmetic(data), axes)).astype(data.dtype, copy=False)
        return [kept.reshape([size or 0 for size in reduced_shape(data.shape, axes, call.params.keepdims)])]

    @quiet
    def backward(
        call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
    ) -> Sequence[Array | None]:
        (data,) = inputs
        axes = reduced_axes(row.name, call.params.axis, data.ndim, call.params.exclude)
        kept = [1 if axis in axes else size for axis, size in enumerate(data.shape)]
        count = int(np.prod([data.shape[axis] for axis in axes], dtype=np.int64))
        grad = arithmetic(out_grads[0]).reshape(kept)
        slope = row.slope(arithmetic(data), arithmetic(outputs[0]).reshape(kept), count)
        return [np.broadcast_to(grad * slope, data.shape).astype(data.dtype)]

    register(
        Operator(
            name=row.name,
            params=named(ReduceParams, row.name),
            inputs=("data",),
            shape=shape,
            forward=forward,
            backward=backward,
            aliases=row.aliases,
            doc=f"{row.doc} It is taken over `axis`; over all axes the result has shape (1,).",
        )
    )


for _row in REDUCTIONS:
    _declare(_row)


class NormParams(Params):
    """Parameters of `norm`."""

    ord: int = param(INT, "1 for the sum of sizes, 2 for the Euclidean length.", default=2)
    axis: Shape | None = param(SHAPE, "Axes to reduce; all by default.", default=None)
    out_dtype: str | None = param(
        ChoiceText(("float16", "float32", "float64", "int32", "int64", "int8"), none=True),
        "Type of the result; that of the input by default.",
        default=None,
    )
    keepdims: bool = param(BOOL, "Whether reduced axes stay with size 1.", default=False)

    def _check(self) -> None:
        if self.ord not in (1, 2):
            raise ParameterError(f"{self.operator}: ord: got {self.ord}; need 1 or 2")


def _norm_shape(params: NormParams, data: PartialShape) -> PartialShape:
    assert data is not None
    return reduced_shape(data, reduced_axes("norm", params.axis, len(data)), params.keepdims)


def _norm_dtypes(params: NormParams, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
    return (
        one_dtype(params, inputs, outputs) if params.out_dtype is None else (inputs, [as_dtype(params.out_dtype)])
    )


@quiet
def _norm(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: NormParams = call.params
    (data,) = inputs
    axes = reduced_axes("norm", params.axis, data.ndim)
    sizes = np.abs(data.astype(np.float64))
    # Scaling by the largest keeps squares in range.
    scale = np.max(sizes, axis=axes, keepdims=True, initial=0)
    scale = np.where((scale == 0) | ~np.isfinite(scale), 1, scale)
    powers = np.sum((sizes / scale) ** params.ord, axis=axes, keepdims=True)
    result = scale * (np.sqrt(powers) if params.ord == 2 else powers)
    dtype = data.dtype if params.out_dtype is None else as_dtype(params.out_dtype)
    return [result.reshape([n or 0 for n in _norm_shape(params, data.shape) or ()]).astype(dtype)]


@quiet
def _norm_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: NormParams = call.params
    (data,) = inputs
    axes = reduced_axes("norm", params.axis, data.ndim)
    kept = [1 if axis in axes else size for axis, size in enumerate(data.shape)]
    x, grad, length = arithmetic(data), arithmetic(out_grads[0]), arithmetic(outputs[0])
    slope = np.sign(x) if params.ord == 1 else np.where(x == 0, 0, x / length.reshape(kept))
    return [(grad.reshape(kept) * slope).astype(data.dtype, copy=False)]


register(
    Operator(
        name="norm",
        params=named(NormParams, "norm"),
        inputs=("data",),
        shape=forwards(_norm_shape),
        dtype=_norm_dtypes,
        forward=_norm,
        backward=_norm_backward,
        doc="The length of `data` over `axis`; over all axes the result has shape (1,).",
    )
)
