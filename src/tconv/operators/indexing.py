"""Elements chosen by the values of other arrays, and elements put in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tconv.dtypes import as_dtype
from tconv.errors import DTypeError, ParameterError, ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.operators.compute import Function, arithmetic, no_gradient, normal_axis, quiet
from tconv.operators.registry import Array, Call, DTypes, Operator, PartialShapes, merge, register, show
from tconv.operators.tensor import forwards, free_dtypes, known, size_of
from tconv.params import (
    BOOL,
    DTYPE,
    FLOAT,
    INT,
    INT_OR_NONE,
    SHAPE,
    ChoiceText,
    Params,
    named,
    param,
)


def whole(indices: Array) -> Array:
    """Return indices of any type as integers, fractions cut off."""
    return indices if indices.dtype.kind in "iu" else np.trunc(arithmetic(indices)).astype(np.int64)


def within(operator: str, indices: Array, size: int, mode: str) -> Array:
    """Return indices that are below `size`.

    Raises
    ------
    ShapeError
        If there is nothing to index, or one is out of bounds and `mode` is raise.
    """
    places = whole(indices).astype(np.int64, copy=False)
    if size == 0 and places.size:
        raise ShapeError(f"{operator}: data: got an axis of size 0; there is nothing to take")
    if mode == "wrap":
        return np.asarray(np.mod(places, max(size, 1)))
    if mode == "raise" and places.size and (places.min() < 0 or places.max() >= size):
        raise ShapeError(f"{operator}: indices: got {places.min()} to {places.max()}; need 0 to {size - 1}")
    return np.clip(places, 0, size - 1)


def _scattered(shape: Shape, like: Array, places: Any, grad: Array) -> Array:
    """Return zeros with `grad` added at `places`."""
    result = np.zeros(shape, arithmetic(like[:0]).dtype)
    np.add.at(result, places, arithmetic(grad))
    return result.astype(like.dtype, copy=False)


class TakeParams(Params):
    """Parameters of `take`."""

    axis: int = param(INT, "The axis that is indexed.", default=0)
    mode: str = param(ChoiceText(("clip", "raise", "wrap")), "What an index out of bounds does.", default="clip")


def _take_shape(params: TakeParams, data: PartialShape, indices: PartialShape) -> PartialShape:
    assert data is not None
    assert indices is not None
    axis = normal_axis("take", params.axis, len(data))
    return (*data[:axis], *indices, *data[axis + 1 :])


def _taken(call: Call, inputs: Sequence[Array]) -> tuple[int, Array]:
    data, indices = inputs
    axis = call.params.axis % data.ndim
    return axis, within("take", indices, data.shape[axis], call.params.mode)


@quiet
def _take(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    axis, places = _taken(call, inputs)
    return [inputs[0].take(places, axis=axis)]


@quiet
def _take_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    data, indices = inputs
    axis, places = _taken(call, inputs)
    grad = out_grads[0].reshape(*data.shape[:axis], places.size, *data.shape[axis + 1 :])
    picked = (*(slice(None),) * axis, places.reshape(-1))
    return [_scattered(data.shape, data, picked, grad), np.zeros_like(indices)]


register(
    Operator(
        name="take",
        params=named(TakeParams, "take"),
        inputs=("a", "indices"),
        shape=forwards(_take_shape),
        dtype=free_dtypes(1),
        forward=_take,
        backward=_take_backward,
        doc="The slices of `a` along an axis that `indices` name.",
    )
)


class EmbeddingParams(Params):
    """Parameters of `Embedding`."""

    input_dim: int = param(INT, "Number of rows of weight.", low=1)
    output_dim: int = param(INT, "Length of a row.", low=1)
    dtype: str = param(DTYPE, "Type of weight.", default="float32")
    sparse_grad: bool = param(BOOL, "Whether the gradient is sparse; it is dense here.", default=False)


def _embedding_shape(
    params: EmbeddingParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data = inputs[0]
    found = None if data is None else (*data, params.output_dim)
    return [data, (params.input_dim, params.output_dim)], [found]


@quiet
def _embedding_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    data, weight = inputs
    places = within("Embedding", data, len(weight), "clip").reshape(-1)
    grad = out_grads[0].reshape(places.size, weight.shape[1])
    return [np.zeros_like(data), _scattered(weight.shape, weight, (places,), grad)]


def _second_dtype(params: Params, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
    given = inputs[1] if inputs[1] is not None else outputs[0]
    kind = as_dtype(params.dtype) if given is None else given  # type: ignore[attr-defined]
    return [inputs[0], kind], [kind]


register(
    Operator(
        name="Embedding",
        params=named(EmbeddingParams, "Embedding"),
        inputs=("data", "weight"),
        shape=_embedding_shape,
        dtype=_second_dtype,
        forward=quiet(lambda call, inputs: [inputs[1][within("Embedding", inputs[0], len(inputs[1]), "clip")]]),
        backward=_embedding_backward,
        doc="The rows of `weight` that `data` names.",
    )
)


class PickParams(Params):
    """Parameters of `pick`."""

    axis: int | None = param(INT_OR_NONE, "The axis along which one element is picked.", default=-1)
    keepdims: bool = param(BOOL, "Whether the axis stays with size 1.", default=False)
    mode: str = param(ChoiceText(("clip", "wrap")), "What an index out of bounds does.", default="clip")


def _pick_axis(params: PickParams, rank: int) -> int:
    if params.axis is None:
        raise ParameterError("pick: axis: got None; need an axis")
    return normal_axis("pick", params.axis, rank)


def _pick_shape(
    params: PickParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data, index = inputs
    if data is None:
        return inputs, outputs
    axis = _pick_axis(params, len(data))
    kept = (*data[:axis], 1, *data[axis + 1 :])
    dropped = (*data[:axis], *data[axis + 1 :]) or (1,)
    wanted = kept if index is not None and len(index) == len(data) else dropped
    return [data, wanted], [kept if params.keepdims else dropped]


def _picked(call: Call, inputs: Sequence[Array]) -> tuple[int, Array]:
    data, index = inputs
    axis = _pick_axis(call.params, data.ndim)
    places = within("pick", index, data.shape[axis], call.params.mode)
    return axis, places.reshape(*data.shape[:axis], 1, *data.shape[axis + 1 :])


@quiet
def _pick(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    axis, places = _picked(call, inputs)
    _, (shape,) = _pick_shape(call.params, [array.shape for array in inputs], [None])
    return [np.take_along_axis(inputs[0], places, axis).reshape(known(shape))]


@quiet
def _pick_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    axis, places = _picked(call, inputs)
    grad = np.zeros_like(inputs[0])
    np.put_along_axis(grad, places, out_grads[0].reshape(places.shape), axis)
    return [grad, np.zeros_like(inputs[1])]


register(
    Operator(
        name="pick",
        params=named(PickParams, "pick"),
        inputs=("data", "index"),
        shape=_pick_shape,
        dtype=free_dtypes(1),
        forward=_pick,
        backward=_pick_backward,
        aliases=("choose_element_0index",),
        doc="One element along an axis for every place of the other axes, as `index` names it.",
    )
)


def _batch_take_shape(
    params: Params, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data, index = inputs
    if data is not None and len(data) != 2:
        raise ShapeError(f"batch_take: a: got shape {show(data)}; need 2 dimensions")
    found = merge("batch_take: indices", index, None if data is None else data[:1])
    return [data, found], [found]


def _rows_places(inputs: Sequence[Array]) -> tuple[Array, Array]:
    return np.arange(len(inputs[0])), within("batch_take", inputs[1], inputs[0].shape[1], "clip")


def _batch_take_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    grad = np.zeros_like(inputs[0])
    grad[_rows_places(inputs)] = out_grads[0]
    return [grad, np.zeros_like(inputs[1])]


register(
    Operator(
        name="batch_take",
        params=named(Params, "batch_take"),
        inputs=("a", "indices"),
        shape=_batch_take_shape,
        dtype=free_dtypes(1),
        forward=quiet(lambda call, inputs: [inputs[0][_rows_places(inputs)]]),
        backward=_batch_take_backward,
        doc="One element of every row of `a`.",
    )
)


def _where_shape(
    params: Params, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    condition, x, y = inputs
    merged = merge("where", merge("where: y", x, y), outputs[0])
    if condition is not None and merged is not None:
        if len(condition) == len(merged):
            merged = merge("where: condition", merged, condition)
            condition = merged
        elif len(condition) != 1 or merge("where: condition", condition, merged[:1]) is None:
            raise ShapeError(
                f"where: condition: got shape {show(condition)}; need {show(merged)} or its first size"
            )
    return [condition, merged, merged], [merged]


def _where_dtypes(params: Params, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
    kind = next((one for one in (*inputs[1:], *outputs) if one is not None), None)
    return [inputs[0], kind, kind], [kind]


def _truths(condition: Array, like: Array) -> Array:
    truths: Array = condition != 0
    if condition.ndim == like.ndim:
        return truths
    return truths.reshape(-1, *(1,) * (like.ndim - 1))


def _where_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    (grad,), zero = out_grads, out_grads[0].dtype.type(0)
    truths = _truths(inputs[0], inputs[1])
    return [np.zeros_like(inputs[0]), np.where(truths, grad, zero), np.where(truths, zero, grad)]


register(
    Operator(
        name="where",
        params=named(Params, "where"),
        inputs=("condition", "x", "y"),
        shape=_where_shape,
        dtype=_where_dtypes,
        forward=lambda call, inputs: [np.where(_truths(inputs[0], inputs[1]), inputs[1], inputs[2])],
        backward=_where_backward,
        doc="`x` where `condition` is not 0, else `y`; a condition of one axis chooses whole rows.",
    )
)


class OneHotParams(Params):
    """Parameters of `one_hot`."""

    depth: int = param(INT, "Size of the new last axis.")
    on_value: float = param(FLOAT, "Value at the index.", default=1.0)
    off_value: float = param(FLOAT, "Value elsewhere.", default=0.0)
    dtype: str = param(DTYPE, "Type of the result.", default="float32")


def _one_hot_shape(params: OneHotParams, indices: PartialShape) -> PartialShape:
    assert indices is not None
    if params.depth < 0:
        raise ShapeError(f"one_hot: depth: got {params.depth}; it may not be negative")
    return (*indices, params.depth)


@quiet
def _one_hot(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: OneHotParams = call.params
    dtype = as_dtype(params.dtype)
    hot = whole(inputs[0])[..., None] == np.arange(params.depth)
    return [np.where(hot, np.float64(params.on_value), np.float64(params.off_value)).astype(dtype)]


register(
    Operator(
        name="one_hot",
        params=named(OneHotParams, "one_hot"),
        inputs=("indices",),
        shape=forwards(_one_hot_shape),
        dtype=lambda params, inputs, outputs: (inputs, [as_dtype(params.dtype)]),
        forward=_one_hot,
        backward=no_gradient,
        doc="For every index a row with `on_value` at the index; an index out of bounds has none.",
    )
)


def _gather_shape(params: Params, data: PartialShape, indices: PartialShape) -> PartialShape:
    assert data is not None
    assert indices is not None
    if len(indices) < 2 or indices[0] is None or indices[0] > len(data):
        raise ShapeError(f"gather_nd: indices: got {show(indices)}; need (at most {len(data)}, ...)")
    return (*indices[1:], *data[indices[0] :])


def _from_end(operator: str, indices: Array, shape: Shape) -> tuple[Array, ...]:
    """Return the places that the rows of `indices` name, from the end where negative."""
    rows = [whole(row).astype(np.int64, copy=False) for row in indices]
    return tuple(within(operator, row + size * (row < 0), size, "raise") for row, size in zip(rows, shape))


def _gather_places(inputs: Sequence[Array]) -> tuple[Array, ...]:
    return _from_end("gather_nd", inputs[1], inputs[0].shape)


register(
    Operator(
        name="gather_nd",
        params=named(Params, "gather_nd"),
        inputs=("data", "indices"),
        shape=forwards(_gather_shape),
        dtype=free_dtypes(1),
        forward=quiet(lambda call, inputs: [inputs[0][_gather_places(inputs)]]),
        backward=quiet(
            lambda call, inputs, outputs, out_grads: [
                _scattered(inputs[0].shape, inputs[0], _gather_places(inputs), out_grads[0]),
                np.zeros_like(inputs[1]),
            ]
        ),
        doc="The elements of `data` at the places that the columns of `indices` name.",
    )
)


class ScatterParams(Params):
    """Parameters of `scatter_nd`."""

    shape: Shape = param(SHAPE, "Shape of the result.")


def _scatter_shape(params: ScatterParams, data: PartialShape, indices: PartialShape) -> PartialShape:
    assert indices is not None
    if params.shape is None or min(params.shape, default=0) < 0:
        raise ShapeError(f"scatter_nd: shape: got {params.shape}; need a shape")
    merge("scatter_nd: data", data, _gather_shape(params, params.shape, indices))
    return params.shape


def _scatter_places(params: ScatterParams, indices: Array) -> tuple[Array, ...]:
    return _from_end("scatter_nd", indices, params.shape)


@quiet
def _scatter(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    result = np.zeros(call.params.shape, inputs[0].dtype)
    result[_scatter_places(call.params, inputs[1])] = inputs[0]
    return [result]


register(
    Operator(
        name="scatter_nd",
        params=named(ScatterParams, "scatter_nd"),
        inputs=("data", "indices"),
        shape=forwards(_scatter_shape),
        dtype=free_dtypes(1),
        forward=_scatter,
        backward=quiet(
            lambda call, inputs, outputs, out_grads: [
                out_grads[0][_scatter_places(call.params, inputs[1])],
                np.zeros_like(inputs[1]),
            ]
        ),
        doc="Zeros with the elements of `data` at the places that the columns of `indices` name.",
    )
)


class ArgParams(Params):
    """Parameters of `argmax` and `argmin`."""

    axis: int | None = param(INT_OR_NONE, "The axis; by default the input is flattened.", default=None)
    keepdims: bool = param(BOOL, "Whether reduced axes stay with size 1.", default=False)


def _arg_shape(params: ArgParams, data: PartialShape) -> PartialShape:
    assert data is not None
    rank = len(data)
    axes = range(rank) if params.axis is None else (normal_axis(params.operator, params.axis, rank),)
    if any(data[axis] == 0 for axis in axes):
        raise ShapeError(f"{params.operator}: data: got shape {show(data)}; there is nothing to choose from")
    if params.keepdims:
        return tuple(1 if axis in axes else size for axis, size in enumerate(data))
    return tuple(size for axis, size in enumerate(data) if axis not in axes) or (1,)


def _declare_arg(name: str, function: Function, base: type[Params], doc: str, axis: int | None = None) -> None:
    params = named(base, name)

    def rule(given: Params, data: PartialShape) -> PartialShape:
        if axis is None:
            return _arg_shape(given, data)  # type: ignore[arg-type]
        assert data is not None
        if len(data) < 2:
            raise ShapeError(f"{name}: data: got shape {show(data)}; need 2 dimensions")
        return (*data[:axis], *data[axis + 1 :])

    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        (data,) = inputs
        places = function(data, axis=call.params.axis if axis is None else axis)
        return [np.asarray(places).astype(data.dtype).reshape(known(rule(call.params, data.shape)))]

    register(
        Operator(
            name=name,
            params=params,
            inputs=("data",),
            shape=forwards(rule),
            forward=forward,
            backward=no_gradient,
            doc=doc,
        )
    )


_declare_arg("argmax", np.argmax, ArgParams, "The first place of the maximum, in the type of `data`.")
_declare_arg("argmin", np.argmin, ArgParams, "The first place of the minimum, in the type of `data`.")
_declare_arg("argmax_channel", np.argmax, Params, "The place of the maximum on axis 1.", axis=1)

_INDEX_DTYPE = ChoiceText(("float16", "float32", "float64", "int32", "int64", "uint8"))


class SortParams(Params):
    """Parameters of `sort`."""

    axis: int | None = param(INT_OR_NONE, "The axis; None flattens the input.", default=-1)
    is_ascend: bool = param(BOOL, "Whether the least comes first.", default=True)


class ArgsortParams(SortParams):
    """Parameters of `argsort`."""

    dtype: str = param(_INDEX_DTYPE, "Type of indices.", default="float32")


class TopKParams(Params):
    """Parameters of `topk`."""

    axis: int | None = param(INT_OR_NONE, "The axis; None flattens the input.", default=-1)
    k: int = param(INT, "How many; all below 1.", default=1)
    ret_typ: str = param(ChoiceText(("both", "indices", "mask", "value")), "What to return.", default="indices")
    is_ascend: bool = param(BOOL, "Whether the least are chosen.", default=False)
    dtype: str = param(_INDEX_DTYPE, "Type of indices.", default="float32")


_Ordering = SortParams | ArgsortParams | TopKParams


def _returns(params: _Ordering) -> str:
    if isinstance(params, TopKParams):
        return params.ret_typ
    return "indices" if isinstance(params, ArgsortParams) else "value"


def _order_outputs(params: _Ordering) -> tuple[str, ...]:
    return ("output0", "output1") if _returns(params) in ("both", "value") else ("output",)


def _order_shape(
    params: _Ordering, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    (data,) = inputs
    if data is None:
        return inputs, outputs
    flat: tuple[int | None, ...] = (size_of(data),) if params.axis is None else data
    axis = normal_axis(params.operator, params.axis or 0, len(flat))
    size = flat[axis]
    k = params.k if isinstance(params, TopKParams) else 0
    if size is not None and k > size:
        raise ShapeError(f"{params.operator}: k: got {k}; the axis has {size}")
    found: PartialShape = data
    if _returns(params) != "mask":
        found = (*flat[:axis], k if k > 0 else size, *flat[axis + 1 :])
    return inputs, [found] * len(_order_outputs(params))


def _order_dtypes(params: _Ordering, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
    indices = np.dtype(np.int32) if isinstance(params, SortParams) else as_dtype(params.dtype)
    if isinstance(params, ArgsortParams) or _returns(params) == "indices":
        return inputs, [as_dtype(params.dtype)]  # type: ignore[union-attr]
    kind = inputs[0] if inputs[0] is not None else outputs[0]
    if isinstance(params, TopKParams) and params.ret_typ == "value":
        indices = np.dtype(np.int32)
    return [kind], [kind, indices][: len(outputs)]


def _ordered(params: _Ordering, data: Array) -> tuple[Array, Array, int]:
    """Return the data, flat if asked to, the places of the chosen, and the axis; equals keep their order."""
    flat, axis = (data.reshape(-1), 0) if params.axis is None else (data, params.axis % data.ndim)
    size = flat.shape[axis]
    if params.is_ascend:
        places = np.argsort(flat, axis=axis, kind="stable")
    else:
        turned = np.argsort(np.flip(flat, axis), axis=axis, kind="stable")
        places = size - 1 - np.flip(turned, axis)
    k = params.k if isinstance(params, TopKParams) and params.k > 0 else size
    return flat, places.take(range(k), axis=axis), axis


@quiet
def _order(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: _Ordering = call.params
    (data,) = inputs
    flat, places, axis = _ordered(params, data)
    returns = _returns(params)
    if returns == "mask":
        mask = np.zeros_like(flat)
        np.put_along_axis(mask, places, 1, axis)
        return [mask.reshape(data.shape)]
    if returns == "indices":
        dtype = as_dtype(params.dtype)  # type: ignore[union-attr]
        indices = places.astype(dtype)
        if not np.array_equal(indices.astype(np.int64), places):
            raise DTypeError(
                f"{params.operator}: dtype: got {dtype}; it cannot hold every index up to {places.max()}"
            )
        return [indices]
    kinds = _order_dtypes(params, [data.dtype], [None, None])[1]
    return [np.take_along_axis(flat, places, axis), places.astype(kinds[1])]


@quiet
def _order_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: _Ordering = call.params
    (data,) = inputs
    grad = np.zeros_like(data)
    if _returns(params) in ("both", "value"):
        flat, places, axis = _ordered(params, data)
        flat_grad = np.zeros_like(flat)
        np.put_along_axis(flat_grad, places, out_grads[0], axis)
        grad = flat_grad.reshape(data.shape)
    return [grad]


def _declare_order(name: str, base: type[Params], doc: str) -> None:
    register(
        Operator(
            name=name,
            params=named(base, name),
            inputs=("data",),
            outputs=_order_outputs,
            visible=lambda params: 2 if _returns(params) == "both" else 1,
            shape=_order_shape,
            dtype=_order_dtypes,
            forward=_order,
            backward=no_gradient if base is ArgsortParams else _order_backward,
            doc=doc,
        )
    )


_declare_order("sort", SortParams, "`data` in order along an axis.")
_declare_order("argsort", ArgsortParams, "The places that put `data` in order along an axis.")
_declare_order(
    "topk", TopKParams, "The `k` largest or least elements along an axis, their places, or a mask of them."
)
