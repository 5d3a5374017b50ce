"""MXNet's gluon: parameters, blocks, layers (`mx.gluon`)."""

from tconv.gluon import arrays as utils
from tconv.gluon import contrib, nn
from tconv.gluon.block import Block, HybridBlock, SymbolBlock
from tconv.gluon.parameter import (
    Constant,
    DeferredInitializationError,
    Parameter,
    ParameterDict,
    tensor_types,
)

__all__ = [
    "Block",
    "Constant",
    "DeferredInitializationError",
    "HybridBlock",
    "Parameter",
    "ParameterDict",
    "SymbolBlock",
    "contrib",
    "nn",
    "tensor_types",
    "utils",
]
