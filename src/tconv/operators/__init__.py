"""The operators: one declaration each. Importing this package enters them all in the registry."""

from tconv.operators import (
    broadcast,
    convolution,
    creation,
    deconvolution,
    elementwise,
    indexing,
    joining,
    linear,
    losses,
    neural,
    normalization,
    pooling,
    reduce,
    slicing,
    tensor,
    upsampling,
)

__all__ = [
    "broadcast",
    "convolution",
    "creation",
    "deconvolution",
    "elementwise",
    "indexing",
    "joining",
    "linear",
    "losses",
    "neural",
    "normalization",
    "pooling",
    "reduce",
    "slicing",
    "tensor",
    "upsampling",
]
