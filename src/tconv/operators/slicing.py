"""Parts of an array, and margins around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tconv.errors import ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.operators.compute import Function, arithmetic, normal_axis
from tconv.operators.registry import Array, Call, Operator, register, show
from tconv.operators.tensor import forwards, free_dtypes, known
from tconv.params import BOOL, FLOAT, INT, INT_OR_NONE, SHAPE, SHAPE_OR_NONES, ChoiceText, Params, named, param

Places = Callable[..., tuple[slice, ...]]


def _declare_slice(
    base: type[Params],
    names: tuple[str, ...],
    inputs: tuple[str, ...],
    shape: Function,
    places: Places,
    doc: str,
) -> None:
    """Declare an operator that takes the part of its first input at `places(params, shape...)`."""

    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        return [inputs[0][places(call.params, *(array.shape for array in inputs))]]

    def backward(
        call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
    ) -> Sequence[Array | None]:
        grad = np.zeros_like(inputs[0])
        grad[places(call.params, *(array.shape for array in inputs))] = out_grads[0]
        return [grad, *(np.zeros_like(like) for like in inputs[1:])]

    register(
        Operator(
            name=names[0],
            params=named(base, names[0]),
            inputs=inputs,
            shape=forwards(shape),
            dtype=free_dtypes(len(inputs) - 1),
            forward=forward,
            backward=backward,
            aliases=names[1:],
            view=True,
            doc=doc,
        )
    )


class SliceParams(Params):
    """Parameters of `slice`."""

    begin: tuple[int | None, ...] = param(SHAPE_OR_NONES, "First place on each leading axis.")
    end: tuple[int | None, ...] = param(SHAPE_OR_NONES, "Place after the last on each leading axis.")
    step: tuple[int | None, ...] = param(SHAPE_OR_NONES, "Step on each leading axis; 1 by default.", default=())


def _slice_places(params: SliceParams, data: tuple[int | None, ...]) -> tuple[slice, ...]:
    begin, end, step = params.begin, params.end, params.step
    if len(begin) > len(data) or len(end) != len(begin) or len(step) not in (0, len(begin)):
        raise ShapeError(
            f"slice: begin: got {begin}, end {end}, step {step} for data {show(data)}; lengths do not fit"
        )
    if 0 in step:
        raise ShapeError(f"slice: step: got {step}; no step may be 0")
    return tuple(slice(*triple) for triple in zip(begin, end, step or (None,) * len(begin)))


def _slice_shape(params: SliceParams, data: PartialShape) -> PartialShape:
    assert data is not None
    cut = _slice_places(params, data)
    sizes = (None if size is None else len(range(*place.indices(size))) for place, size in zip(cut, data))
    return (*sizes, *data[len(cut) :])


_declare_slice(
    SliceParams,
    ("slice", "crop"),
    ("data",),
    _slice_shape,
    _slice_places,
    "The part of `data` from `begin` to `end`, as Python slices it.",
)


class SliceAxisParams(Params):
    """Parameters of `slice_axis`."""

    axis: int = param(INT, "The axis.")
    begin: int = param(INT, "First place on it, from the end where negative.")
    end: int | None = param(INT_OR_NONE, "Place after the last; None is the end.")


def _axis_places(params: SliceAxisParams, data: tuple[int | None, ...]) -> tuple[slice, ...]:
    axis = normal_axis("slice_axis", params.axis, len(data))
    size = data[axis]
    if size is None:
        return ()
    begin = params.begin + size * (params.begin < 0)
    end = size if params.end is None else params.end + size * (params.end < 0)
    if size and not 0 <= begin < end <= size:
        raise ShapeError(f"slice_axis: begin: got {params.begin} to {params.end}; axis {axis} has size {size}")
    return (*(slice(None),) * axis, slice(begin, end))


def _axis_shape(params: SliceAxisParams, data: PartialShape) -> PartialShape:
    assert data is not None
    places = _axis_places(params, data)
    if not places:
        return data
    axis = len(places) - 1
    size = data[axis]
    assert size is not None
    return (*data[:axis], len(range(*places[axis].indices(size))), *data[axis + 1 :])


_declare_slice(
    SliceAxisParams,
    ("slice_axis",),
    ("data",),
    _axis_shape,
    _axis_places,
    "The part of `data` from `begin` to `end` on one axis.",
)


class SliceLikeParams(Params):
    """Parameters of `slice_like`."""

    axes: Shape = param(SHAPE, "The axes to cut; all by default.", default=())


def _slice_like_shape(params: SliceLikeParams, data: PartialShape, like: PartialShape) -> PartialShape:
    assert data is not None
    assert like is not None
    if not params.axes and len(data) != len(like):
        raise ShapeError(f"slice_like: shape_like: got {show(like)}; need as many axes as data {show(data)} has")
    rank = min(len(data), len(like))
    axes = [axis + len(data) * (axis < 0) for axis in params.axes] or range(rank)
    if not all(0 <= axis < rank for axis in axes):
        raise ShapeError(f"slice_like: axes: got {params.axes}; need axes of both {show(data)} and {show(like)}")
    shape = tuple(like[axis] if axis in axes else size for axis, size in enumerate(data))
    if any(a is not None and b is not None and a < b for a, b in zip(data, shape)):
        raise ShapeError(f"slice_like: shape_like: got {show(like)}; it exceeds data {show(data)}")
    return shape


_declare_slice(
    SliceLikeParams,
    ("slice_like",),
    ("data", "shape_like"),
    _slice_like_shape,
    lambda params, data, like: tuple(slice(size) for size in known(_slice_like_shape(params, data, like))),
    "The leading part of `data` that has the sizes of `shape_like`.",
)


class CropParams(Params):
    """Parameters of `Crop`."""

    num_args: int = param(INT, "1, or 2 with an input that gives the size.", low=1)
    offset: Shape = param(SHAPE, "First row and column.", default=(0, 0))
    h_w: Shape = param(SHAPE, "Height and width, with one input.", default=(0, 0))
    center_crop: bool = param(BOOL, "Whether to cut out the middle, whatever offset says.", default=False)


def _crop_shape(params: CropParams, data: PartialShape, like: PartialShape = None) -> PartialShape:
    assert data is not None
    if len(data) != 4 or (like is not None and len(like) != 4):
        raise ShapeError(f"Crop: data: got shape {show(data)}; need 4 dimensions")
    window = params.h_w if like is None else like[2:]
    if len(window) != 2 or len(params.offset) != 2:
        raise ShapeError(f"Crop: offset: got {params.offset} with size {show(window)}; need 2 entries each")
    for axis, (size, wanted) in enumerate(zip(data[2:], window)):
        if wanted is None or size is None:
            continue
        if not 1 <= wanted <= size or not (params.center_crop or 0 <= params.offset[axis] <= size - wanted):
            raise ShapeError(f"Crop: offset: got {params.offset} with size {show(window)}; data is {show(data)}")
    return (*data[:2], *window)


def _crop_places(params: CropParams, data: Shape, like: PartialShape = None) -> tuple[slice, ...]:
    window = known(_crop_shape(params, data, like))[2:]
    starts = [(a - b) // 2 for a, b in zip(data[2:], window)] if params.center_crop else params.offset
    return (slice(None), slice(None), *(slice(start, start + size) for start, size in zip(starts, window)))


def _crop(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    return [inputs[0][_crop_places(call.params, *(array.shape for array in inputs))]]


def _crop_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    grad = np.zeros_like(inputs[0])
    grad[_crop_places(call.params, *(array.shape for array in inputs))] = out_grads[0]
    return [grad, *(np.zeros_like(like) for like in inputs[1:])]


register(
    Operator(
        name="Crop",
        params=named(CropParams, "Crop"),
        inputs=(),
        count="num_args",
        shape=forwards(_crop_shape),
        forward=_crop,
        backward=_crop_backward,
        view=True,
        doc="A window of rows and columns of `data` (N, C, H, W), of size `h_w` or that of the second input.",
    )
)


class ReverseParams(Params):
    """Parameters of `reverse`."""

    axis: Shape = param(SHAPE, "The axes.")


def _reverse_places(params: ReverseParams, rank: int) -> tuple[slice, ...]:
    axes = [normal_axis("reverse", axis, rank) for axis in params.axis or ()]
    return tuple(slice(None, None, -1 if axes.count(axis) % 2 else 1) for axis in range(rank))


def _reverse_shape(params: ReverseParams, data: PartialShape) -> PartialShape:
    assert data is not None
    _reverse_places(params, len(data))
    return data


register(
    Operator(
        name="reverse",
        params=named(ReverseParams, "reverse"),
        inputs=("data",),
        shape=forwards(_reverse_shape),
        forward=lambda call, inputs: [inputs[0][_reverse_places(call.params, inputs[0].ndim)]],
        backward=lambda call, inputs, outputs, out_grads: [
            out_grads[0][_reverse_places(call.params, inputs[0].ndim)]
        ],
        aliases=("flip",),
        view=True,
        doc="`data` with the order along `axis` reversed.",
    )
)


class PadParams(Params):
    """Parameters of `Pad`."""

    mode: str = param(ChoiceText(("constant", "edge", "reflect")), "What the margin holds.")
    pad_width: Shape = param(SHAPE, "Width of the margin before and after each axis, in this order.")
    constant_value: float = param(FLOAT, "What a constant margin holds.", default=0.0)


def _margins(params: PadParams) -> list[tuple[int, int]]:
    return list(zip(params.pad_width[::2], params.pad_width[1::2]))


def _pad_shape(params: PadParams, data: PartialShape) -> PartialShape:
    assert data is not None
    if params.pad_width is None or len(params.pad_width) != 2 * len(data) or min(params.pad_width, default=0) < 0:
        raise ShapeError(f"Pad: pad_width: got {params.pad_width}; need 2 widths for each axis of {show(data)}")
    for size, margin in zip(data, _margins(params)):
        least = {"constant": 0, "edge": min(max(margin), 1), "reflect": max(margin) + 1}[params.mode]
        if size is not None and size < least:
            raise ShapeError(f"Pad: pad_width: got {params.pad_width}; data {show(data)} is too small for it")
    return tuple(None if size is None else size + sum(margin) for size, margin in zip(data, _margins(params)))


def _borders(mode: str, low: int, high: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the places of a margin along one axis and the places they repeat."""
    for place in range(low):
        yield place, (low if mode == "edge" else 2 * low - place)
    last = low + size - 1
    for place in range(last + 1, last + 1 + high):
        yield place, (last if mode == "edge" else 2 * last - place)


def _pad(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: PadParams = call.params
    (data,) = inputs
    margins = _margins(params)
    out: Array = np.empty(known(_pad_shape(params, data.shape)), data.dtype)
    out[tuple(slice(low, low + size) for (low, _), size in zip(margins, data.shape))] = data
    for axis, ((low, high), size) in enumerate(zip(margins, data.shape)):
        # Margins of later axes are not there yet, so only what is filled already is copied along this one.
        filled = (
            [slice(None)] * axis
            + [slice(None)]
            + [slice(lo, lo + n) for (lo, _), n in zip(margins[axis + 1 :], data.shape[axis + 1 :])]
        )
        view = np.moveaxis(out[tuple(filled)], axis, 0)
        if params.mode == "constant":
            view[:low] = params.constant_value
            view[low + size :] = params.constant_value
        else:
            for place, source in _borders(params.mode, low, high, size):
                view[place] = view[source]
    return [out]


def _pad_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: PadParams = call.params
    (data,) = inputs
    grad = arithmetic(out_grads[0]).copy() if params.mode != "constant" else out_grads[0]
    for axis, ((low, high), size) in reversed(list(enumerate(zip(_margins(params), data.shape)))):
        view = np.moveaxis(grad, axis, 0)
        if params.mode != "constant":
            for place, source in _borders(params.mode, low, high, size):
                view[source] += view[place]
        grad = np.moveaxis(view[low : low + size], 0, axis)
    return [grad.astype(data.dtype, copy=False)]


register(
    Operator(
        name="Pad",
        params=named(PadParams, "Pad"),
        inputs=("data",),
        shape=forwards(_pad_shape),
        forward=_pad,
        backward=_pad_backward,
        aliases=("pad",),
        doc="`data` with a margin around it: a constant, its edge repeated, or its mirror image.",
    )
)


class DiagParams(Params):
    """Parameters of `diag`."""

    k: int = param(INT, "Which diagonal: 0 the main one, above 0 an upper one.", default=0)
    axis1: int = param(INT, "The axis of the rows.", default=0)
    axis2: int = param(INT, "The axis of the columns.", default=1)


def _diagonal(size: tuple[int, int], k: int) -> tuple[Array, Array]:
    """Return rows and columns of a diagonal."""
    count = max(min(size[0] + min(k, 0), size[1] - max(k, 0)), 0)
    places = np.arange(count)
    return places - min(k, 0), places + max(k, 0)


def _diag_axes(params: DiagParams, rank: int) -> tuple[int, int]:
    axes = normal_axis("diag", params.axis1, rank), normal_axis("diag", params.axis2, rank)
    if axes[0] == axes[1]:
        raise ShapeError(f"diag: axis1: got {params.axis1} and axis2 {params.axis2}; need different axes")
    return axes


def _diag_shape(params: DiagParams, data: PartialShape) -> PartialShape:
    assert data is not None
    if len(data) == 1:
        size = data[0] if data[0] is None else data[0] + abs(params.k)
        return (size, size)
    axes = _diag_axes(params, len(data))
    rest = [size for axis, size in enumerate(data) if axis not in axes]
    rows, columns = (data[axis] for axis in axes)
    if rows is None or columns is None:
        return (*rest, None)
    count = len(_diagonal((rows, columns), params.k)[0])
    if count == 0:
        raise ShapeError(f"diag: k: got {params.k}; {show(data)} has no such diagonal")
    return (*rest, count)


def _on_diagonal(params: DiagParams, array: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return a view with rows and columns first, and the places of the diagonal in it."""
    view = np.moveaxis(array, _diag_axes(params, array.ndim), (0, 1))
    return view, _diagonal(view.shape[:2], params.k)


def _spread_out(params: DiagParams, vector: Array) -> Array:
    size = len(vector) + abs(params.k)
    result = np.zeros((size, size), vector.dtype)
    result[_diagonal((size, size), params.k)] = vector
    return result


def _diag(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    (data,) = inputs
    if data.ndim == 1:
        return [_spread_out(call.params, data)]
    view, places = _on_diagonal(call.params, data)
    return [np.moveaxis(view[places], 0, -1)]


def _diag_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    (data,), (grad,) = inputs, out_grads
    if data.ndim == 1:
        return [grad[_diagonal(grad.shape, call.params.k)]]
    result = np.zeros_like(data)
    view, places = _on_diagonal(call.params, result)
    view[places] = np.moveaxis(grad, -1, 0)
    return [result]


register(
    Operator(
        name="diag",
        params=named(DiagParams, "diag"),
        inputs=("data",),
        shape=forwards(_diag_shape),
        forward=_diag,
        backward=_diag_backward,
        doc="A diagonal of `data`, or a matrix with the vector `data` on a diagonal.",
    )
)
