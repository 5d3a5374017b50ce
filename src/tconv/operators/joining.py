"""Arrays joined, split and repeated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tconv.errors import ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.operators.compute import normal_axis, total
from tconv.operators.registry import Array, Call, Operator, PartialShapes, merge, one_dtype, register, show
from tconv.operators.tensor import forwards, size_of
from tconv.params import BOOL, INT, INT_OR_NONE, SHAPE, Params, named, param


class ConcatParams(Params):
    """Parameters of `Concat`."""

    num_args: int = param(INT, "Number of inputs.", low=1)
    dim: int = param(INT, "The axis to join along.", default=1)


def _concat_shape(
    params: ConcatParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    merged: PartialShape = None
    sizes: list[int | None] = []
    for shape in (*inputs, *outputs):
        if shape is None:
            sizes.append(None)
            continue
        axis = normal_axis("Concat", params.dim, len(shape))
        sizes.append(shape[axis])
        merged = merge("Concat: inputs", merged, (*shape[:axis], None, *shape[axis + 1 :]))
    if merged is None:
        return inputs, outputs
    parts = [size for size in sizes[: len(inputs)] if size is not None]
    summed = sum(parts) if len(parts) == len(inputs) else None
    return [merged] * len(inputs), [(*merged[:axis], summed, *merged[axis + 1 :])]


def _concat(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    axis = call.params.dim
    if call.out is not None and call.out.dtype == inputs[0].dtype:
        return [np.concatenate(inputs, axis=axis, out=call.out)]
    return [np.concatenate(inputs, axis=axis)]


def _concat_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    axis = call.params.dim
    return np.split(out_grads[0], np.cumsum([array.shape[axis] for array in inputs])[:-1], axis=axis)


register(
    Operator(
        name="Concat",
        params=named(ConcatParams, "Concat"),
        inputs=(),
        count="num_args",
        shape=_concat_shape,
        forward=_concat,
        backward=_concat_backward,
        aliases=("concat",),
        doc="The inputs joined along the axis `dim`.",
    )
)


class StackParams(Params):
    """Parameters of `stack`."""

    axis: int = param(INT, "Where in the output the new axis is.", default=0)
    num_args: int = param(INT, "Number of inputs.", low=1)


def _stack_shape(
    params: StackParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    merged: PartialShape = None
    for shape in inputs:
        merged = merge("stack: inputs", merged, shape)
    if merged is None:
        return inputs, outputs
    axis = normal_axis("stack", params.axis, len(merged) + 1)
    return [merged] * len(inputs), [(*merged[:axis], len(inputs), *merged[axis:])]


register(
    Operator(
        name="stack",
        params=named(StackParams, "stack"),
        inputs=(),
        count="num_args",
        shape=_stack_shape,
        forward=lambda call, inputs: [np.stack(inputs, axis=call.params.axis)],
        backward=lambda call, inputs, outputs, out_grads: list(np.moveaxis(out_grads[0], call.params.axis, 0)),
        doc="The inputs, all of one shape, joined along a new axis.",
    )
)


class SliceChannelParams(Params):
    """Parameters of `SliceChannel`."""

    num_outputs: int = param(INT, "Number of parts.", low=1)
    axis: int = param(INT, "The axis to split.", default=1)
    squeeze_axis: bool = param(BOOL, "Whether to drop the axis, its parts having size 1.", default=False)


def _split_outputs(params: SliceChannelParams) -> tuple[str, ...]:
    return ("output",) if params.num_outputs == 1 else tuple(f"output{n}" for n in range(params.num_outputs))


def _split_shape(
    params: SliceChannelParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    (data,), count = inputs, params.num_outputs
    if data is None:
        return inputs, outputs
    axis = normal_axis("SliceChannel", params.axis, len(data))
    size = data[axis]
    if size is not None and (size % count or (params.squeeze_axis and size != count)):
        raise ShapeError(
            f"SliceChannel: num_outputs: got {count}; axis {axis} of {show(data)} does not split into that"
        )
    part = None if size is None else size // count
    kept: tuple[int | None, ...] = () if params.squeeze_axis else (part,)
    found: PartialShape = (*data[:axis], *kept, *data[axis + 1 :])
    for out in outputs:
        found = merge("SliceChannel: output", found, out)
    assert found is not None
    if not params.squeeze_axis and (wide := found[axis]) is not None:
        size = wide * count
    elif params.squeeze_axis:
        size = count
    rest = found[axis:] if params.squeeze_axis else found[axis + 1 :]
    return [(*found[:axis], size, *rest)], [found] * count


def _split_forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    parts = np.split(inputs[0], call.params.num_outputs, axis=call.params.axis)
    return [np.squeeze(part, call.params.axis) for part in parts] if call.params.squeeze_axis else parts


def _split_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    join = np.stack if call.params.squeeze_axis else np.concatenate
    return [join(list(out_grads), axis=call.params.axis)]


register(
    Operator(
        name="SliceChannel",
        params=named(SliceChannelParams, "SliceChannel"),
        inputs=("data",),
        outputs=_split_outputs,
        shape=_split_shape,
        dtype=one_dtype,
        forward=_split_forward,
        backward=_split_backward,
        aliases=("split",),
        view=True,
        doc="`data` split into equal parts along an axis.",
    )
)


class SplitParams(Params):
    """Parameters of `_split_v2`."""

    indices: Shape = param(SHAPE, "Where parts begin, the first at 0; not used with sections.")
    axis: int = param(INT, "The axis to split.", default=1)
    squeeze_axis: bool = param(BOOL, "Whether to drop the axis, its parts having size 1.", default=False)
    sections: int = param(INT, "Number of equal parts; 0 to split at indices.", default=0)


def _section_outputs(params: SplitParams) -> tuple[str, ...]:
    count = params.sections if params.sections > 0 else len(params.indices or ())
    return ("output",) if count == 1 else tuple(f"output{n}" for n in range(count))


def _sections(params: SplitParams, size: int) -> list[slice]:
    """Return the places of the parts on an axis of this size."""
    if params.sections > 0:
        # Where they cannot be equal, the first ones are longer by one.
        step, longer = divmod(size, params.sections)
        starts = tuple(n * step + min(n, longer) for n in range(params.sections))
    else:
        starts = params.indices or ()
        if not starts or starts[0] != 0 or list(starts) != sorted(starts) or starts[-1] > size:
            raise ShapeError(f"_split_v2: indices: got {starts}; need rising numbers from 0 to at most {size}")
    return [slice(a, b) for a, b in zip(starts, (*starts[1:], size))]


def _sections_shape(
    params: SplitParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    (data,) = inputs
    if data is None:
        return inputs, outputs
    axis = normal_axis("_split_v2", params.axis, len(data))
    size = data[axis]
    if size is None:
        return inputs, outputs
    parts = [part.stop - part.start for part in _sections(params, size)]
    if params.squeeze_axis and any(part != 1 for part in parts):
        raise ShapeError(f"_split_v2: squeeze_axis: parts of {show(data)} have sizes {parts}; need 1")
    kept = [() if params.squeeze_axis else (part,) for part in parts]
    return inputs, [(*data[:axis], *one, *data[axis + 1 :]) for one in kept]


def _sections_forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    (data,) = inputs
    axis = call.params.axis % data.ndim
    before = (slice(None),) * axis
    places = [(*before, part) for part in _sections(call.params, data.shape[axis])]
    parts = [data[place] for place in places]
    return [np.squeeze(part, axis) for part in parts] if call.params.squeeze_axis else parts


register(
    Operator(
        name="_split_v2",
        params=named(SplitParams, "_split_v2"),
        inputs=("data",),
        outputs=_section_outputs,
        shape=_sections_shape,
        forward=_sections_forward,
        backward=_split_backward,
        view=True,
        doc="`data` split along an axis, into sections of about equal size or at indices.",
    )
)


class TileParams(Params):
    """Parameters of `tile`."""

    reps: Shape = param(SHAPE, "How often to repeat along each axis, last axes first to be matched.")


def _tile_shape(params: TileParams, data: PartialShape) -> PartialShape:
    assert data is not None
    reps = params.reps or ()
    if any(rep < 0 for rep in reps):
        raise ShapeError(f"tile: reps: got {reps}; none may be negative")
    rank = max(len(reps), len(data))
    wide = (1,) * (rank - len(data)) + data
    return tuple(None if size is None else size * rep for size, rep in zip(wide, (1,) * (rank - len(reps)) + reps))


def _tile_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    (data,), (grad,) = inputs, out_grads
    rank = grad.ndim
    sizes = (1,) * (rank - data.ndim) + data.shape
    given: Shape = call.params.reps or ()
    reps = (1,) * (rank - len(given)) + given
    blocks = grad.reshape([n for rep, size in zip(reps, sizes) for n in (rep, size)])
    return [total(blocks, tuple(range(0, 2 * rank, 2))).reshape(data.shape)]


register(
    Operator(
        name="tile",
        params=named(TileParams, "tile"),
        inputs=("data",),
        shape=forwards(_tile_shape),
        forward=lambda call, inputs: [np.tile(inputs[0], call.params.reps or ())],
        backward=_tile_backward,
        doc="`data` repeated as a whole along its axes.",
    )
)


class RepeatParams(Params):
    """Parameters of `repeat`."""

    repeats: int = param(INT, "How often each element occurs.")
    axis: int | None = param(INT_OR_NONE, "The axis; by default the input is flattened.", default=None)


def _repeat_shape(params: RepeatParams, data: PartialShape) -> PartialShape:
    assert data is not None
    if params.repeats < 0:
        raise ShapeError(f"repeat: repeats: got {params.repeats}; it may not be negative")
    if params.axis is None:
        elements = size_of(data)
        return (None if elements is None else elements * params.repeats,)
    axis = normal_axis("repeat", params.axis, len(data))
    size = data[axis]
    return (*data[:axis], None if size is None else size * params.repeats, *data[axis + 1 :])


def _repeat_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    (data,), (grad,) = inputs, out_grads
    axis = data.ndim - 1 if call.params.axis is None else call.params.axis % data.ndim
    blocks = grad.reshape(*data.shape[: axis + 1], call.params.repeats, *data.shape[axis + 1 :])
    return [total(blocks, (axis + 1,))]


register(
    Operator(
        name="repeat",
        params=named(RepeatParams, "repeat"),
        inputs=("data",),
        shape=forwards(_repeat_shape),
        forward=lambda call, inputs: [np.repeat(inputs[0], call.params.repeats, axis=call.params.axis)],
        backward=_repeat_backward,
        doc="`data` with every element repeated along an axis.",
    )
)
