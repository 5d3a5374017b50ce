"""Files of ONNX models, written by the package `onnx`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tconv import __version__
from tconv.errors import FormatError, FrameworkError
from tconv.onnx.graph import Graph, OnnxNode, OnnxValue

OPSET = 17
IR_VERSION = 8
"""The version of the format that came with the operator set."""


def package() -> Any:
    """Return the package `onnx`.

    Raises
    ------
    FrameworkError
        If it is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise FrameworkError("onnx: the package is missing; install it by: pip install 'tconv[onnx]'") from None
    return onnx


def to_proto(graph: Graph) -> Any:
    """Return a graph as `onnx.ModelProto`, checked by `onnx.checker`.

    Raises
    ------
    FrameworkError
        If `onnx` is not installed.
    """
    onnx = package()
    made = onnx.helper.make_graph(
        [_node(onnx, node) for node in graph.nodes],
        "tconv",
        [_value(onnx, value) for value in graph.inputs],
        [_value(onnx, value) for value in graph.outputs],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in graph.constants.items()],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(
        made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="tconv", producer_version=__version__
    )


def write(graph: Graph, path: str) -> None:
    """Write a graph to a file.

    Raises
    ------
    FrameworkError
        If `onnx` is not installed.
    FormatError
        If the model is too large for one file, or does not pass `onnx.checker`.
    """
    onnx = package()
    model = to_proto(graph)
    if model.ByteSize() >= 2**31:
        raise FormatError(f"onnx: got a model of {model.ByteSize()} bytes; a file of ONNX holds 2 GB at most")
    onnx.checker.check_model(model)
    onnx.save_model(model, path)


def _node(onnx: Any, node: OnnxNode) -> Any:
    attributes = {}
    for key, value in node.attributes.items():
        if isinstance(value, np.dtype):
            attributes[key] = onnx.helper.np_dtype_to_tensor_dtype(value)
        elif isinstance(value, np.ndarray):
            attributes[key] = onnx.numpy_helper.from_array(value)
        else:
            attributes[key] = value
    return onnx.helper.make_node(node.op, node.inputs, node.outputs, name=node.outputs[0], **attributes)


def _value(onnx: Any, value: OnnxValue) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_value_info(value.name, kind, value.shape)
