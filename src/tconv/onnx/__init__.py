"""Leaving for ONNX: `mx.onnx.export_model` writes a symbol and its parameters as an ONNX model.

The models need operator set 17. The package `onnx` (extra `onnx`) is imported when a model is written.
"""

from tconv.onnx.export import Dims, export_model, to_model

__all__ = ["Dims", "export_model", "to_model"]
