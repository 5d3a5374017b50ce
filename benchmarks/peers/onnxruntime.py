"""ONNX Runtime: a model of one ConvTranspose, its weight an initializer."""

from __future__ import annotations

import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from peers.layer import Layer, Way

NAME = "ONNX Runtime"


class Peer:
    version = onnxruntime.__version__

    def __init__(self, threads: int) -> None:
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        # So that its threads do not spin into the turn of the next.
        self._options.add_session_config_entry("session.force_spinning_stop", "1")

    def forward(self, layer: Layer) -> dict[str, Way]:
        g = layer.geometry
        node = helper.make_node(
            "ConvTranspose",
            ["x", "w"],
            ["y"],
            kernel_shape=layer.per_axis("kernel"),
            strides=layer.per_axis("stride"),
            pads=layer.per_axis("pad_lo") * 2,
            output_padding=layer.per_axis("adj"),
            dilations=layer.per_axis("dilation"),
            group=g.groups,
        )
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, g.small_shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, g.large_shape)],
            [numpy_helper.from_array(layer.w, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), self._options, providers=["CPUExecutionProvider"]
        )
        return {"": Way(lambda: session.run(None, {"x": layer.x}), lambda results: (results[0],))}
