"""Shapes and places: operators that move elements or give them another shape, computing nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tconv.errors import ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.operators.compute import Function, no_gradient, normal_axis
from tconv.operators.registry import (
    Array,
    Call,
    DTypes,
    Operator,
    PartialShapes,
    ShapeRule,
    TypeRule,
    one_dtype,
    register,
    show,
)
from tconv.params import (
    BOOL,
    INT,
    INT_OR_NONE,
    SHAPE,
    Params,
    named,
    param,
)


def size_of(shape: PartialShape) -> int | None:
    """Return the number of elements of a shape, None if it is not known."""
    if shape is None or None in shape:
        return None
    return prod(size for size in shape if size is not None)


def _solve_unknown(shape: PartialShape, elements: int | None) -> PartialShape:
    """Fill in the only unknown size of a shape of so many elements."""
    if shape is None or elements is None or shape.count(None) != 1:
        return shape
    known = prod(size for size in shape if size is not None)
    if known == 0 or elements % known:
        return shape
    return tuple(elements // known if size is None else size for size in shape)


def _as_input(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    return [out_grads[0].reshape(inputs[0].shape), *(np.zeros_like(like) for like in inputs[1:])]


class ReshapeParams(Params):
    """Parameters of `Reshape`."""

    shape: Shape = param(
        SHAPE,
        "Wanted shape; 0 keeps a size, -1 is what remains, -2 keeps all that follow, -3 merges two, -4 splits one "
        "into the two that follow.",
        default=(),
    )
    reverse: bool = param(BOOL, "Whether the codes are read from the last axis to the first.", default=False)
    target_shape: Shape = param(SHAPE, "An older form of shape, in which one 0 is what remains.", default=())
    keep_highest: bool = param(BOOL, "Whether the first size stays, with target_shape.", default=False)


def _split(code: tuple[int, int], size: int | None, error: ShapeError) -> tuple[int | None, int | None]:
    first, second = code
    if first == -1 == second or 0 in code or min(code) < -1:
        raise error
    if size is not None:
        if first == -1:
            first = size // second
        if second == -1:
            second = size // first
        if first * second != size:
            raise error
    return (None if first == -1 else first), (None if second == -1 else second)


def reshaped(operator: str, data: tuple[int | None, ...], codes: Shape, reverse: bool = False) -> PartialShape:
    """Return the shape MXNet's codes make of the shape `data`, as far as it is known.

    Raises
    ------
    ShapeError
        If the codes do not fit `data`.
    """
    error = ShapeError(f"{operator}: shape: got {codes} for data of shape {show(data)}; they do not fit")
    step = -1 if reverse else 1
    source, remaining = list(data[::step]), list(codes[::step])
    result: list[int | None] = []
    rest = None
    at = 0
    while remaining:
        code = remaining.pop(0)
        if code == 0 or code == -3 or code == -4:
            if at + (code == -3) >= len(source):
                raise error
            size = source[at]
            at += 1
        if code == 0:
            result.append(size)
        elif code == -1:
            if rest is not None:
                raise error
            rest = len(result)
            result.append(1)
            at += 1
        elif code == -2:
            result += source[at:]
            at = max(at, len(source))
        elif code == -3:
            other = source[at]
            at += 1
            result.append(None if size is None or other is None else size * other)
        elif code == -4:
            if len(remaining) < 2:
                raise error
            result += _split((remaining.pop(0), remaining.pop(0)), size, error)
        elif code > 0:
            result.append(code)
            at += 1
        else:
            raise error
    elements, made = size_of(data), size_of(tuple(result))
    if rest is not None:
        if elements is None or made is None:
            result[rest] = None
        elif made == 0 or elements % made:
            raise error
        else:
            result[rest] = elements // made
    elif elements is not None and made is not None and elements != made:
        raise error
    return tuple(result[::step])


def _target_shape(params: ReshapeParams, data: tuple[int | None, ...]) -> PartialShape:
    error = ShapeError(f"Reshape: target_shape: got {params.target_shape} for data of shape {show(data)}; no fit")
    target: list[int | None] = list(params.target_shape)
    if not target or min(params.target_shape) < 0:
        raise error
    if params.keep_highest:
        target[0] = data[0]
    zeros = [axis for axis, size in enumerate(target) if size == 0 and not (params.keep_highest and axis == 0)]
    if len(zeros) > 1:
        raise error
    for axis in zeros:
        target[axis] = None
    elements = size_of(data)
    shape = _solve_unknown(tuple(target), elements)
    if elements is not None and size_of(shape) != elements:
        raise error
    return shape


def _reshape_shape(
    params: ReshapeParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    (data,), (out,) = inputs, outputs
    if data is None:
        return inputs, outputs
    if params.shape:
        found = reshaped("Reshape", data, params.shape, params.reverse)
    elif params.target_shape:
        found = _target_shape(params, data)
    else:
        raise ShapeError(f"Reshape: shape: missing; need the sizes that data of shape {show(data)} becomes")
    found = _solve_unknown(found, size_of(data))
    return [_solve_unknown(data, size_of(found if size_of(out) is None else out))], [found]


def _reshape(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    _, (shape,) = _reshape_shape(call.params, [inputs[0].shape], [None])
    assert shape is not None
    return [inputs[0].reshape([size for size in shape if size is not None])]


register(
    Operator(
        name="Reshape",
        params=named(ReshapeParams, "Reshape"),
        inputs=("data",),
        shape=_reshape_shape,
        forward=_reshape,
        backward=_as_input,
        aliases=("reshape",),
        view=True,
        doc="The elements of `data`, in their order, in another shape.",
    )
)


def _flatten_shape(
    params: Params, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    (data,) = inputs
    if not data:
        return inputs, outputs
    return inputs, [(data[0], size_of(data[1:]))]


def _flatten(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    (data,) = inputs
    return [data.reshape(len(data), prod(data.shape[1:]))]


register(
    Operator(
        name="Flatten",
        params=named(Params, "Flatten"),
        inputs=("data",),
        shape=_flatten_shape,
        forward=_flatten,
        backward=_as_input,
        aliases=("flatten",),
        view=True,
        doc="`data` with all axes but the first made one.",
    )
)


def forwards(function: Function) -> ShapeRule:
    """Return the rule that `function` of parameters and input shapes, all of known rank, gives the output shape."""

    def rule(params: Params, inputs: PartialShapes, outputs: PartialShapes) -> tuple[PartialShapes, PartialShapes]:
        return inputs, [None if None in inputs else function(params, *inputs)]

    return rule


def free_dtypes(count: int) -> TypeRule:
    """Return the rule that all share one type except the last `count` inputs, which have their own."""

    def rule(params: Params, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
        bound = len(inputs) - count
        known, _ = one_dtype(params, inputs[:bound], outputs)
        return [*known, *inputs[bound:]], [known[0]]

    return rule


def known(shape: PartialShape) -> Shape:
    """Return a shape all of whose sizes are known."""
    assert shape is not None
    return tuple(size for size in shape if size is not None)


class ReshapeLikeParams(Params):
    """Parameters of `reshape_like`."""

    lhs_begin: int | None = param(INT_OR_NONE, "First axis of lhs to replace.", default=None)
    lhs_end: int | None = param(INT_OR_NONE, "Axis of lhs after the last to replace.", default=None)
    rhs_begin: int | None = param(INT_OR_NONE, "First axis of rhs to take.", default=None)
    rhs_end: int | None = param(INT_OR_NONE, "Axis of rhs after the last to take.", default=None)


def _span(side: str, begin: int | None, end: int | None, rank: int) -> slice:
    first = 0 if begin is None else begin + rank * (begin < 0)
    last = rank if end is None else end + rank * (end < 0)
    if not 0 <= first <= last <= rank:
        raise ShapeError(f"reshape_like: {side}_begin: got {begin} to {end}; {side} has {rank} dimensions")
    return slice(first, last)


def _reshape_like_shape(params: ReshapeLikeParams, left: PartialShape, right: PartialShape) -> PartialShape:
    assert left is not None
    assert right is not None
    replaced = _span("lhs", params.lhs_begin, params.lhs_end, len(left))
    taken = right[_span("rhs", params.rhs_begin, params.rhs_end, len(right))]
    shape = (*left[: replaced.start], *taken, *left[replaced.stop :])
    if None not in (size_of(left), size_of(shape)) and size_of(left) != size_of(shape):
        raise ShapeError(f"reshape_like: rhs: got {show(right)}; lhs {show(left)} has another number of elements")
    return shape


register(
    Operator(
        name="reshape_like",
        params=named(ReshapeLikeParams, "reshape_like"),
        inputs=("lhs", "rhs"),
        shape=forwards(_reshape_like_shape),
        dtype=free_dtypes(1),
        forward=lambda call, inputs: [
            inputs[0].reshape(known(_reshape_like_shape(call.params, inputs[0].shape, inputs[1].shape)))
        ],
        backward=_as_input,
        view=True,
        doc="`lhs` in the shape of `rhs`, or with some axes replaced by axes of `rhs`.",
    )
)


class TransposeParams(Params):
    """Parameters of `transpose`."""

    axes: Shape = param(SHAPE, "Axis of the input for each axis of the output; reversed by default.", default=())


def _order(params: TransposeParams, rank: int) -> Shape:
    if not params.axes:
        return tuple(range(rank))[::-1]
    order = tuple(axis + rank * (axis < 0) for axis in params.axes)
    if sorted(order) != list(range(rank)):
        raise ShapeError(f"transpose: axes: got {params.axes}; need each axis of {rank} dimensions once")
    return order


def _transpose_shape(
    params: TransposeParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    (data,), (out,) = inputs, outputs
    if data is None and out is None:
        return inputs, outputs
    order = _order(params, len(data if data is not None else out or ()))
    if data is None or (out is not None and len(out) != len(data)):
        data = (None,) * len(order)
    if out is not None and len(out) == len(order):
        source = dict(zip(order, out))
        data = tuple(source[axis] if size is None else size for axis, size in enumerate(data))
    return [data], [tuple(data[axis] for axis in order)]


register(
    Operator(
        name="transpose",
        params=named(TransposeParams, "transpose"),
        inputs=("data",),
        shape=_transpose_shape,
        forward=lambda call, inputs: [inputs[0].transpose(_order(call.params, inputs[0].ndim))],
        backward=lambda call, inputs, outputs, out_grads: [
            out_grads[0].transpose(np.argsort(_order(call.params, inputs[0].ndim)))
        ],
        view=True,
        doc="`data` with its axes in another order.",
    )
)


class SwapAxisParams(Params):
    """Parameters of `SwapAxis`."""

    dim1: int = param(INT, "One axis.", default=0)
    dim2: int = param(INT, "The other axis.", default=0)


def _swap_shape(params: SwapAxisParams, data: PartialShape) -> PartialShape:
    assert data is not None
    shape = list(data)
    one, other = (normal_axis("SwapAxis", axis, len(data)) for axis in (params.dim1, params.dim2))
    shape[one], shape[other] = shape[other], shape[one]
    return tuple(shape)


register(
    Operator(
        name="SwapAxis",
        params=named(SwapAxisParams, "SwapAxis"),
        inputs=("data",),
        shape=forwards(_swap_shape),
        forward=lambda call, inputs: [inputs[0].swapaxes(call.params.dim1, call.params.dim2)],
        backward=lambda call, inputs, outputs, out_grads: [
            out_grads[0].swapaxes(call.params.dim1, call.params.dim2)
        ],
        aliases=("swapaxes",),
        view=True,
        doc="`data` with two axes exchanged.",
    )
)


class ExpandDimsParams(Params):
    """Parameters of `expand_dims`."""

    axis: int = param(INT, "Where in the output the new axis is, from the end where negative.")


def _expand_shape(
    params: ExpandDimsParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    (data,), (out,) = inputs, outputs
    if data is None and not out:
        return inputs, outputs
    rank = len(data) + 1 if data is not None else len(out or ())
    axis = normal_axis("expand_dims", params.axis, rank)
    if data is None:
        assert out is not None
        data = (*out[:axis], *out[axis + 1 :])
    elif out is not None and len(out) == rank:
        data = tuple(a if b is None else b for a, b in zip((*out[:axis], *out[axis + 1 :]), data))
    return [data], [(*data[:axis], 1, *data[axis:])]


register(
    Operator(
        name="expand_dims",
        params=named(ExpandDimsParams, "expand_dims"),
        inputs=("data",),
        shape=_expand_shape,
        forward=lambda call, inputs: [np.expand_dims(inputs[0], call.params.axis)],
        backward=_as_input,
        view=True,
        doc="`data` with a new axis of size 1.",
    )
)


class SqueezeParams(Params):
    """Parameters of `squeeze`."""

    axis: Shape | None = param(SHAPE, "Axes of size 1 to drop; all of them by default.", default=None)


def _squeeze_shape(params: SqueezeParams, data: PartialShape) -> PartialShape:
    assert data is not None
    if params.axis is None:
        if None in data:
            return None
        return tuple(size for size in data if size != 1) or (1,)
    axes = [normal_axis("squeeze", axis, len(data)) for axis in params.axis]
    if len(set(axes)) < len(axes) or any(data[axis] not in (1, None) for axis in axes):
        raise ShapeError(f"squeeze: axis: got {params.axis} for {show(data)}; need different axes of size 1")
    return tuple(size for axis, size in enumerate(data) if axis not in axes) or (1,)


register(
    Operator(
        name="squeeze",
        params=named(SqueezeParams, "squeeze"),
        inputs=("data",),
        shape=forwards(_squeeze_shape),
        forward=lambda call, inputs: [inputs[0].reshape(known(_squeeze_shape(call.params, inputs[0].shape)))],
        backward=_as_input,
        view=True,
        doc="`data` without axes of size 1; one axis at least is left.",
    )
)


class BlockParams(Params):
    """Parameters of `depth_to_space` and `space_to_depth`."""

    block_size: int = param(INT, "Height and width of a block.")


def _block_shape(params: BlockParams, data: PartialShape, to_space: bool) -> PartialShape:
    assert data is not None
    block = params.block_size
    if len(data) != 4 or block < 1:
        raise ShapeError(f"{params.operator}: block_size: got {block} for {show(data)}; need 4 dimensions")
    down, up = ((0, block * block, 0, 0), (0, 0, block, block))
    if not to_space:
        down, up = (0, 0, block, block), (0, block * block, 0, 0)
    if any(size is not None and by and size % by for size, by in zip(data, down)):
        raise ShapeError(f"{params.operator}: block_size: got {block}; it does not divide {show(data)}")
    return tuple(None if size is None else size // (a or 1) * (b or 1) for size, a, b in zip(data, down, up))


def _depth_to_space(x: Array, block: int) -> Array:
    batch, channels, height, width = x.shape
    left = channels // (block * block)
    blocks: Array = x.reshape(batch, block, block, left, height, width).transpose(0, 3, 4, 1, 5, 2)
    return blocks.reshape(batch, left, height * block, width * block)


def _space_to_depth(x: Array, block: int) -> Array:
    batch, channels, height, width = x.shape
    rows, columns = height // block, width // block
    blocks: Array = x.reshape(batch, channels, rows, block, columns, block).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(batch, channels * block * block, rows, columns)


def _declare_block(name: str, there: Function, back: Function, to_space: bool, doc: str) -> None:
    register(
        Operator(
            name=name,
            params=named(BlockParams, name),
            inputs=("data",),
            shape=forwards(lambda params, data: _block_shape(params, data, to_space)),
            forward=lambda call, inputs: [there(inputs[0], call.params.block_size)],
            backward=lambda call, inputs, outputs, out_grads: [back(out_grads[0], call.params.block_size)],
            doc=doc,
        )
    )


_declare_block("depth_to_space", _depth_to_space, _space_to_depth, True, "Channels become blocks of pixels.")
_declare_block("space_to_depth", _space_to_depth, _depth_to_space, False, "Blocks of pixels become channels.")


def _declare_measure(name: str, measure: Function, shape: Function, doc: str) -> None:
    register(
        Operator(
            name=name,
            params=named(Params, name),
            inputs=("data",),
            shape=forwards(shape),
            dtype=lambda params, inputs, outputs: (inputs, [np.dtype(np.int64)]),
            forward=lambda call, inputs: [np.array(measure(inputs[0]), np.int64).reshape(-1)],
            backward=no_gradient,
            doc=doc,
        )
    )


_declare_measure("shape_array", lambda x: x.shape, lambda params, data: (len(data),), "The shape of `data`.")
_declare_measure("size_array", lambda x: x.size, lambda params, data: (1,), "The number of elements of `data`.")
