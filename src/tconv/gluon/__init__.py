"""MXNet's gluon: parameters, blocks, layers, losses, training (`mx.gluon`)."""

from tconv.gluon import arrays as utils
from tconv.gluon import contrib, data, loss, nn
from tconv.gluon.block import Block, HybridBlock, SymbolBlock
from tconv.gluon.parameter import (
    Constant,
    DeferredInitializationError,
    Parameter,
    ParameterDict,
    tensor_types,
)
from tconv.gluon.trainer import Trainer

__all__ = [
    "Block",
    "Constant",
    "DeferredInitializationError",
    "HybridBlock",
    "Parameter",
    "ParameterDict",
    "SymbolBlock",
    "Trainer",
    "contrib",
    "data",
    "loss",
    "nn",
    "tensor_types",
    "utils",
]
