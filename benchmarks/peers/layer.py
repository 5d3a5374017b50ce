"""What a peer gets: one layer with its arrays; and what it gives: ways of computing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tconv.dtypes import as_dtype
from tconv.geometry import Geometry

Array = np.ndarray[Any, Any]


class RefusalError(Exception):
    """A peer has no way of computing a layer; its text says why."""


class Way(NamedTuple):
    """One way of computing a layer.

    `run` computes, waiting until the result is there; `read` turns what it returned into channel-first arrays, one
    for each result.
    """

    run: Callable[[], Any]
    read: Callable[[Any], tuple[Array, ...]]


@dataclass(frozen=True)
class Layer:
    """Random arrays of one geometry, channel-first."""

    name: str
    geometry: Geometry
    dtype: str = "float32"

    def _random(self, seed: int, shape: tuple[int, ...]) -> Array:
        normal = np.random.default_rng(seed).standard_normal(shape, np.float32)
        return normal.astype(as_dtype(self.dtype), copy=False)

    @cached_property
    def x(self) -> Array:
        return self._random(0, self.geometry.small_shape)

    @cached_property
    def w(self) -> Array:
        return self._random(1, self.geometry.weight_shape)

    @cached_property
    def dy(self) -> Array:
        return self._random(2, self.geometry.large_shape)

    @property
    def rank(self) -> int:
        return len(self.geometry.axes)

    def per_axis(self, field: str) -> tuple[int, ...]:
        """Return a field of every axis, the same at both ends where it is the pad."""
        return tuple(getattr(axis, field) for axis in self.geometry.axes)

    def grouped(self) -> Array:
        """Return the weight as (groups, channels of one, filters of one, kernel...)."""
        g = self.geometry
        return self.w.reshape(g.groups, g.channels // g.groups, *self.w.shape[1:])


def channels_last(array: Array) -> Array:
    """Return a contiguous copy with the second axis moved to the end."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def channels_first(array: Array) -> Array:
    """Return a view with the last axis moved to the second place."""
    return np.moveaxis(array, -1, 1)
