"""Operators that move, cut, join and pick elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tconv.onnx.graph import LAST, Site, converts
from tconv.operators.registry import Call, find


@converts("_zeros", "_ones", "_full", "_arange", "_eye")
def _made(site: Site) -> str:
    (value,) = find(site.operator).forward(Call(site.params), [])
    return site.constant(value, value.dtype)


@converts("zeros_like", "ones_like")
def _filled_like(site: Site) -> str:
    value = np.full(1, site.operator == "ones_like", site.out_dtypes[0])
    return site.add("ConstantOfShape", site.shape_of(), value=value)


@converts("shape_array")
def _shape_array(site: Site) -> str:
    return site.add("Shape", site.inputs[0])


@converts("size_array")
def _size_array(site: Site) -> str:
    return site.reshape(site.add("Size", site.inputs[0]), [1])


@converts("Reshape")
def _reshape(site: Site) -> str:
    params = site.params
    if params.shape and min(params.shape) >= -1 and not params.reverse:
        # These codes ONNX reads as MXNet does.
        return site.reshape(site.inputs[0], params.shape)
    out = site.out_shapes[0]
    if out is None or out.count(None) > 1:
        raise site.refusal("shape", params.shape or params.target_shape, "at most one size that varies")
    return site.reshape(site.inputs[0], [-1 if size is None else size for size in out])


@converts("Flatten")
def _flatten(site: Site) -> str:
    return site.add("Flatten", site.inputs[0], axis=1)


@converts("reshape_like")
def _reshape_like(site: Site) -> str:
    params = site.params
    left, right = (list(range(site.rank(place))) for place in (0, 1))
    sizes: list[int | str] = [site.size_of(site.inputs[0], 0, axis) for axis in left]
    wanted = [site.size_of(site.inputs[1], 1, axis) for axis in right[params.rhs_begin : params.rhs_end]]
    sizes[params.lhs_begin : params.lhs_end] = wanted
    return site.reshape(site.inputs[0], sizes)


@converts("transpose")
def _transpose(site: Site) -> str:
    rank = site.rank()
    return site.transpose(site.inputs[0], [axis % rank for axis in site.params.axes] or list(range(rank))[::-1])


@converts("SwapAxis")
def _swap_axis(site: Site) -> str:
    order = list(range(site.rank()))
    first, second = site.params.dim1, site.params.dim2
    order[first], order[second] = order[second], order[first]
    return site.transpose(site.inputs[0], order)


@converts("expand_dims")
def _expand_dims(site: Site) -> str:
    return site.add("Unsqueeze", site.inputs[0], site.integers([site.params.axis]))


@converts("squeeze")
def _squeeze(site: Site) -> str:
    out = site.out_shapes[0]
    if out is None or out.count(None) > 1:
        raise site.refusal("data", "sizes that vary", "fixed ones")
    return site.reshape(site.inputs[0], [-1 if size is None else size for size in out])


@converts("slice")
def _slice(site: Site) -> str:
    params = site.params
    steps = [1 if step is None else step for step in params.step or (1,) * len(params.begin)]
    starts = [(0 if step > 0 else LAST) if begin is None else begin for begin, step in zip(params.begin, steps)]
    ends = [(LAST if step > 0 else -LAST) if end is None else end for end, step in zip(params.end, steps)]
    axes = range(len(steps))
    return site.slices(site.inputs[0], list(axes), site.integers(starts), site.integers(ends), steps)


@converts("slice_axis")
def _slice_axis(site: Site) -> str:
    params = site.params
    end = LAST if params.end is None else params.end
    return site.slices(site.inputs[0], [params.axis], site.integers([params.begin]), site.integers([end]))


@converts("slice_like")
def _slice_like(site: Site) -> str:
    rank = site.rank()
    axes = [axis % rank for axis in site.params.axes] or list(range(rank))
    ends = site.sizes([site.size_of(site.inputs[1], 1, axis) for axis in axes])
    return site.slices(site.inputs[0], axes, site.integers([0] * len(axes)), ends)


@converts("Crop")
def _crop(site: Site) -> str:
    params, axes = site.params, [2, 3]
    if len(site.inputs) == 1:
        sizes: Sequence[int | str] = list(params.h_w)
    else:
        sizes = [site.size_of(site.inputs[1], 1, axis) for axis in axes]
    wanted = site.sizes(sizes)
    if params.center_crop:
        whole = site.sizes([site.size_of(site.inputs[0], 0, axis) for axis in axes])
        starts = site.add("Div", site.add("Sub", whole, wanted), site.integers([2]))
    else:
        starts = site.integers(params.offset)
    ends = wanted if not params.center_crop and not any(params.offset) else site.add("Add", starts, wanted)
    return site.slices(site.inputs[0], axes, starts, ends)


@converts("reverse")
def _reverse(site: Site) -> str:
    axes = [axis % site.rank() for axis in site.params.axis]
    axes = sorted(axis for axis in set(axes) if axes.count(axis) % 2)
    starts, ends = site.integers([-1] * len(axes)), site.integers([-LAST] * len(axes))
    return site.slices(site.inputs[0], axes, starts, ends, [-1] * len(axes)) if axes else site.inputs[0]


@converts("Pad")
def _pad(site: Site) -> str:
    params = site.params
    margins = site.integers([*params.pad_width[::2], *params.pad_width[1::2]])
    value = [site.number(params.constant_value)] if params.mode == "constant" else []
    return site.add("Pad", site.inputs[0], margins, *value, mode=params.mode)


@converts("Concat")
def _concat(site: Site) -> str:
    return site.add("Concat", *site.inputs, axis=site.params.dim)


@converts("stack")
def _stack(site: Site) -> str:
    axis = site.integers([site.params.axis])
    return site.add("Concat", *(site.add("Unsqueeze", one, axis) for one in site.inputs), axis=site.params.axis)


@converts("SliceChannel", "_split_v2")
def _split(site: Site) -> list[str]:
    params = site.params
    axis, count = params.axis % site.rank(), len(site.out_shapes)
    if site.operator == "SliceChannel":
        sizes = []
    elif params.sections > 0:
        step, longer = divmod(site.size(0, axis), params.sections)
        sizes = [step + (place < longer) for place in range(params.sections)]
    else:
        sizes = list(np.diff([*params.indices, site.size(0, axis)]).tolist())
    parts = site.add_many("Split", count, site.inputs[0], *([site.integers(sizes)] if sizes else []), axis=axis)
    if params.squeeze_axis:
        return [site.add("Squeeze", part, site.integers([axis])) for part in parts]
    return parts


@converts("tile")
def _tile(site: Site) -> str:
    reps, data = list(site.params.reps or ()), site.inputs[0]
    missing = len(reps) - site.rank()
    if missing > 0:
        data = site.add("Unsqueeze", data, site.integers(range(missing)))
    return site.add("Tile", data, site.integers([*(1,) * -missing, *reps]))


@converts("repeat")
def _repeat(site: Site) -> str:
    params, data, rank = site.params, site.inputs[0], site.rank()
    if params.axis is None:
        data, axis, rank = site.reshape(data, [-1]), 0, 1
    else:
        axis = params.axis % rank
    wide = site.add("Unsqueeze", data, site.integers([axis + 1]))
    tiled = site.add("Tile", wide, site.integers([*(1,) * (axis + 1), params.repeats, *(1,) * (rank - axis - 1)]))
    return site.reshape(tiled, [*(0,) * axis, -1]) if axis == rank - 1 else _merged(site, tiled, axis)


def _merged(site: Site, name: str, axis: int) -> str:
    """Make one axis of `axis` and the one behind it, in the shape of the output."""
    out = site.out_shapes[0]
    assert out is not None
    sizes = [0 if place < axis else -1 if place == axis else size for place, size in enumerate(out)]
    if None in sizes:
        raise site.refusal("axis", site.params.axis, "fixed sizes behind it")
    return site.reshape(name, [size for size in sizes if size is not None])


@converts("broadcast_to", "broadcast_axis", "broadcast_like")
def _broadcast(site: Site) -> str:
    params, rank = site.params, site.rank()
    sizes: list[int | str] = [1] * rank
    if site.operator == "broadcast_to":
        sizes = [size or 1 for size in params.shape]
    elif site.operator == "broadcast_axis":
        for axis, size in zip(params.axis, params.size):
            sizes[axis] = size
    else:
        left = range(rank) if params.lhs_axes is None else params.lhs_axes
        right = range(rank) if params.rhs_axes is None else params.rhs_axes
        for axis, other in zip(left, right):
            sizes[axis] = site.size_of(site.inputs[1], 1, other % site.rank(1))
    return site.add("Expand", site.inputs[0], site.sizes(sizes))


def _places(site: Site, name: str, size: int, mode: str) -> str:
    """Return indices as whole numbers within an axis."""
    places = site.cast(name, np.int64)
    if mode == "wrap":
        return site.add("Mod", places, site.integers([size]))
    if mode == "raise":
        return places
    return site.add("Clip", places, site.constant(0, np.int64), site.constant(size - 1, np.int64))


@converts("take")
def _take(site: Site) -> str:
    axis = site.params.axis % site.rank()
    places = _places(site, site.inputs[1], site.size(0, axis), site.params.mode)
    return site.add("Gather", site.inputs[0], places, axis=axis)


@converts("Embedding")
def _embedding(site: Site) -> str:
    data, weight = site.inputs
    return site.add("Gather", weight, _places(site, data, site.params.input_dim, "clip"), axis=0)


@converts("pick")
def _pick(site: Site) -> str:
    params, rank = site.params, site.rank()
    if params.axis is None:
        raise site.refusal("axis", None, "an axis")
    axis = params.axis % rank
    places = _places(site, site.inputs[1], site.size(0, axis), params.mode)
    if site.rank(1) < rank:
        places = site.add("Unsqueeze", places, site.integers([axis]))
    picked = site.add("GatherElements", site.inputs[0], places, axis=axis)
    return picked if params.keepdims or rank == 1 else site.add("Squeeze", picked, site.integers([axis]))


@converts("batch_take")
def _batch_take(site: Site) -> str:
    axis = site.integers([1])
    places = site.add("Unsqueeze", _places(site, site.inputs[1], site.size(0, 1), "clip"), axis)
    return site.add("Squeeze", site.add("GatherElements", site.inputs[0], places, axis=1), axis)


@converts("one_hot")
def _one_hot(site: Site) -> str:
    params = site.params
    values = site.constant([params.off_value, params.on_value], np.float32)
    places = site.cast(site.inputs[0], np.int64)
    # ONNX counts negative places from the end; MXNet has no such place.
    hidden = site.constant(params.depth, np.int64)
    places = site.add("Where", site.add("Less", places, site.constant(0, np.int64)), hidden, places)
    hot = site.add("OneHot", places, site.constant(params.depth, np.int64), values, axis=-1)
    return hot if site.out_dtypes[0] == np.float32 else site.cast(hot, site.out_dtypes[0])


@converts("gather_nd")
def _gather_nd(site: Site) -> str:
    rank = site.rank(1)
    places = site.transpose(site.cast(site.inputs[1], np.int64), [*range(1, rank), 0])
    return site.add("GatherND", site.inputs[0], places)


@converts("argmax", "argmin", "argmax_channel")
def _arg(site: Site) -> str:
    data, op = site.inputs[0], "ArgMin" if site.operator == "argmin" else "ArgMax"
    if site.operator == "argmax_channel":
        axis, kept = 1, False
    elif site.params.axis is None:
        axis, kept = 0, True
        data = site.reshape(data, [-1])
    else:
        axis, kept = site.params.axis, site.params.keepdims or site.rank() == 1
    found = site.cast(site.add(op, data, axis=axis, keepdims=int(kept)), site.out_dtypes[0])
    wanted = site.out_shapes[0]
    return site.reshape(found, (1,) * len(wanted)) if wanted and set(wanted) == {1} else found


@converts("topk", "sort", "argsort")
def _ordered(site: Site) -> str | list[str]:
    params, data = site.params, site.inputs[0]
    kind = {"sort": "value", "argsort": "indices"}.get(site.operator) or params.ret_typ
    if kind == "mask":
        raise site.refusal("ret_typ", "'mask'", "'value', 'indices' or 'both'")
    axis = params.axis
    if axis is None:
        data, axis = site.reshape(data, [-1]), 0
    count = params.k if site.operator == "topk" else 0
    whole = 1 if params.axis is None else site.rank()
    if count > 0:
        wanted: int | str = count
    elif params.axis is None:
        wanted = site.add("Shape", data)
    else:
        wanted = site.size_of(data, 0, axis % whole)
    found = site.add_many("TopK", 2, data, site.sizes([wanted]), axis=axis, largest=int(not params.is_ascend))
    if kind == "value":
        return found[0]
    places = site.cast(found[1], site.out_dtypes[-1])
    return places if kind == "indices" else [found[0], places]
