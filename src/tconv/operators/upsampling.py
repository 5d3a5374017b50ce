"""Upsampling by a whole factor: nearest neighbour, or bilinear through a deconvolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tconv import engine
from tconv.errors import ShapeError
from tconv.geometry import PartialShape, Window, solve_deconvolution
from tconv.operators.compute import arithmetic, quiet, total
from tconv.operators.deconvolution import check_computable
from tconv.operators.registry import Array, Call, Operator, PartialShapes, merge, register, show
from tconv.params import INT, UINT64, ChoiceText, Params, named, param, workspace_bytes


class UpSamplingParams(Params):
    """Parameters of `UpSampling`."""

    scale: int = param(INT, "The factor.", low=1)
    num_filter: int = param(INT, "Number of channels, where bilinear.", default=0)
    sample_type: str = param(ChoiceText(("bilinear", "nearest")), "How to fill in.")
    multi_input_mode: str = param(
        ChoiceText(("concat", "sum")), "What becomes of several inputs, where nearest.", default="concat"
    )
    num_args: int = param(INT, "Number of inputs; where bilinear, there are data and weight.", low=1)
    workspace: int = param(UINT64, "Ceiling in MB of temporary memory, where bilinear.", default=512)

    def window(self, channels: int) -> Window:
        """Return the window of the deconvolution that fills in bilinearly."""
        kernel = 2 * self.scale - self.scale % 2
        pad = -(-(self.scale - 1) // 2)
        return Window(
            kernel=(kernel,) * 2,
            stride=(self.scale,) * 2,
            dilation=(1, 1),
            pad=((pad, pad),) * 2,
            adj=(0, 0),
            filters=channels,
            groups=channels,
        )


def _inputs(params: UpSamplingParams) -> tuple[str, ...]:
    if params.sample_type == "bilinear":
        return ("data", "weight")
    return tuple(f"arg{index}" for index in range(params.num_args))


def _shape(
    params: UpSamplingParams, inputs: PartialShapes, outputs: PartialShapes
) -> tuple[PartialShapes, PartialShapes]:
    data, *rest = inputs
    if data is None:
        return inputs, outputs
    if any(shape is not None and len(shape) != 4 for shape in inputs):
        raise ShapeError(f"UpSampling: data: got shape {show(data)}; need 4 dimensions everywhere")
    large = tuple(None if size is None else size * params.scale for size in data[2:])
    if params.sample_type == "bilinear":
        weight: PartialShape = (data[1], 1, *(2 * params.scale - params.scale % 2,) * 2)
        return [data, weight], [(*data[:2], *large)]
    channels: list[int | None] = [data[1]]
    for shape in rest:
        channels.append(None if shape is None else shape[1])
        if shape is None:
            continue
        merge("UpSampling: inputs", data[:1], shape[:1])
        if any(a is not None and b is not None and a % b for a, b in zip(large, shape[2:])):
            raise ShapeError(f"UpSampling: data: got shape {show(shape)}; it does not divide {show(large)}")
    summed = sum(size for size in channels if size is not None) if None not in channels else None
    if params.multi_input_mode == "sum":
        summed = channels[0]
        if any(size is not None and size != summed for size in channels):
            raise ShapeError(f"UpSampling: data: got {channels} channels; need equally many for a sum")
    return inputs, [(data[0], summed, *large)]


def _repeated(x: Array, height: int, width: int) -> Array:
    return x.repeat(height // x.shape[2], axis=2).repeat(width // x.shape[3], axis=3)


def _gathered(grad: Array, like: Array) -> Array:
    """Undo `_repeated`: sum the block of every element."""
    batch, channels, height, width = like.shape
    blocks = grad.reshape(batch, channels, height, grad.shape[2] // height, width, grad.shape[3] // width)
    return total(blocks, (3, 5))


@quiet
def _upsampling(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    params: UpSamplingParams = call.params
    data = inputs[0]
    if params.sample_type == "bilinear":
        check_computable("UpSampling", data)
        geometry = solve_deconvolution("UpSampling", params.window(data.shape[1]), data.shape)
        workspace = workspace_bytes(params.workspace)
        return [engine.forward(geometry, data, inputs[1], None, call.out, workspace=workspace)]
    height, width = (size * params.scale for size in data.shape[2:])
    large = [_repeated(array, height, width) for array in inputs]
    if len(large) == 1:
        return large
    if params.multi_input_mode == "concat":
        return [np.concatenate(large, axis=1)]
    summed = arithmetic(large[0])
    for array in large[1:]:
        summed = summed + arithmetic(array)
    return [summed.astype(data.dtype, copy=False)]


@quiet
def _upsampling_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    params: UpSamplingParams = call.params
    (grad,) = out_grads
    if params.sample_type == "bilinear":
        data, weight = inputs
        geometry = solve_deconvolution("UpSampling", params.window(data.shape[1]), data.shape)
        workspace = workspace_bytes(params.workspace)
        return [
            engine.data_gradient(geometry, grad, weight, workspace=workspace) if call.wanted[0] else None,
            engine.weight_gradient(geometry, data, grad, workspace=workspace) if call.wanted[1] else None,
        ]
    if params.multi_input_mode == "sum":
        return [_gathered(grad, array) for array in inputs]
    ends = np.cumsum([array.shape[1] for array in inputs])[:-1]
    return [_gathered(part, array) for part, array in zip(np.split(grad, ends, axis=1), inputs)]


register(
    Operator(
        name="UpSampling",
        params=named(UpSamplingParams, "UpSampling"),
        inputs=_inputs,
        count="num_args",
        shape=_shape,
        forward=_upsampling,
        backward=_upsampling_backward,
        initial={"weight": '["bilinear", {}]'},
        doc="""`data` (N, C, H, W) made `scale` times as high and wide.

Nearest repeats every element; several inputs are brought to the size of the first and joined or summed. Bilinear is
a deconvolution by channel with `weight` (C, 1, k, k), k being `2 * scale - scale % 2`.""",
    )
)
