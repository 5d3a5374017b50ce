"""Convolution: the same geometry as Deconvolution, read from the large side to the small one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tconv import engine
from tconv.geometry import infer_convolution, solve_convolution
from tconv.operators.deconvolution import check_computable, window_dtypes, window_inputs
from tconv.operators.registry import Array, Call, Operator, PartialShapes, register
from tconv.params import ConvolutionParams, workspace_bytes


def _shape(
    params: ConvolutionParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    weight, out = infer_convolution(params.operator, params.window, inputs[0])
    # As in MXNet, nothing is told before the rank of the data is known.
    bias = None if inputs[0] is None else (params.num_filter,)
    return [inputs[0], weight, bias][: len(inputs)], [out]


def _forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: ConvolutionParams = call.params
    data, weight, *bias = inputs
    check_computable(params.operator, data)
    geometry = solve_convolution(params.operator, params.window, data.shape)
    limits: dict[str, Any] = {"workspace": workspace_bytes(params.workspace), "tune": params.cudnn_tune}
    return [engine.data_gradient(geometry, data, weight, bias[0] if bias else None, call.out, **limits)]


def _backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: ConvolutionParams = call.params
    data, weight = inputs[:2]
    (grad,) = out_grads
    geometry = solve_convolution(params.operator, params.window, data.shape)
    limits: dict[str, Any] = {"workspace": workspace_bytes(params.workspace), "tune": params.cudnn_tune}
    wanted = (*call.wanted, False)
    return [
        engine.forward(geometry, grad, weight, **limits) if wanted[0] else None,
        engine.weight_gradient(geometry, grad, data, **limits) if wanted[1] else None,
        engine.bias_gradient(geometry, grad) if wanted[2] else None,
    ][: len(inputs)]


register(
    Operator(
        name="Convolution",
        params=ConvolutionParams,
        inputs=window_inputs,
        shape=_shape,
        dtype=window_dtypes,
        forward=_forward,
        backward=_backward,
        doc="""Convolution (cross-correlation) of `data` with `weight` over 1, 2 or 3 spatial axes.

Along each axis `out = (size + 2 * pad - dilate * (kernel - 1) - 1) // stride + 1`; data has shape
(N, C, spatial...), weight (num_filter, C / num_group, kernel...).""",
    ),
    all_inputs=("data", "weight", "bias"),
)
