"""Pad modes, reduced to problems without: the large side is made wider by what would be cut, then folded or filled.

A convolution with a pad mode reads its large side continued at both ends; its transpose, `fold`, adds what lands
beyond an end to the positions that are repeated there. Only the borders are worked on, one axis after the other.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from tconv.geometry import Axis, Geometry

Array = np.ndarray[Any, Any]
Run = tuple[slice, slice, int]


def widened(geometry: Geometry) -> Geometry:
    """Return the problem without pad mode whose large side is the continued one; negative pads stay."""
    axes = tuple(
        axis._replace(
            out=axis.out + max(axis.pad_lo, 0) + max(axis.pad_hi, 0),
            pad_lo=min(axis.pad_lo, 0),
            pad_hi=min(axis.pad_hi, 0),
        )
        for axis in geometry.axes
    )
    return replace(geometry, axes=axes, pad_mode="zero")


def middle(geometry: Geometry) -> tuple[slice, ...]:
    """Return where the large side lies in the widened one."""
    spatial = tuple(slice(max(axis.pad_lo, 0), max(axis.pad_lo, 0) + axis.out) for axis in geometry.axes)
    return (slice(None), *spatial) if geometry.channels_last else (slice(None), slice(None), *spatial)


def fold(geometry: Geometry, wide: Array) -> Array:
    """Add the borders of the widened large side to what they repeat, and return the view of the middle."""
    for dimension, axis in _spatial(geometry):
        lines = np.moveaxis(wide, dimension, 0)
        for border, inside, step in _runs(axis, geometry.pad_mode):
            if step:
                lines[inside] += lines[border][::step]
            else:
                lines[inside] += lines[border].sum(axis=0, keepdims=True, dtype=wide.dtype)
    return wide[middle(geometry)]


def fill(geometry: Geometry, large: Array, wide: Array) -> None:
    """Write the large side into the middle of the widened one, and its continuation around it."""
    wide[middle(geometry)] = large
    done = list(middle(geometry))
    for dimension, axis in _spatial(geometry):
        # Borders of this axis are as long as the part of the others that is already filled.
        done[dimension] = slice(None)
        lines = np.moveaxis(wide[tuple(done)], dimension, 0)
        for border, inside, step in _runs(axis, geometry.pad_mode):
            lines[border] = lines[inside][:: step or 1]


def _spatial(geometry: Geometry) -> list[tuple[int, Axis]]:
    first = 1 if geometry.channels_last else 2
    return list(enumerate(geometry.axes, first))


@lru_cache(maxsize=1024)
def _runs(axis: Axis, pad_mode: str) -> tuple[Run, ...]:
    """Return runs of the border, what each repeats, and in which direction; 0 where all of it is one position."""
    lo, hi, size = max(axis.pad_lo, 0), max(axis.pad_hi, 0), axis.out
    runs: list[Run] = []
    for first, stop in ((-lo, 0), (size, size + hi)):
        sources = [_source(pad_mode, position, size) for position in range(first, stop)]
        begin = 0
        while begin < len(sources):
            end = begin + 1
            step = sources[end] - sources[begin] if end < len(sources) else 1
            while end < len(sources) and sources[end] - sources[end - 1] == step:
                end += 1
            low, high = sorted((sources[begin], sources[end - 1]))
            border = slice(lo + first + begin, lo + first + end)
            runs.append((border, slice(lo + low, lo + high + 1), step))
            begin = end
    return tuple(runs)


def _source(pad_mode: str, position: int, size: int) -> int:
    """Return the position of a signal of `size` that its continuation repeats at `position`."""
    if pad_mode == "circular":
        return position % size
    if pad_mode == "replicate" or size == 1:
        return min(max(position, 0), size - 1)
    period = 2 * (size - 1)
    return min(position % period, -position % period)
