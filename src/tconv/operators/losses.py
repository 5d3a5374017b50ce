"""Softmax in its forms, and layers whose gradient is that of a loss."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tconv.dtypes import as_dtype
from tconv.errors import ParameterError, ShapeError
from tconv.geometry import PartialShape
from tconv.operators.compute import Function, arithmetic, normal_axis, quiet
from tconv.operators.indexing import whole
from tconv.operators.registry import Array, Call, DTypes, Operator, PartialShapes, merge, one_dtype, register, show
from tconv.operators.tensor import size_of
from tconv.params import BOOL, BOOL_OR_NONE, FLOAT, FLOAT_OR_NONE, INT, ChoiceText, Params, named, param


def softmax(x: Array, axis: int) -> Array:
    """Return exp(x) divided by its sum along an axis."""
    powers = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
    total: Array = powers / np.sum(powers, axis=axis, keepdims=True)
    return total


def _softmax_slope(y: Array, grad: Array, axis: int) -> Array:
    slope: Array = y * (grad - np.sum(grad * y, axis=axis, keepdims=True))
    return slope


class SoftmaxParams(Params):
    """Parameters of `softmax` and its kin."""

    axis: int = param(INT, "The axis.", default=-1)
    temperature: float | None = param(FLOAT_OR_NONE, "What the input is divided by; 1 by default.", default=None)
    dtype: str | None = param(
        ChoiceText(("float16", "float32", "float64"), none=True),
        "Type of the output; the input's by default.",
        default=None,
    )
    use_length: bool | None = param(
        BOOL_OR_NONE, "Whether an input tells how many elements along the axis count.", default=False
    )


def _softmax_shape(
    params: SoftmaxParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data = merge(params.operator, inputs[0], outputs[0])
    if data is None:
        return inputs, outputs
    axis = normal_axis(params.operator, params.axis, len(data))
    rest: PartialShape = (*data[:axis], *data[axis + 1 :]) or (1,)
    return [data, rest][: len(inputs)], [data]


def _softmax_dtypes(params: SoftmaxParams, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
    if params.dtype is not None:
        made = as_dtype(params.dtype)
        return [made if inputs[0] is None else inputs[0], *inputs[1:]], [made]
    known, found = one_dtype(params, inputs[:1], outputs)
    return [*known, *inputs[1:]], found


def _counted(params: SoftmaxParams, inputs: Sequence[Array]) -> Array | None:
    """Return where elements count, None for everywhere."""
    if len(inputs) < 2:
        return None
    data, length = inputs
    axis = params.axis % data.ndim
    places = np.arange(data.shape[axis]).reshape([-1 if one == axis else 1 for one in range(data.ndim)])
    counted: Array = places < whole(length).reshape(*data.shape[:axis], 1, *data.shape[axis + 1 :])
    return counted


def _declare_softmax(name: str, sign: int, log: bool, lengths: bool, doc: str) -> None:
    def working(params: SoftmaxParams, array: Array) -> Array:
        wide = np.float64 if array.dtype == np.float64 or params.dtype == "float64" else np.float32
        return array.astype(wide, copy=False)

    @quiet
    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        params: SoftmaxParams = call.params
        data = inputs[0]
        axis = params.axis % data.ndim
        x = working(params, data) * (sign / (params.temperature or 1))
        counted = _counted(params, inputs)
        if counted is not None:
            x = np.where(counted, x, -np.inf)
        if log:
            x = x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)
            y = x - np.log(np.sum(np.exp(x), axis=axis, keepdims=True))
        else:
            y = softmax(x, axis)
        if counted is not None:
            y = np.where(counted, y, 0)
        return [y.astype(data.dtype if params.dtype is None else as_dtype(params.dtype), copy=False)]

    @quiet
    def backward(
        call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
    ) -> Sequence[Array | None]:
        params: SoftmaxParams = call.params
        data = inputs[0]
        axis = params.axis % data.ndim
        y, grad = working(params, outputs[0]), working(params, out_grads[0])
        counted = _counted(params, inputs)
        if counted is not None:
            grad = np.where(counted, grad, 0)
        slope = grad - np.exp(y) * np.sum(grad, axis=axis, keepdims=True) if log else _softmax_slope(y, grad, axis)
        if counted is not None:
            slope = np.where(counted, slope, 0)
        slope = slope * (sign / (params.temperature or 1))
        return [slope.astype(data.dtype, copy=False), *(np.zeros_like(length) for length in inputs[1:])]

    register(
        Operator(
            name=name,
            params=named(SoftmaxParams, name),
            inputs=(lambda params: ("data", "length") if params.use_length else ("data",))
            if lengths
            else ("data",),
            shape=_softmax_shape,
            dtype=_softmax_dtypes,
            forward=forward,
            backward=backward,
            doc=doc,
        ),
        all_inputs=("data", "length") if lengths else ("data",),
    )


_declare_softmax("softmax", 1, False, True, "`exp(data)` divided by its sum along an axis.")
_declare_softmax("softmin", -1, False, False, "The softmax of `-data`.")
_declare_softmax("log_softmax", 1, True, False, "The logarithm of the softmax.")


class SoftmaxActivationParams(Params):
    """Parameters of `SoftmaxActivation`."""

    mode: str = param(
        ChoiceText(("channel", "instance")), "Over axis 1, or over the last axis.", default="instance"
    )


def _activation_rows(params: SoftmaxActivationParams, array: Array) -> tuple[Array, int]:
    if params.mode == "channel":
        if array.ndim < 3:
            raise ShapeError(
                f"{params.operator}: data: got shape {show(array.shape)}; mode channel needs 3 dimensions"
            )
        return arithmetic(array), 1
    return arithmetic(array), array.ndim - 1


@quiet
def _softmax_activation(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    rows, axis = _activation_rows(call.params, inputs[0])
    return [softmax(rows, axis).reshape(inputs[0].shape).astype(inputs[0].dtype, copy=False)]


@quiet
def _softmax_activation_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    y, axis = _activation_rows(call.params, outputs[0])
    slope = _softmax_slope(y, arithmetic(out_grads[0]).reshape(y.shape), axis)
    return [slope.reshape(inputs[0].shape).astype(inputs[0].dtype, copy=False)]


register(
    Operator(
        name="SoftmaxActivation",
        params=named(SoftmaxActivationParams, "SoftmaxActivation"),
        inputs=("data",),
        forward=_softmax_activation,
        backward=_softmax_activation_backward,
        doc="The softmax over the channels, or over the last axis.",
    )
)


_NORMALIZATION = ChoiceText(("batch", "null", "valid"))
_SCALE = "What the gradient is multiplied by."


class SoftmaxOutputParams(Params):
    """Parameters of `SoftmaxOutput`."""

    grad_scale: float = param(FLOAT, _SCALE, default=1.0)
    ignore_label: float = param(FLOAT, "Label without a gradient, with use_ignore.", default=-1.0)
    multi_output: bool = param(BOOL, "Whether classes are on axis 1, one label for every place.", default=False)
    use_ignore: bool = param(BOOL, "Whether ignore_label takes effect.", default=False)
    preserve_shape: bool = param(BOOL, "Whether classes are on the last axis.", default=False)
    normalization: str = param(
        _NORMALIZATION, "Whether the gradient is divided by the batch or by the labels that count.", default="null"
    )
    out_grad: bool = param(BOOL, "Whether the gradient is multiplied by that of the output.", default=False)
    smooth_alpha: float = param(FLOAT, "Part of a label's weight spread over the other classes.", default=0.0)

    def _check(self) -> None:
        if not 0 <= self.smooth_alpha <= 1:
            raise ParameterError(f"{self.operator}: smooth_alpha: got {self.smooth_alpha}; need 0 to 1")


def _label_shape(
    params: SoftmaxOutputParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data, label = inputs
    if data is None or label == data:
        return inputs, [data]
    if not params.multi_output:
        return [data, data[:-1]], [data]
    if len(data) < 2:
        raise ShapeError(f"{params.operator}: data: got shape {show(data)}; multi_output needs 2 dimensions")
    flat: tuple[int | None, ...] = (data[0], size_of(data[2:]))
    if label is None:
        return [data, flat], [data]
    for fitting in (flat, (data[0], *data[2:]), (data[0], 1, *data[2:])):
        if len(fitting) == len(label) and all(a is None or b is None or a == b for a, b in zip(fitting, label)):
            return [data, fitting], [data]
    raise ShapeError(f"{params.operator}: label: got shape {show(label)}; data {show(data)} needs {show(flat)}")


def _classes(params: SoftmaxOutputParams, array: Array) -> Array:
    """Return an array with its classes on axis 1 of 3."""
    shape = array.shape
    if params.multi_output:
        return arithmetic(array).reshape(shape[0], shape[1], prod(shape[2:]))
    if params.preserve_shape:
        return arithmetic(array).reshape(prod(shape[:-1]), shape[-1], 1)
    return arithmetic(array).reshape(shape[0], prod(shape[1:]), 1)


@quiet
def _softmax_output(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    data = inputs[0]
    return [softmax(_classes(call.params, data), 1).reshape(data.shape).astype(data.dtype, copy=False)]


@quiet
def _softmax_output_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: SoftmaxOutputParams = call.params
    data, label = inputs
    scale = params.grad_scale
    if label.shape == data.shape:
        grad = (arithmetic(outputs[0]) - arithmetic(label)) * scale
    else:
        y = _classes(params, outputs[0])
        batch, count, places = y.shape
        labels = whole(label).reshape(-1, places)
        if len(labels) != batch:
            raise ShapeError(f"{params.operator}: label: got shape {show(label.shape)}; data is {show(data.shape)}")
        hot = labels[:, None, :] == np.arange(count)[None, :, None]
        # MXNet smooths labels only where there is one for each sample.
        spread = 0.0 if params.multi_output else params.smooth_alpha
        grad = y - np.where(hot, 1 - spread, spread / max(count - 1, 1)).astype(y.dtype)
        if params.use_ignore:
            grad = np.where((labels == int(params.ignore_label))[:, None, :], 0, grad)
        if params.normalization == "valid":
            scale /= max(int(np.count_nonzero(labels != int(params.ignore_label))), 1)
        else:
            scale /= places * (batch if params.normalization == "batch" else 1)
        grad = (grad * y.dtype.type(scale)).reshape(data.shape)
    if params.out_grad:
        grad = grad * arithmetic(out_grads[0])
    return [grad.astype(data.dtype, copy=False), np.zeros_like(label)]


register(
    Operator(
        name="SoftmaxOutput",
        params=named(SoftmaxOutputParams, "SoftmaxOutput"),
        inputs=("data", "label"),
        shape=_label_shape,
        forward=_softmax_output,
        backward=_softmax_output_backward,
        aliases=("Softmax",),
        head=True,
        doc="The softmax, with the gradient of its cross-entropy with `label`.",
    )
)


class RegressionParams(Params):
    """Parameters of a regression layer."""

    grad_scale: float = param(FLOAT, _SCALE, default=1.0)


def _regression_shape(
    params: RegressionParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data, label = inputs
    if data is None:
        return inputs, outputs
    if label is None:
        label = data[:1] if len(data) == 2 and data[1] == 1 else data
    elif None not in (*data, *label) and (data[:1] != label[:1] or size_of(data) != size_of(label)):
        raise ShapeError(f"{params.operator}: label: got shape {show(label)}; data is {show(data)}")
    return [data, label], [data]


def _declare_regression(name: str, function: Function, slope: Function, doc: str) -> None:
    @quiet
    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        return [np.asarray(function(arithmetic(inputs[0]))).astype(inputs[0].dtype)]

    @quiet
    def backward(
        call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
    ) -> Sequence[Array | None]:
        data, label = inputs
        outputs_of_one = max(label.size // max(len(label), 1), 1)
        difference = arithmetic(outputs[0]) - arithmetic(label).reshape(data.shape)
        grad = slope(difference) * difference.dtype.type(call.params.grad_scale / outputs_of_one)
        return [grad.astype(data.dtype, copy=False), np.zeros_like(label)]

    register(
        Operator(
            name=name,
            params=named(RegressionParams, name),
            inputs=("data", "label"),
            shape=_regression_shape,
            forward=forward,
            backward=backward,
            head=True,
            doc=doc,
        )
    )


_declare_regression(
    "LinearRegressionOutput",
    np.positive,
    lambda difference: difference,
    "`data`, with the gradient of half its squared distance from `label`.",
)
_declare_regression(
    "LogisticRegressionOutput",
    lambda x: 1 / (1 + np.exp(-x)),
    lambda difference: difference,
    "The sigmoid of `data`, with the gradient of its cross-entropy with `label`.",
)
_declare_regression(
    "MAERegressionOutput",
    np.positive,
    lambda difference: np.where(difference > 0, 1, -1),
    "`data`, with the gradient of its absolute distance from `label`.",
)


class MakeLossParams(Params):
    """Parameters of `MakeLoss`."""

    grad_scale: float = param(FLOAT, _SCALE, default=1.0)
    valid_thresh: float = param(FLOAT, "Elements count as valid above it.", default=0.0)
    normalization: str = param(
        _NORMALIZATION, "Whether the gradient is divided by the batch or by the valid elements.", default="null"
    )


def _make_loss_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    (data,) = inputs
    params: MakeLossParams | Params = call.params
    scale = 1.0
    if isinstance(params, MakeLossParams):
        scale = params.grad_scale
        if params.normalization == "valid":
            scale /= max(int(np.count_nonzero(data > params.valid_thresh)), 1)
        elif params.normalization == "batch":
            scale /= max(len(data), 1)
    return [np.full(data.shape, np.float64(scale).astype(data.dtype), data.dtype)]


def _declare_loss(name: str, base: type[Params], doc: str) -> None:
    register(
        Operator(
            name=name,
            params=named(base, name),
            inputs=("data",),
            forward=lambda call, inputs: [inputs[0]],
            backward=_make_loss_backward,
            view=True,
            head=True,
            doc=doc,
        )
    )


_declare_loss("MakeLoss", MakeLossParams, "`data` as a loss: its gradient is `grad_scale`, divided if asked to.")
_declare_loss("make_loss", Params, "`data` as a loss: its gradient is 1.")


def _cross_entropy_shape(
    params: Params, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data, label = inputs
    if data is not None and len(data) != 2:
        raise ShapeError(f"softmax_cross_entropy: data: got shape {show(data)}; need 2 dimensions")
    return [data, label if data is None else data[:1]], [(1,)]


def _hot(data: Array, label: Array) -> Array:
    hot: Array = whole(label)[:, None] == np.arange(data.shape[1])
    return hot


@quiet
def _cross_entropy(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    data, label = inputs
    likely = np.maximum(softmax(arithmetic(data), 1)[_hot(data, label)], 1e-8)
    return [np.array([-np.sum(np.log(likely), dtype=np.float64)]).astype(data.dtype)]


@quiet
def _cross_entropy_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    data, label = inputs
    grad = (softmax(arithmetic(data), 1) - _hot(data, label)) * arithmetic(out_grads[0])
    return [grad.astype(data.dtype, copy=False), np.zeros_like(label)]


register(
    Operator(
        name="softmax_cross_entropy",
        params=named(Params, "softmax_cross_entropy"),
        inputs=("data", "label"),
        shape=_cross_entropy_shape,
        forward=_cross_entropy,
        backward=_cross_entropy_backward,
        doc="The cross-entropy of the softmax of `data` with `label`, summed, in an array of shape (1,).",
    )
)
