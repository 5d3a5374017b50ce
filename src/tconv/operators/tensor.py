"""Shapes and places: operators that move elements or give them another shape, computing nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from tconv.errors import ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.operators.registry import Array, Call, Operator, PartialShapes, register, show
from tconv.params import BOOL, SHAPE, Params, named, param


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


@dataclass(frozen=True, kw_only=True)
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
