"""LiteRT with XNNPACK: a model of one TRANSPOSE_CONV, cropped by a SLICE where it cannot say the pads itself.

Channel-last, without groups, dilation or a third axis; one axis is computed as two. Arrays are views of its memory.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from peers.layer import Layer, RefusalError, Way, channels_first, channels_last

NAME = "LiteRT"


class _Model:
    """A flat model under construction: tensors, then operators over their numbers."""

    def __init__(self) -> None:
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.buffers = [schema.BufferT()]
        self._model.operatorCodes = []
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []

    def tensor(self, shape: Any, data: Any = None) -> int:
        tensor = schema.TensorT()
        tensor.shape = list(shape)
        tensor.type = schema.TensorType.FLOAT32
        if data is not None:
            tensor.type = schema.TensorType.FLOAT32 if data.dtype == np.float32 else schema.TensorType.INT32
            tensor.buffer = len(self._model.buffers)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self._model.buffers.append(buffer)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def operator(self, code: int, kind: int, options: Any, inputs: list[int], output: int) -> None:
        row = schema.OperatorCodeT()
        row.builtinCode = row.deprecatedBuiltinCode = code
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self._model.operatorCodes)
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        operator.inputs, operator.outputs = inputs, [output]
        self._model.operatorCodes.append(row)
        self._graph.operators.append(operator)

    def bytes(self, source: int, result: int) -> bytes:
        self._graph.inputs, self._graph.outputs = [source], [result]
        self._model.subgraphs = [self._graph]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _model(layer: Layer) -> bytes:
    g = layer.geometry
    lead = (1,) * (2 - layer.rank)
    sizes, outs, kernel, stride = (lead + layer.per_axis(f) for f in ("size", "out", "kernel", "stride"))
    pads = (0,) * len(lead) + layer.per_axis("pad_lo")
    full = tuple((size - 1) * s + k for size, s, k in zip(sizes, stride, kernel))
    # Its own rule cuts evenly what the output lacks, the smaller part at the low end.
    same = all(-(-out // s) == size for out, s, size in zip(outs, stride, sizes)) and all(
        pad == max(0, whole - out) // 2 for pad, whole, out in zip(pads, full, outs)
    )
    fits = same or (not any(pads) and outs == full)
    wide = outs if fits else tuple(max(whole, pad + out) for whole, pad, out in zip(full, pads, outs))
    model = _Model()
    x = model.tensor((g.batch, *sizes, g.channels))
    shape = np.array((g.batch, *wide, g.filters), np.int32)
    w = np.moveaxis(layer.w.reshape(g.channels, g.filters, *kernel), 0, -1)
    options = schema.TransposeConvOptionsT()
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    options.strideH, options.strideW = stride
    y = model.tensor(shape)
    model.operator(
        schema.BuiltinOperator.TRANSPOSE_CONV,
        schema.BuiltinOptions.TransposeConvOptions,
        options,
        [model.tensor((4,), shape), model.tensor(w.shape, w), x],
        y,
    )
    if fits:
        return model.bytes(x, y)
    begin, size = np.array((0, *pads, 0), np.int32), np.array((g.batch, *outs, g.filters), np.int32)
    cut = model.tensor(size)
    model.operator(
        schema.BuiltinOperator.SLICE,
        schema.BuiltinOptions.SliceOptions,
        schema.SliceOptionsT(),
        [y, model.tensor((4,), begin), model.tensor((4,), size)],
        cut,
    )
    return model.bytes(x, cut)


class Peer:
    version = importlib.metadata.version("ai-edge-litert")

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def forward(self, layer: Layer) -> dict[str, Way]:
        g = layer.geometry
        if layer.rank > 2 or g.groups > 1 or any(d > 1 for d in layer.per_axis("dilation")):
            raise RefusalError("no third axis, groups or dilation")
        interpreter = Interpreter(model_content=_model(layer), num_threads=self._threads)
        interpreter.allocate_tensors()
        source, result = (
            rows[0]["index"] for rows in (interpreter.get_input_details(), interpreter.get_output_details())
        )
        x = channels_last(layer.x)
        interpreter.set_tensor(source, x if layer.rank == 2 else x[:, None])

        def read(_: None) -> tuple[Any]:
            y = interpreter.get_tensor(result)
            return (channels_first(y if layer.rank == 2 else y[:, 0]),)

        return {"": Way(interpreter.invoke, read)}
