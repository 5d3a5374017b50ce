"""A network over a photograph of any size: whole where memory allows, else tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np

from tconv.errors import MXNetError, ParameterError
from tconv.operators.registry import Array
from tconv.pictures.network import PictureNetwork
from tconv.pictures.reach import Reach, Unbounded

_SMALLEST_TILE = 32


@dataclass(frozen=True)
class Tile:
    """A part of a picture: what is read of the input, what is written of the output, and where that is found."""

    read: tuple[slice, slice]
    write: tuple[slice, slice]
    inner: tuple[slice, slice]


def fitting_size(network: PictureNetwork, height: int, width: int) -> tuple[int, int]:
    """Return the least size, from that of a picture on, that a network takes.

    Some halve a picture several times and join what they made of it, which only works for multiples.

    Raises
    ------
    MXNetError
        If it takes none.
    """
    try:
        network.output_size(height, width)
    except MXNetError as error:
        for step in (2, 4, 8, 16, 32, 64):
            taller, wider = -(-height // step) * step, -(-width // step) * step
            try:
                network.output_size(taller, wider)
            except MXNetError:
                continue
            return taller, wider
        raise error
    return height, width


def tile_size(network: PictureNetwork, height: int, width: int, memory_bytes: int) -> int | None:
    """Return how large tiles may be for a pass to fit in memory, None if the whole picture fits."""
    if network.peak_bytes(height, width) <= memory_bytes:
        return None
    size = 2048
    while size > _SMALLEST_TILE and network.peak_bytes(size, size) > memory_bytes:
        size //= 2
    return size


def cut(length: int, out_length: int, size: int, sees: Reach) -> Iterator[tuple[slice, slice, slice]]:
    """Cut one axis into tiles, and yield what each reads, writes, and where in its output that is.

    Parameters
    ----------
    length, out_length : int
        Sizes of input and output.
    size : int
        Size of a tile without its surroundings.
    sees : Reach
        How far the network sees.

    Examples
    --------
    >>> list(cut(10, 20, 6, Reach(margin=2, step=1, scale=Fraction(2))))
    [(slice(0, 8, None), slice(0, 12, None), slice(0, 12, None)), (slice(4, 10, None), slice(12, 20, None), \
slice(4, 12, None))]
    """
    step = sees.step
    size, margin = max(-(-size // step), 1) * step, -(-sees.margin // step) * step
    starts = list(range(0, length, size))
    # What is left at the end may be too little for an output of its own.
    while len(starts) > 1 and sees.scale * starts[-1] >= out_length:
        starts.pop()
    for place, start in enumerate(starts):
        first = max(start - margin, 0)
        last = place == len(starts) - 1
        end = length if last else min(start + size + margin, length)
        offset = int(sees.scale * first)
        begin, stop = int(sees.scale * start), out_length if last else int(sees.scale * starts[place + 1])
        yield slice(first, end), slice(begin, stop), slice(begin - offset, stop - offset)


def tiles(
    network: PictureNetwork, height: int, width: int, size: int | None, overlap: int | None = None
) -> list[Tile]:
    """Cut a picture into tiles that give, in what is written of them, what the whole gives.

    Parameters
    ----------
    network : PictureNetwork
        The network.
    height, width : int
        Size of the picture.
    size : int or None
        Size of a tile; None for one tile of all.
    overlap : int, optional
        Surroundings to read on every side; what the network sees by default.

    Raises
    ------
    ParameterError
        If the network sees all of the picture and no overlap is given.
    """
    out_height, out_width = network.output_size(height, width)
    if size is None or (size >= height and size >= width):
        every = (slice(0, out_height), slice(0, out_width))
        return [Tile((slice(0, height), slice(0, width)), every, every)]
    try:
        sees = network.reaches(height, width)
    except Unbounded as error:
        if overlap is None:
            raise ParameterError(
                f"tile: the picture cannot be cut without a trace, as {error}; give overlap to cut it all the same"
            ) from None
        scales = Fraction(out_height, height), Fraction(out_width, width)
        sees = Reach(overlap, 1, scales[0]), Reach(overlap, 1, scales[1])
        if any(scale.denominator > 1 for scale in scales):
            raise ParameterError(f"tile: the output is {scales[0]} times as high; need a whole number") from None
    if overlap is not None:
        sees = Reach(overlap, sees[0].step, sees[0].scale), Reach(overlap, sees[1].step, sees[1].scale)
    rows, columns = cut(height, out_height, size, sees[0]), cut(width, out_width, size, sees[1])
    return [Tile((a, d), (b, e), (c, f)) for (a, b, c), (d, e, f) in product(rows, list(columns))]


def run_tiles(pieces: Iterable[Tile], pixels: Array, made: Array, through: Callable[[Array], Array]) -> None:
    """Run every tile.

    Parameters
    ----------
    pieces : iterable of Tile
        The tiles.
    pixels, made : ndarray
        The picture, and the one to make, (height, width, channels).
    through : callable
        From a part of the picture to the part made of it.
    """
    for tile in pieces:
        made[tile.write] = through(np.ascontiguousarray(pixels[tile.read]))[tile.inner]
