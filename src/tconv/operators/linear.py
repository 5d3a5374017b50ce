"""Products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tconv.errors import ShapeError
from tconv.geometry import PartialShape
from tconv.operators.compute import Function, arithmetic, normal_axis, quiet
from tconv.operators.registry import Array, Call, Operator, register, show
from tconv.operators.tensor import forwards
from tconv.params import BOOL, FLOAT, INT, ChoiceText, Params, named, param


class DotParams(Params):
    """Parameters of `dot` and `batch_dot`."""

    transpose_a: bool = param(BOOL, "Whether lhs comes transposed.", default=False)
    transpose_b: bool = param(BOOL, "Whether rhs comes transposed.", default=False)
    forward_stype: str | None = param(
        ChoiceText(("csr", "default", "row_sparse"), none=True), "Kind of storage; all is dense here.", default=None
    )


def _agree(operator: str, left: PartialShape, right: PartialShape, a: int | None, b: int | None) -> None:
    if a is not None and b is not None and a != b:
        assert left is not None
        assert right is not None
        raise ShapeError(f"{operator}: rhs: got {show(right)}; its inner size does not fit lhs {show(left)}")


def _dot_shape(params: DotParams, left: PartialShape, right: PartialShape) -> PartialShape:
    assert left is not None
    assert right is not None
    if not left or not right:
        raise ShapeError(f"dot: lhs: got {show(left)} and rhs {show(right)}; need at least 1 dimension")
    if len(left) == len(right) == 1:
        _agree("dot", left, right, left[0], right[0])
        return (1,)
    inner_left, outer_left = (left[0], left[1:]) if params.transpose_a else (left[-1], left[:-1])
    inner_right, outer_right = (right[-1], right[:-1]) if params.transpose_b else (right[0], right[1:])
    _agree("dot", left, right, inner_left, inner_right)
    return (*outer_left, *outer_right)


def _matrix(array: Array, transposed: bool, inner_first: bool) -> Array:
    """Return an array as a matrix with its inner axis where it is, then transposed if asked to."""
    first = inner_first is not transposed
    rows = array.shape[0] if first else prod(array.shape[:-1])
    columns = prod(array.shape[1:]) if first else array.shape[-1]
    matrix = arithmetic(array).reshape(rows, columns)
    return matrix.T if transposed else matrix


@quiet
def _dot(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: DotParams = call.params
    left, right = inputs
    product = _matrix(left, params.transpose_a, False) @ _matrix(right, params.transpose_b, True)
    shape = _dot_shape(params, left.shape, right.shape)
    assert shape is not None
    return [product.reshape([size or 0 for size in shape]).astype(left.dtype, copy=False)]


@quiet
def _dot_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: DotParams = call.params
    a = _matrix(inputs[0], params.transpose_a, False)
    b = _matrix(inputs[1], params.transpose_b, True)
    grad = arithmetic(out_grads[0]).reshape(len(a), b.shape[1])
    by_a, by_b = grad @ b.T, a.T @ grad
    return [
        (by.T if transposed else by).reshape(array.shape).astype(array.dtype, copy=False)
        for by, transposed, array in zip((by_a, by_b), (params.transpose_a, params.transpose_b), inputs)
    ]


register(
    Operator(
        name="dot",
        params=named(DotParams, "dot"),
        inputs=("lhs", "rhs"),
        shape=forwards(_dot_shape),
        forward=_dot,
        backward=_dot_backward,
        doc="The product over the last axis of `lhs` and the first of `rhs`; of two vectors it has shape (1,).",
    )
)


def _turned(array: Array, transposed: bool) -> Array:
    return array.swapaxes(-1, -2) if transposed else array


class Gemm2Params(Params):
    """Parameters of `_linalg_gemm2`."""

    transpose_a: bool = param(BOOL, "Whether A comes transposed.", default=False)
    transpose_b: bool = param(BOOL, "Whether B comes transposed.", default=False)
    alpha: float = param(FLOAT, "What the product is multiplied by.", default=1.0)
    axis: int = param(INT, "The axis of the rows; the columns are the last axis.", default=-2)


def _rows_next_to_last(params: DotParams | Gemm2Params, array: Array) -> Array:
    return array if isinstance(params, DotParams) else np.moveaxis(array, params.axis, -2)


def _rows_back(params: DotParams | Gemm2Params, array: Array) -> Array:
    return array if isinstance(params, DotParams) else np.moveaxis(array, -2, params.axis)


def _product_shape(params: DotParams | Gemm2Params, left: PartialShape, right: PartialShape) -> PartialShape:
    assert left is not None
    assert right is not None
    name, rank = params.operator, len(left)
    least = 3 if isinstance(params, DotParams) else 2
    if rank < least or len(right) != rank:
        raise ShapeError(f"{name}: rhs: got {show(right)} with {show(left)}; need {least} dimensions at least")
    row = rank - 2 if isinstance(params, DotParams) else normal_axis(name, params.axis, rank)
    if row == rank - 1:
        raise ShapeError(f"{name}: axis: got {params.axis}; the last axis is that of the columns")  # type: ignore[union-attr]
    inner_left, height = (row, rank - 1) if params.transpose_a else (rank - 1, row)
    inner_right, width = (rank - 1, row) if params.transpose_b else (row, rank - 1)
    _agree(name, left, right, left[inner_left], right[inner_right])
    shape: list[int | None] = []
    for axis in range(rank):
        if axis in (row, rank - 1):
            shape.append(left[height] if axis == row else right[width])
        else:
            _agree(name, left, right, left[axis], right[axis])
            shape.append(right[axis] if left[axis] is None else left[axis])
    return tuple(shape)


def _scale(params: DotParams | Gemm2Params) -> float:
    return 1.0 if isinstance(params, DotParams) else params.alpha


@quiet
def _product(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params = call.params
    a, b = (_rows_next_to_last(params, arithmetic(array)) for array in inputs)
    product = _turned(a, params.transpose_a) @ _turned(b, params.transpose_b)
    if _scale(params) != 1:
        product = product * _scale(params)
    return [_rows_back(params, product).astype(inputs[0].dtype, copy=False)]


@quiet
def _product_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params = call.params
    a, b = (_rows_next_to_last(params, arithmetic(array)) for array in inputs)
    a, b = _turned(a, params.transpose_a), _turned(b, params.transpose_b)
    grad = _rows_next_to_last(params, arithmetic(out_grads[0])) * _scale(params)
    by_a = _turned(grad @ b.swapaxes(-1, -2), params.transpose_a)
    by_b = _turned(a.swapaxes(-1, -2) @ grad, params.transpose_b)
    return [_rows_back(params, by).astype(array.dtype, copy=False) for by, array in zip((by_a, by_b), inputs)]


def _declare_product(base: type[Params], names: tuple[str, ...], inputs: tuple[str, str], doc: str) -> None:
    rule: Function = _product_shape
    register(
        Operator(
            name=names[0],
            params=named(base, names[0]),
            inputs=inputs,
            shape=forwards(rule),
            forward=_product,
            backward=_product_backward,
            aliases=names[1:],
            doc=doc,
        )
    )


_declare_product(DotParams, ("batch_dot",), ("lhs", "rhs"), "The products of two batches of matrices.")
_declare_product(
    Gemm2Params,
    ("_linalg_gemm2", "linalg_gemm2"),
    ("A", "B"),
    "`alpha * A @ B` for batches of matrices.",
)
