"""Transposed convolution done right: MXNet's Deconvolution for today's Python, fast on every CPU.

`import tconv as mx` offers MXNet's names; `tconv.deconvolution` is the operator on any array. MXNet's faces are
imported when they are first used.
"""

from importlib import import_module
from typing import Any

from tconv.api import (
    Explanation,
    Gradients,
    Prepared,
    convolution,
    deconvolution,
    deconvolution_gradients,
    explain,
    prepare,
)
from tconv.errors import MXNetError

__version__ = "0.1.0"

__all__ = [
    "Explanation",
    "Gradients",
    "MXNetError",
    "Prepared",
    "convolution",
    "deconvolution",
    "deconvolution_gradients",
    "explain",
    "prepare",
]

_ON_DEMAND = {
    "Stream": "stream:Stream",
    "AttrScope": "attribute:AttrScope",
    "Context": "context:Context",
    "attribute": "attribute",
    "autograd": "autograd",
    "callback": "callback",
    "context": "context",
    "cpu": "context:cpu",
    "cpu_pinned": "context:cpu_pinned",
    "current_context": "context:current_context",
    "dialects": "dialects",
    "from_dlpack": "ndarray:from_dlpack",
    "gluon": "gluon",
    "gpu": "context:gpu",
    "init": "initializer",
    "initializer": "initializer",
    "io": "io",
    "lr_scheduler": "lr_scheduler",
    "metric": "metric",
    "mod": "module",
    "model": "model",
    "module": "module",
    "name": "name",
    "nd": "ndarray",
    "ndarray": "ndarray",
    "num_gpus": "context:num_gpus",
    "onnx": "onnx",
    "optimizer": "optimizer",
    "random": "random",
    "registry": "registry",
    "sizes": "sizes",
    "sym": "symbol",
    "symbol": "symbol",
    "torch": "torch",
}
"""Name, and the module it is or `module:member` it lives at."""


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module 'tconv' has no attribute {name!r}")
    module, _, member = _ON_DEMAND[name].partition(":")
    value: Any = import_module(f"tconv.{module}")
    if member:
        value = getattr(value, member)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_DEMAND})
