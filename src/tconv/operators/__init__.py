"""The operators: one declaration each. Importing this package enters them all in the registry."""

from tconv.operators import convolution, deconvolution

__all__ = ["convolution", "deconvolution"]
