"""Normalisation: arrays shifted and scaled to mean 0 and variance 1, or to length 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tconv.dtypes import DType
from tconv.geometry import PartialShape, Shape
from tconv.operators.compute import arithmetic, normal_axis, quiet
from tconv.operators.registry import Array, Call, DTypes, Operator, PartialShapes, register
from tconv.params import BOOL, FLOAT, FLOAT_OR_NONE, INT, Params, named, param

_EPS = "Added to the variance."


def _along(vector: Array, axis: int, rank: int) -> Array:
    """Return a vector shaped to broadcast along one axis."""
    return vector.reshape([-1 if one == axis else 1 for one in range(rank)])


def _mean(x: Array, axes: Shape) -> Array:
    return np.asarray(np.mean(x, axis=axes, dtype=np.float64, keepdims=True))


@dataclass(frozen=True, kw_only=True)
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
        variance = np.mean(np.square(x - mean.astype(x.dtype)), axis=others, dtype=np.float64)
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
