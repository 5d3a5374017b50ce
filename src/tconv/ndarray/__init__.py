"""`mx.nd`: arrays, and functions of arrays.

Besides what is listed here there is a function for every operator, `mx.nd.Deconvolution` for one.
"""

from importlib import import_module
from typing import Any

from tconv.ndarray import functions, ndarray, tape
from tconv.ndarray.arithmetic import FUNCTIONS
from tconv.ndarray.creation import (
    arange,
    array,
    concatenate,
    empty,
    eye,
    from_dlpack,
    from_numpy,
    full,
    linspace,
    moveaxis,
    onehot_encode,
    ones,
    split_v2,
    to_dlpack_for_read,
    to_dlpack_for_write,
    waitall,
    zeros,
)
from tconv.ndarray.files import load, load_frombuffer, save
from tconv.ndarray.ndarray import NDArray, invoke
from tconv.operators import registry

op = _internal = functions

__all__ = [
    "NDArray",
    "arange",
    "array",
    "concatenate",
    "empty",
    "eye",
    "from_dlpack",
    "from_numpy",
    "full",
    "invoke",
    "linspace",
    "load",
    "load_frombuffer",
    "moveaxis",
    "ndarray",
    "onehot_encode",
    "ones",
    "op",
    "save",
    "split_v2",
    "tape",
    "to_dlpack_for_read",
    "to_dlpack_for_write",
    "waitall",
    "zeros",
    *FUNCTIONS,
]

globals().update(FUNCTIONS)
true_divide = FUNCTIONS["divide"]

_RANDOM = (
    "normal",
    "random_gamma",
    "random_generalized_negative_binomial",
    "random_negative_binomial",
    "random_normal",
    "random_poisson",
    "random_randint",
    "random_uniform",
    "sample_gamma",
    "sample_multinomial",
    "sample_poisson",
    "sample_uniform",
    "shuffle",
    "uniform",
)
"""Older names of functions of `mx.nd.random`."""


def __getattr__(name: str) -> Any:
    if name == "random":
        value: Any = import_module("tconv.random")
    elif name in _RANDOM:
        value = getattr(import_module("tconv.random"), name.removeprefix("random_").removeprefix("sample_"))
    else:
        value = getattr(functions, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *registry.names(), *_RANDOM, "random"})
