"""OpenVINO: a model of one (Group)Convolution(BackpropData); inputs and outputs are shared, not copied."""

from __future__ import annotations

import numpy as np
import openvino
from openvino import opset13

from peers.layer import Array, Layer, Way

NAME = "OpenVINO"


def _options(layer: Layer) -> dict[str, list[int]]:
    pads = list(layer.per_axis("pad_lo"))
    return {
        "strides": list(layer.per_axis("stride")),
        "pads_begin": pads,
        "pads_end": pads,
        "dilations": list(layer.per_axis("dilation")),
    }


class Peer:
    version = openvino.__version__.partition("-")[0]

    def __init__(self, threads: int) -> None:
        self._core = openvino.Core()
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }

    def forward(self, layer: Layer) -> dict[str, Way]:
        g = layer.geometry
        x = opset13.parameter(g.small_shape, np.float32)
        make = opset13.convolution_backprop_data if g.groups == 1 else opset13.group_convolution_backprop_data
        weight = opset13.constant(layer.w if g.groups == 1 else layer.grouped())
        y = make(x, weight, **_options(layer), output_padding=list(layer.per_axis("adj")))
        return self._compiled(x, y, layer.x)

    def convolution(self, layer: Layer) -> dict[str, Way]:
        g = layer.geometry
        x = opset13.parameter(g.large_shape, np.float32)
        make = opset13.convolution if g.groups == 1 else opset13.group_convolution
        weight = opset13.constant(layer.w if g.groups == 1 else layer.grouped())
        return self._compiled(x, make(x, weight, **_options(layer)), layer.dy)

    def _compiled(self, x: openvino.Node, y: openvino.Node, data: Array) -> dict[str, Way]:
        compiled = self._core.compile_model(openvino.Model([y], [x]), "CPU", self._options)
        request = compiled.create_infer_request()
        return {
            "": Way(
                lambda: request.infer([data], share_inputs=True, share_outputs=True),
                lambda results: (np.array(results[0]),),
            )
        }
