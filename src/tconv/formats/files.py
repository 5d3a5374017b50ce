"""Opening files whose failures are tconv's errors, and replacing a file only once its successor is whole."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase

from tconv.errors import DTypeError, FormatError, MXNetError

Path = str | os.PathLike[str]


@contextmanager
def reading(path: Path, what: str) -> Iterator[tuple[BufferedIOBase, int]]:
    """Open a plain file to read, and give its size in bytes.

    Parameters
    ----------
    path : str or os.PathLike
        Which file.
    what : str
        What it should hold, for messages: ``"params file"``.

    Raises
    ------
    FormatError
        If it is missing, unreadable, or a folder, pipe or device.
    DTypeError
        If `path` is not a path.
    """
    name = _name(path, what)
    try:
        # Opening a pipe would wait for its writer, and a device has no end.
        if not stat.S_ISREG(os.stat(name).st_mode):
            raise OSError(0, "not a plain file")
        with open(name, "rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except OSError as error:
        raise FormatError(
            f"{what} {name!r}: got {error.strerror or error}; need a file that can be read"
        ) from error


@contextmanager
def replacing(path: Path, what: str) -> Iterator[BufferedIOBase]:
    """Open a file to write that takes the place of `path` when the block ends, and vanishes if the block raises.

    The old content stays readable until then. A link is followed, and a device or pipe is written directly.

    Raises
    ------
    MXNetError
        If the file cannot be written.
    DTypeError
        If `path` is not a path.
    """
    name = _name(path, what)
    try:
        with _replacement(os.path.realpath(name)) as file:
            yield file
    except OSError as error:
        raise MXNetError(
            f"{what} {name!r}: got {error.strerror or error}; need a place that can be written"
        ) from error


@contextmanager
def _replacement(target: str) -> Iterator[BufferedIOBase]:
    exists = os.path.exists(target)
    if exists and not (os.path.isfile(target) and os.access(target, os.W_OK)):
        with open(target, "wb") as file:
            yield file
        return
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
    with open(temporary, "xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if exists:
                shutil.copymode(target, temporary)
        except BaseException:
            _remove(temporary)
            raise
    try:
        os.replace(temporary, target)
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _name(path: Path, what: str) -> str:
    try:
        name = os.fsdecode(path)
        usable = b"\0" not in os.fsencode(name)
    except TypeError:
        raise DTypeError(f"{what}: path: got {type(path).__name__}; need text or a path object") from None
    except UnicodeError:
        usable = False
    if not usable:
        raise FormatError(f"{what}: path: got {path!r}; need one the file system can hold")
    return name
