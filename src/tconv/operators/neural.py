"""Layers of networks: activations and the fully connected layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from tconv.errors import ShapeError
from tconv.geometry import PartialShape
from tconv.operators.compute import Function, arithmetic, quiet, total, widened
from tconv.operators.elementwise import UNARY, Unary, softrelu
from tconv.operators.registry import Array, Call, Operator, PartialShapes, register
from tconv.operators.tensor import size_of
from tconv.params import BOOL, INT, ChoiceText, Params, named, param

_ACTIVATIONS = {
    **{row.name: row for row in UNARY if row.name in ("relu", "sigmoid", "tanh", "softsign")},
    "softrelu": Unary("softrelu", softrelu, lambda x, y: -np.expm1(-y), "log(1 + exp(x))"),
}


@dataclass(frozen=True, kw_only=True)
class ActivationParams(Params):
    """Parameters of `Activation`."""

    act_type: str = param(ChoiceText(tuple(sorted(_ACTIVATIONS))), "The function.")


@quiet
def _activation(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    (data,) = inputs
    function: Function = _ACTIVATIONS[call.params.act_type].function
    if isinstance(function, np.ufunc) and data.dtype.name in ("float32", "float64"):
        return [np.asarray(function(data, out=call.out))]
    return [np.asarray(function(widened(data))).astype(data.dtype, copy=False)]


@quiet
def _activation_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    slope = _ACTIVATIONS[call.params.act_type].slope
    assert slope is not None
    grad = arithmetic(out_grads[0]) * slope(widened(inputs[0]), widened(outputs[0]))
    return [grad.astype(inputs[0].dtype, copy=False)]


register(
    Operator(
        name="Activation",
        params=named(ActivationParams, "Activation"),
        inputs=("data",),
        forward=_activation,
        backward=_activation_backward,
        doc="A function of every element: " + ", ".join(f"{n}: {row.doc}" for n, row in _ACTIVATIONS.items()),
    )
)


@dataclass(frozen=True, kw_only=True)
class FullyConnectedParams(Params):
    """Parameters of `FullyConnected`."""

    num_hidden: int = param(INT, "Number of outputs.", low=1)
    no_bias: bool = param(BOOL, "Whether there is no bias.", default=False)
    flatten: bool = param(BOOL, "Whether all axes but the first are inputs, or only the last.", default=True)


def _connected_inputs(params: FullyConnectedParams) -> tuple[str, ...]:
    return ("data", "weight") if params.no_bias else ("data", "weight", "bias")


def _connected_shape(
    params: FullyConnectedParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data, *_ = inputs
    if data is None:
        return inputs, outputs
    if not data:
        raise ShapeError("FullyConnected: data: got shape (); need at least 1 dimension")
    hidden = params.num_hidden
    width = size_of(data[1:]) if params.flatten else data[-1]
    found: PartialShape = (data[0], hidden) if params.flatten else (*data[:-1], hidden)
    bias: PartialShape = (hidden,)
    if len(inputs) > 2 and inputs[2] is not None and len(inputs[2]) == 2:
        bias = (hidden, 1)
    known = outputs[0]
    if known is not None and found is not None and len(known) == len(found):
        data = (known[0] if data[0] is None else data[0], *data[1:])
    return [data, (hidden, width), bias][: len(inputs)], [found]


def _rows(params: FullyConnectedParams, data: Array) -> Array:
    width = prod(data.shape[1:]) if params.flatten else data.shape[-1]
    rows = len(data) if params.flatten else prod(data.shape[:-1])
    return arithmetic(data).reshape(rows, width)


@quiet
def _connected(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: FullyConnectedParams = call.params
    data, weight, *bias = inputs
    shape = (len(data), params.num_hidden) if params.flatten else (*data.shape[:-1], params.num_hidden)
    result = _rows(params, data) @ arithmetic(weight).T
    if bias:
        result += arithmetic(bias[0]).reshape(-1)
    return [result.reshape(shape).astype(data.dtype, copy=False)]


@quiet
def _connected_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: FullyConnectedParams = call.params
    data, weight, *bias = inputs
    grad = arithmetic(out_grads[0]).reshape(-1, params.num_hidden)
    grads: list[Array | None] = [
        (grad @ arithmetic(weight)).reshape(data.shape).astype(data.dtype, copy=False) if call.wanted[0] else None,
        (grad.T @ _rows(params, data)).astype(weight.dtype, copy=False) if call.wanted[1] else None,
    ]
    if bias:
        wanted = call.wanted[2]
        grads.append(total(grad, (0,)).reshape(bias[0].shape).astype(bias[0].dtype) if wanted else None)
    return grads


register(
    Operator(
        name="FullyConnected",
        params=named(FullyConnectedParams, "FullyConnected"),
        inputs=_connected_inputs,
        shape=_connected_shape,
        forward=_connected,
        backward=_connected_backward,
        doc="`data @ weight.T + bias`, with weight (num_hidden, inputs) and bias (num_hidden,).",
    ),
    all_inputs=("data", "weight", "bias"),
)
