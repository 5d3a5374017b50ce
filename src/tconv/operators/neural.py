"""Layers of networks: activations and the fully connected layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import numpy as np

from tconv.errors import ParameterError, ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.operators.compute import Function, arithmetic, normal_axis, quiet, total, unbroadcast, widened
from tconv.operators.elementwise import UNARY, Unary, erf, softrelu
from tconv.operators.generator import generator
from tconv.operators.registry import Array, Call, Operator, PartialShapes, merge, register, show
from tconv.operators.tensor import size_of
from tconv.params import BOOL, BOOL_OR_NONE, FLOAT, INT, SHAPE, ChoiceText, Params, named, param

_ACTIVATIONS = {
    **{row.name: row for row in UNARY if row.name in ("relu", "sigmoid", "tanh", "softsign")},
    "softrelu": Unary("softrelu", softrelu, lambda x, y: -np.expm1(-y), "log(1 + exp(x))"),
}


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
    known = outputs[0]
    if known is not None and found is not None and len(known) == len(found):
        data = (known[0] if data[0] is None else data[0], *data[1:])
    bias: PartialShape = (hidden,)
    if len(inputs) > 2 and inputs[2] is not None and len(inputs[2]) == 2:
        bias = (hidden, 1)
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


_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946
_PRELU_START = '["Constant", {"value": 0.25}]'


class LeakyReLUParams(Params):
    """Parameters of `LeakyReLU`."""

    act_type: str = param(
        ChoiceText(("elu", "gelu", "leaky", "prelu", "rrelu", "selu")), "The function.", default="leaky"
    )
    slope: float = param(FLOAT, "Slope below 0 of leaky, and scale of elu.", default=0.25)
    lower_bound: float = param(FLOAT, "Least slope of rrelu.", default=0.125)
    upper_bound: float = param(FLOAT, "Largest slope of rrelu.", default=0.334)


def _gamma_shape(data: tuple[int | None, ...], gamma: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Return the shape in which gamma, an array over the first two axes of data, broadcasts to it."""
    left = list(gamma)
    shape: list[int | None] = []
    for axis in range(len(data) - 1, -1, -1):
        fits = bool(left) and axis <= 1 and (left[-1] in (1, None) or data[axis] in (None, left[-1]))
        shape.append(left.pop() if fits else 1)
    if left:
        raise ShapeError(f"LeakyReLU: gamma: got shape {show(gamma)}; it does not broadcast to data {show(data)}")
    return tuple(shape[::-1])


def _leaky_shape(
    params: LeakyReLUParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data = inputs[0]
    found = [data] * len(outputs)
    if data is None or params.act_type != "prelu":
        return inputs, found
    gamma = inputs[1]
    if gamma is None:
        gamma = (data[1] if len(data) > 1 else 1,)
    elif gamma != data:
        _gamma_shape(data, gamma)
    return [data, gamma], found


def _bent(x: Array, slope: Array | float) -> Array:
    return np.where(x > 0, x, x * slope)


def _leaky_slope(params: LeakyReLUParams, inputs: Sequence[Array], outputs: Sequence[Array]) -> Array | float:
    """Return what elements below 0 are multiplied by."""
    if params.act_type == "prelu":
        data, gamma = inputs
        if gamma.shape == data.shape:
            return arithmetic(gamma)
        return arithmetic(gamma).reshape([size or 0 for size in _gamma_shape(data.shape, gamma.shape)])
    if params.act_type == "rrelu":
        return arithmetic(outputs[1])
    return params.slope


def _gelu_slope(x: Array) -> Array:
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    slope: Array = 0.5 * (1 + erf(x / math.sqrt(2))) + x * density
    return slope


@quiet
def _leaky(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: LeakyReLUParams = call.params
    data = inputs[0]
    x = arithmetic(data)
    kind = params.act_type
    outputs: list[Array]
    if kind == "rrelu":
        low, high = params.lower_bound, params.upper_bound
        slope = np.full(x.shape, (low + high) / 2, x.dtype)
        if call.is_train:
            slope = np.asarray(generator().uniform(low, high, x.shape), x.dtype)
        outputs = [_bent(x, slope), slope]
    elif kind == "gelu":
        outputs = [0.5 * x * (1 + erf(np.asarray(x / math.sqrt(2))))]
    elif kind == "selu":
        outputs = [np.where(x > 0, x, _SELU_ALPHA * np.expm1(x)) * x.dtype.type(_SELU_SCALE)]
    elif kind == "elu":
        outputs = [np.where(x > 0, x, params.slope * np.expm1(x))]
    elif kind == "leaky" and 0 < params.slope <= 1:
        # The larger of the two is the same for such a slope, and faster.
        outputs = [np.maximum(x, x * x.dtype.type(params.slope), out=call.out if x is data else None)]
    else:
        outputs = [_bent(x, _leaky_slope(params, inputs, ()))]
    return [output.astype(data.dtype, copy=False) for output in outputs]


@quiet
def _leaky_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: LeakyReLUParams = call.params
    x, grad = arithmetic(inputs[0]), arithmetic(out_grads[0])
    kind = params.act_type
    if kind == "gelu":
        grads = [grad * _gelu_slope(x)]
    elif kind == "selu":
        grads = [grad * _SELU_SCALE * np.where(x > 0, 1, _SELU_ALPHA * np.exp(x))]
    elif kind == "elu":
        grads = [grad * np.where(x > 0, 1, params.slope * np.exp(x))]
    else:
        slope = _leaky_slope(params, inputs, outputs)
        grads = [grad * np.where(x > 0, x.dtype.type(1), slope)]
        if kind == "prelu":
            assert isinstance(slope, np.ndarray)
            grads.append(unbroadcast(grad * np.where(x > 0, 0, x), slope.shape).reshape(inputs[1].shape))
    return [one.astype(array.dtype, copy=False) for one, array in zip(grads, inputs)]


register(
    Operator(
        name="LeakyReLU",
        params=named(LeakyReLUParams, "LeakyReLU"),
        inputs=lambda params: ("data", "gamma") if params.act_type == "prelu" else ("data",),
        outputs=lambda params: ("output", "mask") if params.act_type == "rrelu" else ("output",),
        shape=_leaky_shape,
        forward=_leaky,
        backward=_leaky_backward,
        initial={"gamma": _PRELU_START},
        doc="""A bent line: x above 0, and below it

- leaky: `slope * x`; prelu: `gamma * x`, with gamma by channel; rrelu: a slope drawn between the bounds in
  training, their mean otherwise;
- elu: `slope * (exp(x) - 1)`; selu: elu scaled to keep mean 0 and variance 1;
- gelu: x times the normal distribution.""",
    ),
    all_inputs=("data", "gamma"),
)


class DropoutParams(Params):
    """Parameters of `Dropout`."""

    p: float = param(FLOAT, "Part of the elements that are dropped.", default=0.5)
    mode: str = param(ChoiceText(("always", "training")), "When to drop.", default="training")
    axes: Shape = param(SHAPE, "Axes along which elements are dropped together.", default=())
    cudnn_off: bool | None = param(BOOL_OR_NONE, "Whether to keep off cuDNN; no effect on the CPU.", default=False)

    def _check(self) -> None:
        if not 0 <= self.p <= 1:
            raise ParameterError(f"{self.operator}: p: got {self.p}; need a number from 0 to 1")


def _mask_shape(params: DropoutParams, data: tuple[int | None, ...]) -> tuple[int | None, ...]:
    together = [normal_axis("Dropout", axis, len(data)) for axis in params.axes or ()]
    return tuple(1 if axis in together else size for axis, size in enumerate(data))


def _dropout_shape(
    params: DropoutParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data = merge("Dropout", inputs[0], outputs[0])
    return [data], [data, None if data is None else _mask_shape(params, data)]


@quiet
def _dropout(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: DropoutParams = call.params
    (data,) = inputs
    shape = [size or 0 for size in _mask_shape(params, data.shape)]
    if params.p == 0 or not (call.is_train or params.mode == "always"):
        return [data, np.ones(shape, data.dtype)]
    keep = 1 - params.p
    kept = generator().random(shape, np.float32) < keep
    mask = (kept * np.float64(1 / keep if keep else 0)).astype(data.dtype)
    return [data * mask, mask]


def _dropout_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    return [out_grads[0] * outputs[1]]


register(
    Operator(
        name="Dropout",
        params=named(DropoutParams, "Dropout"),
        inputs=("data",),
        outputs=("output", "mask"),
        visible=1,
        shape=_dropout_shape,
        forward=_dropout,
        backward=_dropout_backward,
        view=True,
        doc="In training, zeros in place of a random part `p` of the elements, the rest divided by `1 - p`.",
    )
)
