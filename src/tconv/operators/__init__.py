"""The operators: one declaration each. Importing this package enters them all in the registry."""

from tconv.operators import (
    broadcast,
    convolution,
    deconvolution,
    elementwise,
    joining,
    neural,
    reduce,
    slicing,
    tensor,
)

__all__ = [
    "broadcast",
    "convolution",
    "deconvolution",
    "elementwise",
    "joining",
    "neural",
    "reduce",
    "slicing",
    "tensor",
]
