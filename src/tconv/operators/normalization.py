"""Normalisation: arrays shifted and scaled to mean 0 and variance 1, or to length 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from tconv.dtypes import DType
from tconv.errors import ParameterError, ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.operators.compute import arithmetic, normal_axis, quiet, total
from tconv.operators.registry import Array, Call, DTypes, Operator, PartialShapes, merge, register, show
from tconv.operators.tensor import known
from tconv.params import BOOL, FLOAT, FLOAT_OR_NONE, INT, UINT32, ChoiceText, Params, named, param

_EPS = "Added to the variance."


def _along(vector: Array, axis: int, rank: int) -> Array:
    """Return a vector shaped to broadcast along one axis."""
    return vector.reshape([-1 if one == axis else 1 for one in range(rank)])


def _mean(x: Array, axes: Shape) -> Array:
    count = max(prod(x.shape[axis] for axis in axes), 1)
    mean: Array = np.sum(x, axis=axes, dtype=np.float64, keepdims=True) / count
    return mean


class BatchNormParams(Params):
    """Parameters of `BatchNorm`."""

    eps: float = param(FLOAT, _EPS, default=1e-3)
    momentum: float = param(FLOAT, "Part of the moving averages that stays at each step.", default=0.9)
    fix_gamma: bool = param(BOOL, "Whether gamma counts as 1 and gets no gradient.", default=True)
    use_global_stats: bool = param(BOOL, "Whether training uses the moving averages too.", default=False)
    output_mean_var: bool = param(BOOL, "Whether mean and 1 / deviation are outputs too.", default=False)
    axis: int = param(INT, "The axis of the channels.", default=1)
    cudnn_off: bool = param(BOOL, "Whether to keep off cuDNN; no effect on the CPU.", default=False)
    min_calib_range: float | None = param(FLOAT_OR_NONE, "Least value when quantized; not used.", default=None)
    max_calib_range: float | None = param(FLOAT_OR_NONE, "Largest value when quantized; not used.", default=None)


def _batch_shape(
    params: BatchNormParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data = inputs[0]
    if data is None:
        return inputs, outputs
    channels: PartialShape = (data[normal_axis(params.operator, params.axis, len(data))],)
    return [data, *[channels] * 4], [data, channels, channels]


def statistics_dtype(dtype: DType) -> DType:
    """Return the type of statistics and of scale and shift: float32 where the data has half precision."""
    return dtype if dtype.name in ("float32", "float64") else np.dtype(np.float32)


def _batch_dtypes(params: Params, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
    data = inputs[0] if inputs[0] is not None else outputs[0]
    if data is None:
        return inputs, outputs
    rest = statistics_dtype(data)
    return [data, *[rest] * (len(inputs) - 1)], [data, *[rest] * (len(outputs) - 1)]


@quiet
def _batch_norm(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: BatchNormParams = call.params
    data, gamma, beta, moving_mean, moving_var = inputs
    axis = params.axis % data.ndim
    x = arithmetic(data)
    if call.is_train and not params.use_global_stats:
        others = tuple(one for one in range(data.ndim) if one != axis)
        mean = _mean(x, others)
        variance = _mean(np.square(x - mean.astype(x.dtype)), others).reshape(-1)
        mean = mean.reshape(-1).astype(gamma.dtype)
    else:
        mean, variance = moving_mean, moving_var.astype(np.float64)
    inverse = 1 / np.sqrt(variance + params.eps)
    inverse = np.where(np.isinf(inverse), 0, inverse) if params.eps == 0 else inverse
    scale = inverse if params.fix_gamma else inverse * gamma
    out = x - _along(mean.astype(x.dtype), axis, x.ndim)
    out *= _along(scale.astype(x.dtype), axis, x.ndim)
    out += _along(beta.astype(x.dtype), axis, x.ndim)
    return [out.astype(data.dtype, copy=False), np.array(mean), inverse.astype(gamma.dtype)]


@quiet
def _batch_norm_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: BatchNormParams = call.params
    data, gamma, beta, moving_mean, moving_var = inputs
    _, mean, inverse = outputs
    axis, rank = params.axis % data.ndim, data.ndim
    others = tuple(one for one in range(rank) if one != axis)
    x, grad = arithmetic(data), arithmetic(out_grads[0])
    centred = x - _along(mean.astype(x.dtype), axis, rank)
    grad_sum = np.sum(grad, axis=others, dtype=np.float64)
    product_sum = np.sum(grad * centred, axis=others, dtype=np.float64)
    scale = np.asarray(inverse if params.fix_gamma else inverse * gamma, np.float64)
    by_data = grad
    if call.is_train and not params.use_global_stats:
        keep = params.momentum
        variance = 1 / np.square(inverse.astype(np.float64)) - params.eps
        moving_mean[...] = moving_mean * keep + mean * (1 - keep)
        moving_var[...] = moving_var * keep + variance * (1 - keep)
        count = max(x.size // max(x.shape[axis], 1), 1)
        slope = product_sum * np.square(inverse, dtype=np.float64) / count
        by_data = grad - _along((grad_sum / count).astype(x.dtype), axis, rank)
        by_data -= centred * _along(slope.astype(x.dtype), axis, rank)
    by_data = by_data * _along(scale.astype(x.dtype), axis, rank)
    by_gamma = np.zeros_like(gamma) if params.fix_gamma else (product_sum * inverse).astype(gamma.dtype)
    return [by_data.astype(data.dtype, copy=False), by_gamma, grad_sum.astype(beta.dtype), None, None]


_BATCH_INPUTS = ("data", "gamma", "beta", "moving_mean", "moving_var")
_BATCH_DOC = """Normalisation by channel: `(data - mean) / sqrt(var + eps) * gamma + beta`.

In training mean and variance are those of the batch, and the gradient's computation moves the averages
`moving_mean` and `moving_var` towards them; otherwise they are the moving averages."""

register(
    Operator(
        name="BatchNorm",
        params=named(BatchNormParams, "BatchNorm"),
        inputs=_BATCH_INPUTS,
        aux=("moving_mean", "moving_var"),
        outputs=("output", "mean", "var"),
        visible=lambda params: 3 if params.output_mean_var else 1,
        shape=_batch_shape,
        dtype=_batch_dtypes,
        forward=_batch_norm,
        backward=_batch_norm_backward,
        initial={"moving_mean": '["zero", {}]', "moving_var": '["one", {}]'},
        doc=_BATCH_DOC,
    )
)


@quiet
def _standardized(x: Array, axes: Shape, eps: float) -> tuple[Array, Array, Array]:
    """Return `x` at mean 0 and variance 1 over `axes`, the mean, and the deviation."""
    mean = _mean(x, axes)
    centred = x - mean.astype(x.dtype)
    deviation = np.sqrt(_mean(np.square(centred), axes) + eps)
    return centred / deviation.astype(x.dtype), mean, deviation


@quiet
def _standardized_gradient(y: Array, deviation: Array, grad: Array, axes: Shape) -> Array:
    """Return the gradient of `_standardized` from its result."""
    inner = grad - _mean(grad, axes).astype(y.dtype) - y * _mean(grad * y, axes).astype(y.dtype)
    return np.asarray(inner / deviation.astype(y.dtype))


class InstanceNormParams(Params):
    """Parameters of `InstanceNorm`."""

    eps: float = param(FLOAT, _EPS, default=1e-3)


class LayerNormParams(Params):
    """Parameters of `LayerNorm`."""

    axis: int = param(INT, "The axis to normalise.", default=-1)
    eps: float = param(FLOAT, _EPS, default=1e-5)
    output_mean_var: bool = param(BOOL, "Whether mean and deviation are outputs too.", default=False)


class GroupNormParams(Params):
    """Parameters of `GroupNorm`."""

    num_groups: int = param(INT, "Number of groups of channels.", default=1, low=1)
    eps: float = param(FLOAT, _EPS, default=1e-5)
    output_mean_var: bool = param(BOOL, "Whether mean and deviation are outputs too.", default=False)


_Scaled = InstanceNormParams | LayerNormParams | GroupNormParams


@dataclass(frozen=True)
class _Plan:
    """How a normalisation with scale and shift sees its data.

    Attributes
    ----------
    shape : tuple of int or None
        Its shape with groups split off.
    axes : tuple of int
        The axes of that shape which are normalised.
    axis : int
        The axis of that shape along which scale and shift go.
    statistics : tuple of int or None
        Shape of mean and deviation.
    """

    shape: tuple[int | None, ...]
    axes: Shape
    axis: int
    statistics: tuple[int | None, ...]


def _plan(params: _Scaled, data: tuple[int | None, ...]) -> _Plan:
    rank = len(data)
    if isinstance(params, LayerNormParams):
        axis = normal_axis(params.operator, params.axis, rank)
        return _Plan(data, (axis,), axis, tuple(1 if one == axis else n for one, n in enumerate(data)))
    if rank < 3:
        raise ShapeError(f"{params.operator}: data: got shape {show(data)}; need 3 dimensions at least")
    if isinstance(params, InstanceNormParams):
        return _Plan(data, tuple(range(2, rank)), 1, data[:2])
    groups, channels = params.num_groups, data[1]
    if channels is not None and channels % groups:
        raise ShapeError(f"{params.operator}: num_groups: got {groups}; it does not divide {channels} channels")
    split = None if channels is None else channels // groups
    shape = (data[0], groups, split, *data[2:])
    return _Plan(shape, tuple(range(2, rank + 1)), 1, (data[0], groups))


def _scaled_shape(
    params: _Scaled, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data = inputs[0]
    if data is None:
        return inputs, outputs
    plan = _plan(params, data)
    vector: PartialShape = (plan.shape[plan.axis],)
    return [data, vector, vector], [data, plan.statistics, plan.statistics]


@quiet
def _scaled(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    data, gamma, beta = inputs
    plan = _plan(call.params, data.shape)
    x = arithmetic(data).reshape(known(plan.shape))
    y, mean, deviation = _standardized(x, plan.axes, call.params.eps)
    y = y * _along(arithmetic(gamma), plan.axis, x.ndim) + _along(arithmetic(beta), plan.axis, x.ndim)
    statistics = (one.reshape(known(plan.statistics)).astype(data.dtype) for one in (mean, deviation))
    return [y.reshape(data.shape).astype(data.dtype, copy=False), *statistics]


@quiet
def _scaled_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    data, gamma, beta = inputs
    plan = _plan(call.params, data.shape)
    x = arithmetic(data).reshape(known(plan.shape))
    grad = arithmetic(out_grads[0]).reshape(x.shape)
    y, _, deviation = _standardized(x, plan.axes, call.params.eps)
    by_data = _standardized_gradient(y, deviation, grad * _along(arithmetic(gamma), plan.axis, x.ndim), plan.axes)
    others = tuple(axis for axis in range(x.ndim) if axis != plan.axis)
    return [
        by_data.reshape(data.shape).astype(data.dtype, copy=False),
        total(grad * y, others).astype(gamma.dtype, copy=False),
        total(grad, others).astype(beta.dtype, copy=False),
    ]


def _declare_scaled(base: type[Params], name: str, statistics: str, doc: str) -> None:
    register(
        Operator(
            name=name,
            params=named(base, name),
            inputs=("data", "gamma", "beta"),
            outputs=("output", "mean", statistics),
            visible=lambda params: 3 if getattr(params, "output_mean_var", False) else 1,
            shape=_scaled_shape,
            forward=_scaled,
            backward=_scaled_backward,
            doc=f"{doc}, times `gamma` plus `beta`.",
        )
    )


_declare_scaled(InstanceNormParams, "InstanceNorm", "var", "Each channel of each sample at mean 0 and variance 1")
_declare_scaled(LayerNormParams, "LayerNorm", "std", "Each vector along an axis at mean 0 and variance 1")
_declare_scaled(
    GroupNormParams, "GroupNorm", "std", "Each group of channels of each sample at mean 0 and variance 1"
)


class L2NormalizationParams(Params):
    """Parameters of `L2Normalization`."""

    eps: float = param(FLOAT, "Added to the squared length.", default=1e-10)
    mode: str = param(
        ChoiceText(("channel", "instance", "spatial")),
        "Whether the vectors lie along the channels, fill a sample, or fill a channel.",
        default="instance",
    )


def _length_axes(params: L2NormalizationParams, data: tuple[int | None, ...]) -> Shape:
    if params.mode != "instance" and len(data) < 3:
        raise ShapeError(f"L2Normalization: data: got shape {show(data)}; mode {params.mode} needs 3 dimensions")
    rank = len(data)
    return {"instance": tuple(range(1, rank)), "channel": (1,), "spatial": tuple(range(2, rank))}[params.mode]


def _length_shape(
    params: L2NormalizationParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data = merge("L2Normalization", inputs[0], outputs[0])
    if data is None:
        return inputs, outputs
    axes = _length_axes(params, data)
    return [data], [data, tuple(size for axis, size in enumerate(data) if axis not in axes)]


@quiet
def _l2(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    (data,) = inputs
    x = arithmetic(data)
    axes = _length_axes(call.params, data.shape)
    length = np.sqrt(np.sum(np.square(x), axis=axes, dtype=np.float64, keepdims=True) + call.params.eps)
    out = x / length.astype(x.dtype)
    return [out.astype(data.dtype, copy=False), np.asarray(np.squeeze(length, axes), data.dtype)]


@quiet
def _l2_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    axes = _length_axes(call.params, inputs[0].shape)
    y, grad = arithmetic(outputs[0]), arithmetic(out_grads[0])
    length = arithmetic(np.expand_dims(outputs[1], axes))
    result = (grad - y * np.sum(grad * y, axis=axes, keepdims=True)) / length
    return [result.astype(inputs[0].dtype, copy=False)]


register(
    Operator(
        name="L2Normalization",
        params=named(L2NormalizationParams, "L2Normalization"),
        inputs=("data",),
        outputs=("output", "norm"),
        visible=1,
        shape=_length_shape,
        forward=_l2,
        backward=_l2_backward,
        doc="Vectors divided by their length.",
    )
)


class LRNParams(Params):
    """Parameters of `LRN`."""

    alpha: float = param(FLOAT, "Weight of the sum of squares.", default=1e-4)
    beta: float = param(FLOAT, "Power.", default=0.75)
    knorm: float = param(FLOAT, "Added to the sum.", default=2.0)
    nsize: int = param(UINT32, "Number of channels in a sum; odd.")

    def _check(self) -> None:
        if self.nsize % 2 == 0:
            raise ParameterError(f"{self.operator}: nsize: got {self.nsize}; need an odd number")


def _neighbours(x: Array, size: int) -> Array:
    """Return sums over windows of so many channels around each."""
    half, channels = size // 2, x.shape[1]
    sums = np.zeros_like(x)
    for shift in range(-min(half, channels - 1), min(half, channels - 1) + 1):
        to = slice(max(-shift, 0), channels - max(shift, 0))
        sums[:, to] += x[:, slice(max(shift, 0), channels - max(-shift, 0))]
    return sums


@quiet
def _lrn(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: LRNParams = call.params
    x = arithmetic(inputs[0])
    norm = params.knorm + params.alpha / params.nsize * _neighbours(np.square(x), params.nsize)
    out = x * norm**-params.beta
    return [one.astype(inputs[0].dtype, copy=False) for one in (out, norm)]


@quiet
def _lrn_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: LRNParams = call.params
    x, grad, norm = arithmetic(inputs[0]), arithmetic(out_grads[0]), arithmetic(outputs[1])
    shared = _neighbours(grad * x * norm ** (-params.beta - 1), params.nsize)
    result = grad * norm**-params.beta - 2 * params.alpha * params.beta / params.nsize * x * shared
    return [result.astype(inputs[0].dtype, copy=False)]


def _lrn_shape(
    params: LRNParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data = inputs[0]
    if data is not None and len(data) != 4:
        raise ShapeError(f"LRN: data: got shape {show(data)}; need 4 dimensions")
    return inputs, [data, data]


register(
    Operator(
        name="LRN",
        params=named(LRNParams, "LRN"),
        inputs=("data",),
        outputs=("output", "tmp_norm"),
        visible=1,
        shape=_lrn_shape,
        forward=_lrn,
        backward=_lrn_backward,
        doc="`data * (knorm + alpha / nsize * s)**-beta`, s the sum of squares of `nsize` channels around each.",
    )
)
