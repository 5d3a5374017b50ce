"""MXNet's `.params` files: lists or dictionaries of arrays, record versions 0, 1 and 2."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv import dtypes
from tconv.errors import DTypeError, FormatError, OutOfMemoryError, ParameterError, ShapeError
from tconv.formats.files import Path, reading, replacing

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview

_LIST_MAGIC = 0x112
_V1_MAGIC = 0xF993FAC8
_V2_MAGIC = 0xF993FAC9
_V3_MAGIC = 0xF993FACA

_HEADER = struct.Struct("<QQQ")
_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_PLACE_AND_TYPE = struct.Struct("<iii")

_STORAGE = {1: "row_sparse", 2: "csr"}
_CPU = 1
# NumPy's own limit; a record may claim billions.
_MAX_RANK = 64


def load(path: Path) -> tuple[list[Array | None], list[str]]:
    """Read a `.params` file.

    Parameters
    ----------
    path : str or os.PathLike
        Which file.

    Returns
    -------
    arrays : list of numpy.ndarray or None
        One per record, owning its memory and writable; None for a record of rank 0, which holds no array.
    names : list of str
        As many as arrays, or none for a file that holds a list. A name may occur twice; for MXNet the last wins.

    Raises
    ------
    FormatError
        If the file is missing, damaged or cut, holds sparse arrays, or was saved under NumPy shape semantics.
    OutOfMemoryError
        If an array the file really holds finds no memory.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from tconv.formats import params_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "up-0000.params")
    ...     params_file.save(path, [np.ones((2, 3), np.float32)], ["arg:w"])
    ...     params_file.load(path)
    ([array([[1., 1., 1.],
           [1., 1., 1.]], dtype=float32)], ['arg:w'])
    """
    with reading(path, "params file") as (file, size):
        return _Reader(file, size, f"params file {str(path)!r}").read()


def loads(data: Buffer) -> tuple[list[Array | None], list[str]]:
    """Read the content of a `.params` file from memory, as `load` does.

    Examples
    --------
    >>> import numpy as np
    >>> from tconv.formats import params_file
    >>> params_file.loads(params_file.dump([np.arange(3)]))
    ([array([0, 1, 2])], [])
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise DTypeError(f"params: got {type(data).__name__}; need bytes")
    content = bytes(data)
    return _Reader(io.BytesIO(content), len(content), "params").read()


def save(path: Path, arrays: Sequence[Array | None], names: Sequence[str] = ()) -> None:
    """Write a `.params` file, byte for byte as MXNet 1.9.1 does.

    A file of that name is replaced once the new one is whole; on an error it stays as it was.

    Parameters
    ----------
    path : str or os.PathLike
        Which file.
    arrays : sequence of numpy.ndarray or None
        Of rank 1 or more, with an element type MXNet has a number for; None becomes a record of rank 0.
    names : sequence of str, optional
        One per array, or none to write a list.

    Raises
    ------
    MXNetError
        If the file cannot be written.
    ShapeError, DTypeError, ParameterError
        If an array has rank 0 or a foreign type, or if names and arrays differ in number.
    """
    pieces = _pieces(arrays, names)
    with replacing(path, "params file") as file:
        for piece in pieces:
            file.write(piece)


def dump(arrays: Sequence[Array | None], names: Sequence[str] = ()) -> bytes:
    """Return what `save` would write.

    Examples
    --------
    >>> import numpy as np
    >>> from tconv.formats import params_file
    >>> len(params_file.dump([np.zeros((2, 2), np.float32)], ["w"]))
    97
    """
    return b"".join(_pieces(arrays, names))


class _Reader:
    """A walk through one file that believes no size before comparing it with the bytes that are left."""

    def __init__(self, file: io.BufferedIOBase, size: int, where: str) -> None:
        self.file = file
        self.left = size
        self.where = where

    def read(self) -> tuple[list[Array | None], list[str]]:
        magic, _, count = self.unpack(_HEADER, "header")
        if magic != _LIST_MAGIC:
            raise FormatError(f"{self.where}: header: got {magic:#x}; need {_LIST_MAGIC:#x}")
        self.need_room(count * _U32.size, f"{count} arrays")
        arrays = [self.array(f"array {index}") for index in range(count)]
        (named,) = self.unpack(_U64, "number of names")
        if named not in (0, count):
            raise FormatError(f"{self.where}: names: got {named} for {count} arrays; need one each, or none")
        return arrays, [self.name(f"name {index}") for index in range(named)]

    def array(self, what: str) -> Array | None:
        (magic,) = self.unpack(_U32, what)
        if magic == _V3_MAGIC:
            raise FormatError(
                f"{self.where}: {what}: got a record saved under NumPy shape semantics (version 3); "
                "need version 0, 1 or 2"
            )
        if magic == _V2_MAGIC:
            (storage,) = self.unpack(_I32, what)
            if storage != 0:
                kind = _STORAGE.get(storage, f"number {storage}")
                raise FormatError(f"{self.where}: {what}: storage type: got {kind}; need dense (0)")
        rank, size_format = magic, "I"
        if magic in (_V1_MAGIC, _V2_MAGIC):
            (rank,) = self.unpack(_I32, what)
            size_format = "q"
        if rank == 0:
            return None
        if not 0 < rank <= _MAX_RANK:
            raise FormatError(f"{self.where}: {what}: rank: got {rank}; need 0 to {_MAX_RANK}")
        sizes = self.unpack(struct.Struct(f"<{rank}{size_format}"), what)
        if min(sizes) < 0:
            raise FormatError(f"{self.where}: {what}: shape: got {sizes}; need no negative size")
        _, _, code = self.unpack(_PLACE_AND_TYPE, what)
        try:
            dtype = dtypes.from_code(code)
        except DTypeError as error:
            raise FormatError(f"{self.where}: {what}: {error}") from None
        return self.elements(sizes, dtype, what)

    def elements(self, sizes: tuple[int, ...], dtype: dtypes.DType, what: str) -> Array:
        size_bytes = math.prod(sizes) * dtype.itemsize
        self.need_room(size_bytes, f"{what} of shape {sizes} and type {dtype.name}")
        try:
            stored: Array = np.empty(sizes, dtype.newbyteorder("<"))
        except MemoryError:
            raise OutOfMemoryError(f"{self.where}: {what}: got no memory; need {size_bytes} bytes") from None
        except ValueError as error:
            raise FormatError(
                f"{self.where}: {what}: shape: got {sizes}; need one NumPy can hold ({error})"
            ) from None
        raw = stored.reshape(-1).view(np.uint8)
        if size_bytes:
            self.left -= size_bytes
            if self.file.readinto(raw.data) != size_bytes:
                raise self.cut(what)
        if dtype == np.bool_:
            # NumPy computes wrongly with a truth value that is neither 0 nor 1.
            np.minimum(raw, 1, out=raw)
        return stored.astype(dtype, copy=False)

    def name(self, what: str) -> str:
        (length,) = self.unpack(_U64, what)
        self.need_room(length, f"{what} of {length} bytes")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.where}: {what}: got {error.object[:40]!r}; need UTF-8") from None

    def unpack(self, form: struct.Struct, what: str) -> tuple[int, ...]:
        self.need_room(form.size, what)
        return form.unpack(self.take(form.size, what))

    def take(self, length: int, what: str) -> bytes:
        self.left -= length
        taken = self.file.read(length)
        if len(taken) != length:
            raise self.cut(what)
        return taken

    def need_room(self, length: int, what: str) -> None:
        if length > self.left:
            raise FormatError(f"{self.where}: {what}: got {self.left} bytes before the end; need {length}")

    def cut(self, what: str) -> FormatError:
        return FormatError(f"{self.where}: {what}: got a file that is being cut; need one that stays")


def _pieces(arrays: Sequence[Array | None], names: Sequence[str]) -> list[bytes | memoryview]:
    if len(names) not in (0, len(arrays)):
        raise ParameterError(f"params: names: got {len(names)} for {len(arrays)} arrays; need one each, or none")
    pieces: list[bytes | memoryview] = [_HEADER.pack(_LIST_MAGIC, 0, len(arrays))]
    for index, array in enumerate(arrays):
        pieces += _record(array, f"params: array {names[index]!r}" if names else f"params: array {index}")
    pieces.append(_U64.pack(len(names)))
    for name in names:
        pieces += _name(name)
    return pieces


def _record(array: Array | None, where: str) -> Iterator[bytes | memoryview]:
    yield _U32.pack(_V2_MAGIC) + _I32.pack(0)
    if array is None:
        yield _I32.pack(0)
        return
    if not isinstance(array, np.ndarray):
        raise DTypeError(f"{where}: got {type(array).__name__}; need a NumPy array")
    if array.ndim == 0:
        raise ShapeError(f"{where}: got shape (); need rank 1 or more")
    try:
        code = dtypes.to_code(array.dtype)
    except DTypeError as error:
        raise DTypeError(f"{where}: {error}") from None
    yield struct.pack(f"<i{array.ndim}q", array.ndim, *array.shape)
    yield _PLACE_AND_TYPE.pack(_CPU, 0, code)
    stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    yield stored.reshape(-1).view(np.uint8).data


def _name(name: str) -> Iterator[bytes]:
    if not isinstance(name, str):
        raise DTypeError(f"params: names: got {name!r}; need text")
    try:
        text = name.encode()
    except UnicodeEncodeError:
        raise ParameterError(f"params: names: got {name!r}; need text that UTF-8 can hold") from None
    yield _U64.pack(len(text))
    yield text
