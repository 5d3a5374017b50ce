"""Making arrays: from values, from memory, and out of other arrays."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from tconv.context import Context, usable
from tconv.dtypes import DType
from tconv.engine import allocate
from tconv.errors import DTypeError, FrameworkError, MXNetError, OutOfMemoryError, ParameterError, ShapeError
from tconv.frameworks import to_numpy
from tconv.geometry import Shape
from tconv.ndarray.ndarray import NDArray, call, check_dense, supported, whole_sizes, wrap
from tconv.operators.registry import Array

_FLOAT32 = np.dtype(np.float32)
_CPU_DEVICE = (1, 0)

ShapeLike = int | Sequence[int]
ContextLike = Context | str | None


def _dtype(where: str, dtype: Any) -> DType:
    return _FLOAT32 if dtype is None else supported(dtype, f"{where}: dtype")


def as_shape(where: str, shape: Any) -> Shape:
    """Return a shape given as an int or a sequence of ints.

    Raises
    ------
    DTypeError, ShapeError
        If it is neither, or a size is negative.
    """
    if isinstance(shape, (tuple, list)):
        return whole_sizes(where, shape)
    return whole_sizes(where, (shape,))


def array(source_array: Any, ctx: ContextLike = None, dtype: Any = None) -> NDArray:
    """Make an array of a copy of any values.

    Parameters
    ----------
    source_array : array_like
        Numbers, nested lists, NumPy arrays, NDArrays.
    ctx : Context, optional
        Where to make it; the current context by default.
    dtype : dtype, type or str, optional
        Element type; that of an NDArray, and float32 for everything else, by default.

    Raises
    ------
    DTypeError
        If the values are no numbers, or lists of several lengths.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.nd.array([[1, 2], [3, 4]])
    <BLANKLINE>
    [[1. 2.]
     [3. 4.]]
    <NDArray 2x2 @cpu(0)>
    """
    place = usable(ctx)
    if isinstance(source_array, NDArray):
        copied = source_array.astype(source_array._data.dtype if dtype is None else dtype)
        copied._ctx = place
        return copied
    wanted = _dtype("array", dtype)
    if type(source_array).__module__.startswith("scipy.sparse"):
        raise MXNetError("array: source_array: got a sparse matrix; there are no sparse arrays here")
    try:
        values = np.asarray(source_array)
        if values.dtype.kind in "cMm":
            raise TypeError(f"elements of type {values.dtype}")
        with np.errstate(all="ignore"):
            return wrap(np.array(values, dtype=wanted, order="C"), place)
    except (TypeError, ValueError) as error:
        kind = type(source_array).__name__
        raise DTypeError(f"array: source_array: got {kind}; need numbers ({error})") from None
    except MemoryError as error:
        raise OutOfMemoryError(f"array: {error}") from None


def _made(where: str, shape: Any, ctx: ContextLike, dtype: Any, out: NDArray | None = None) -> NDArray:
    sizes = as_shape(where, shape)
    if out is None:
        return wrap(allocate(sizes, _dtype(where, dtype)), usable(ctx))
    if not isinstance(out, NDArray):
        raise DTypeError(f"{where}: out: got {type(out).__name__}; need an NDArray")
    if out.shape != sizes:
        raise ShapeError(f"{where}: out: got shape {out.shape}; need {sizes}")
    if dtype is not None and out._data.dtype != _dtype(where, dtype):
        raise DTypeError(f"{where}: out: got {out._data.dtype}; need {_dtype(where, dtype)}")
    return out


def empty(shape: ShapeLike, ctx: ContextLike = None, dtype: Any = None, stype: str | None = None) -> NDArray:
    """Make an array of undefined content."""
    check_dense(stype, "empty")
    return _made("empty", shape, ctx, dtype)


def full(
    shape: ShapeLike, val: Any, ctx: ContextLike = None, dtype: Any = None, out: NDArray | None = None
) -> NDArray:
    """Make an array full of `val`, or fill `out` with it."""
    filled = _made("full", shape, ctx, dtype, out)
    filled[:] = val
    return filled


def zeros(
    shape: ShapeLike,
    ctx: ContextLike = None,
    dtype: Any = None,
    stype: str | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """Make an array of zeros, or fill `out` with them.

    Parameters
    ----------
    shape : int or tuple of int
        Sizes of the axes.
    ctx : Context, optional
        Where to make it; the current context by default.
    dtype : dtype, type or str, optional
        Element type; float32 by default.
    stype : str, optional
        How to store it: `default`.
    out : NDArray, optional
        Array to fill instead of a new one.
    """
    check_dense(stype, "zeros")
    filled = _made("zeros", shape, ctx, dtype, out)
    filled[:] = 0
    return filled


def ones(shape: ShapeLike, ctx: ContextLike = None, dtype: Any = None, out: NDArray | None = None) -> NDArray:
    """Make an array of ones, or fill `out` with them."""
    filled = _made("ones", shape, ctx, dtype, out)
    filled[:] = 1
    return filled


def _placed(made: NDArray, ctx: ContextLike) -> NDArray:
    made._ctx = usable(ctx)
    return made


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1.0,
    repeat: int = 1,
    infer_range: bool | None = None,
    ctx: ContextLike = None,
    dtype: Any = None,
) -> NDArray:
    """Make an array of evenly spaced numbers.

    Parameters
    ----------
    start, stop : float
        First number, and the bound that is not reached; with one of them alone, from 0 to that.
    step : float
        Distance between numbers.
    repeat : int
        How often each number occurs.
    infer_range : bool, optional
        Deprecated, of no effect.
    ctx : Context, optional
        Where to make it.
    dtype : dtype, type or str, optional
        Element type; float32 by default.

    Raises
    ------
    ParameterError
        If there is no number in that range, `repeat` is below 1, or a number is not finite.
    """
    if infer_range is not None:
        warnings.warn("arange: infer_range is deprecated and has no effect", DeprecationWarning, stacklevel=2)
    begin, end = (0, start) if stop is None else (start, stop)
    if not all(isfinite(number) for number in (begin, end, step)):
        raise ParameterError(f"arange: start: got {begin} to {end} by {step}; need finite numbers")
    name = _dtype("arange", dtype).name
    return _placed(call("_arange", start=begin, stop=end, step=step, repeat=repeat, dtype=name), ctx)


def linspace(
    start: float, stop: float, num: int, endpoint: bool = True, ctx: ContextLike = None, dtype: Any = None
) -> NDArray:
    """Make an array of `num` evenly spaced numbers from `start` to `stop`, which `endpoint` includes."""
    wanted = _dtype("linspace", dtype)
    (count,) = as_shape("linspace", num)
    return wrap(np.linspace(start, stop, count, endpoint=endpoint).astype(wanted), usable(ctx))


def eye(N: int, M: int = 0, k: int = 0, ctx: ContextLike = None, dtype: Any = None) -> NDArray:  # noqa: N803
    """Make an array of N rows and M columns, N by default, with ones on the k-th diagonal."""
    return _placed(call("_eye", N=N, M=M, k=k, dtype=_dtype("eye", dtype).name), ctx)


def concatenate(arrays: Sequence[NDArray], axis: int = 0, always_copy: bool = True) -> NDArray:
    """Join arrays along an axis.

    Parameters
    ----------
    arrays : list of NDArray
        Arrays of one type that differ in size on that axis only.
    axis : int
        The axis.
    always_copy : bool
        Whether a single array is copied.
    """
    if not isinstance(arrays, (list, tuple)) or not arrays or not isinstance(arrays[0], NDArray):
        raise DTypeError("concatenate: arrays: got no list of NDArrays; need one array at least")
    if len(arrays) == 1 and not always_copy:
        return arrays[0]
    joined: NDArray = call("Concat", *arrays, dim=axis, num_args=len(arrays))
    return joined


def moveaxis(tensor: NDArray, source: int | Sequence[int], destination: int | Sequence[int]) -> NDArray:
    """Return the array with axes moved to other places, the rest keeping their order."""
    start, end = _axes("source", source, tensor.ndim), _axes("destination", destination, tensor.ndim)
    if len(start) != len(end):
        raise ParameterError(f"moveaxis: destination: got {end}; need {len(start)} axes, as source has")
    order = [axis for axis in range(tensor.ndim) if axis not in start]
    for place, axis in sorted(zip(end, start)):
        order.insert(place, axis)
    moved: NDArray = call("transpose", tensor, axes=tuple(order))
    return moved


def _axes(name: str, axes: int | Sequence[int], rank: int) -> Shape:
    given = whole_sizes("moveaxis", axes if isinstance(axes, (tuple, list)) else (axes,), negative=True)
    counted = tuple([axis % rank for axis in given if -rank <= axis < rank])
    if len(set(counted)) != len(given):
        raise ShapeError(f"moveaxis: {name}: got {axes}; need different axes of {rank}")
    return counted


def split_v2(
    ary: NDArray, indices_or_sections: int | Sequence[int], axis: int = 0, squeeze_axis: bool = False
) -> NDArray | list[NDArray]:
    """Split an array along an axis.

    Parameters
    ----------
    ary : NDArray
        The array.
    indices_or_sections : int or tuple of int
        How many equal parts, or the places where parts after the first begin.
    axis : int
        The axis.
    squeeze_axis : bool
        Whether to drop the axis, all parts having size 1.
    """
    if not -ary.ndim <= axis < ary.ndim:
        raise ShapeError(f"split_v2: axis: got {axis} for an array of {ary.ndim} dimensions")
    size = ary.shape[axis]
    if isinstance(indices_or_sections, (int, np.integer)):
        count = int(indices_or_sections)
        if count < 1 or size % count:
            raise ParameterError(f"split_v2: indices_or_sections: got {count}; need a divisor of the size {size}")
        bounds = [*range(0, size, size // count or 1)][:count] if size else [0] * count
    else:
        bounds = [0, *whole_sizes("split_v2", tuple(indices_or_sections), negative=True)]
    parts = [
        call("slice_axis", ary, axis=axis, begin=begin, end=end) for begin, end in zip(bounds, [*bounds[1:], None])
    ]
    if squeeze_axis:
        parts = [part.squeeze(axis) for part in parts]
    return parts[0] if len(parts) == 1 else parts


def onehot_encode(indices: NDArray, out: NDArray) -> NDArray:
    """Write into each row of `out` a 1 at the place its index names, and zeros elsewhere."""
    if out.ndim != 2 or indices.shape != out.shape[:1]:
        raise ShapeError(f"onehot_encode: out: got shape {out.shape}; need a row for each of {indices.shape}")
    out[:] = indices._data[:, None].astype(np.int64) == np.arange(out.shape[1])
    return out


def waitall() -> None:
    """Return at once, as an array is computed by the time it is returned."""


def from_numpy(ndarray: Array, zero_copy: bool = True) -> NDArray:
    """Make an array over the memory of a NumPy array, or over a copy.

    Raises
    ------
    ParameterError
        If the memory is to be shared and not in C order.
    """
    if not isinstance(ndarray, np.ndarray):
        raise DTypeError(f"from_numpy: ndarray: got {type(ndarray).__name__}; need a NumPy array")
    if not zero_copy:
        return array(ndarray, dtype=ndarray.dtype)
    if not ndarray.flags.c_contiguous:
        raise ParameterError("from_numpy: ndarray: got an array that is not in C order; need zero_copy=False")
    return NDArray(ndarray)


class _Capsule:
    """A bare DLPack capsule as an object that NumPy reads."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU_DEVICE


def from_dlpack(dlpack: Any) -> NDArray:
    """Make an array over the memory of another library's array.

    Parameters
    ----------
    dlpack : object
        A DLPack capsule, which is used up, or an array with `__dlpack__` on the CPU.

    Raises
    ------
    FrameworkError
        If it is neither.

    Examples
    --------
    >>> import tconv as mx
    >>> x = mx.nd.zeros((2,))
    >>> mx.nd.from_dlpack(x.to_dlpack_for_write())[:] = 5
    >>> x
    <BLANKLINE>
    [5. 5.]
    <NDArray 2 @cpu(0)>
    """
    if type(dlpack).__name__ != "PyCapsule":
        return NDArray(to_numpy("from_dlpack: dlpack", dlpack))
    try:
        return NDArray(_writable(np.from_dlpack(_Capsule(dlpack))))
    except (BufferError, RuntimeError, ValueError) as error:
        raise FrameworkError(f"from_dlpack: dlpack: got a capsule that NumPy cannot read: {error}") from error


def _writable(array: Array) -> Array:
    """Return an array over the same memory; NumPy takes what a bare capsule holds for read-only, MXNet does not."""
    if array.flags.writeable or not array.flags.c_contiguous or not array.size:
        return array
    memory: Any = (ctypes.c_byte * array.nbytes).from_address(array.ctypes.data)
    # Whatever refers to the memory keeps the array alive, and so the capsule's owner.
    memory._owner = array
    shared: Array = np.frombuffer(memory, array.dtype).reshape(array.shape)
    return shared


def to_dlpack_for_read(data: NDArray) -> Any:
    """Return a DLPack capsule of the memory of an array."""
    return data.to_dlpack_for_read()


def to_dlpack_for_write(data: NDArray) -> Any:
    """Return a DLPack capsule of the memory of an array that may be written into."""
    return data.to_dlpack_for_write()
