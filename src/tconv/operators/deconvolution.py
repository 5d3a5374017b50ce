"""Deconvolution: transposed convolution as MXNet defines it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tconv import engine
from tconv.dtypes import COMPUTABLE_IN_WORDS, is_computable
from tconv.errors import DTypeError
from tconv.geometry import infer_deconvolution, solve_deconvolution
from tconv.operators.registry import Array, Call, DTypes, Operator, PartialShapes, register
from tconv.params import DeconvolutionParams, WindowParams, workspace_bytes


def window_inputs(params: DeconvolutionParams) -> tuple[str, ...]:
    """Return the inputs of an operator with a window: data, weight, and bias unless it has none."""
    return ("data", "weight") if params.no_bias else ("data", "weight", "bias")


def window_dtypes(params: WindowParams, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
    """Infer from data to the rest or from the output back; a weight alone tells nothing, as in MXNet."""
    known = inputs[0] if inputs[0] is not None else outputs[0]
    return [known] * len(inputs), [known]


def check_computable(operator: str, data: Array) -> None:
    """Raise DTypeError unless convolutions compute in the type of `data`."""
    if not is_computable(data.dtype):
        raise DTypeError(f"{operator}: data: got {data.dtype}; need {COMPUTABLE_IN_WORDS}")


def _shape(
    params: DeconvolutionParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    weight, out = infer_deconvolution(params.operator, params.window, inputs[0])
    # As in MXNet, nothing is told before the rank of the data is known.
    bias = None if inputs[0] is None else (params.num_filter,)
    return [inputs[0], weight, bias][: len(inputs)], [out]


def _forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: DeconvolutionParams = call.params
    data, weight, *bias = inputs
    check_computable(params.operator, data)
    geometry = solve_deconvolution(params.operator, params.window, data.shape)
    limits: dict[str, Any] = {"workspace": workspace_bytes(params.workspace), "tune": params.cudnn_tune}
    return [engine.forward(geometry, data, weight, bias[0] if bias else None, call.out, **limits)]


def _backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: DeconvolutionParams = call.params
    data, weight = inputs[:2]
    (grad,) = out_grads
    geometry = solve_deconvolution(params.operator, params.window, data.shape)
    limits: dict[str, Any] = {"workspace": workspace_bytes(params.workspace), "tune": params.cudnn_tune}
    wanted = (*call.wanted, False)
    return [
        engine.data_gradient(geometry, grad, weight, **limits) if wanted[0] else None,
        engine.weight_gradient(geometry, data, grad, **limits) if wanted[1] else None,
        engine.bias_gradient(geometry, grad) if wanted[2] else None,
    ][: len(inputs)]


register(
    Operator(
        name="Deconvolution",
        params=DeconvolutionParams,
        inputs=window_inputs,
        shape=_shape,
        dtype=window_dtypes,
        forward=_forward,
        backward=_backward,
        doc="""Transposed convolution of `data` with `weight` over 1, 2 or 3 spatial axes.

Along each axis `out = (size - 1) * stride + (kernel - 1) * dilate + 1 - 2 * pad + adj`, and

    out[n, f, y] = bias[f] + sum over c, i, k with y = i * stride + k * dilate - pad of
                   data[n, c, i] * weight[c, f', k]

for the channels c of the group of filter f, f' being the filter's number within its group.""",
    ),
    all_inputs=("data", "weight", "bias"),
)
