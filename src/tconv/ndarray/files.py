"""Arrays in MXNet's `.params` files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from tconv.context import CPU
from tconv.errors import DTypeError
from tconv.formats import params_file
from tconv.ndarray.ndarray import NDArray, wrap
from tconv.operators.registry import Array

Arrays = NDArray | Sequence[NDArray] | Mapping[str, NDArray]


def save(fname: str | os.PathLike[str], data: Arrays) -> None:
    """Save arrays to a file, as MXNet 1.9 does.

    Parameters
    ----------
    fname : str or os.PathLike
        Which file.
    data : NDArray, list of NDArray, or dict of str to NDArray
        The arrays; one alone is loaded as a list.

    Raises
    ------
    DTypeError
        If `data` is something else.
    MXNetError
        If the file cannot be written.
    """
    if isinstance(data, NDArray):
        data = [data]
    if isinstance(data, Mapping):
        names, arrays = list(data.keys()), list(data.values())
    elif isinstance(data, list):
        names, arrays = [], data
    else:
        raise DTypeError(f"save: data: got {type(data).__name__}; need an NDArray, or a list or dict of them")
    for value in (*names, *arrays):
        if not isinstance(value, (str, NDArray)):
            raise DTypeError(f"save: data: got {type(value).__name__} in it; need NDArrays, their names being text")
    params_file.save(fname, [value._data for value in arrays], names)


def load(fname: str | os.PathLike[str]) -> list[NDArray] | dict[str, NDArray]:
    """Load what `save`, or any version of MXNet, saved.

    Parameters
    ----------
    fname : str or os.PathLike
        Which file.

    Returns
    -------
    list or dict
        A dict if the arrays have names.

    Raises
    ------
    FormatError
        If the file is missing or damaged.

    Examples
    --------
    >>> import os, tempfile
    >>> import tconv as mx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mx.nd.save(os.path.join(folder, "w.params"), {"w": mx.nd.ones((2,))})
    ...     mx.nd.load(os.path.join(folder, "w.params"))["w"]
    <BLANKLINE>
    [1. 1.]
    <NDArray 2 @cpu(0)>
    """
    if not isinstance(fname, (str, os.PathLike)):
        raise DTypeError(f"load: fname: got {type(fname).__name__}; need the name of a file")
    return _arrays(*params_file.load(fname))


def load_frombuffer(buf: bytes) -> list[NDArray] | dict[str, NDArray]:
    """Load arrays from the content of a file, as `load` does."""
    return _arrays(*params_file.loads(buf))


def _arrays(arrays: Sequence[Array | None], names: Sequence[str]) -> list[NDArray] | dict[str, NDArray]:
    # A record of rank 0 is an array that MXNet never gave memory to.
    loaded = [wrap(np.empty(0, np.float32) if array is None else array, CPU) for array in arrays]
    return dict(zip(names, loaded)) if names else loaded
