"""Packed weights, kept while the tensor they were packed from lives, and used only while it holds what it held.

PyTorch counts changes of a tensor, but not those made through `parameter.data`, NumPy or another process. So the
counter only tells when packing is worth while; whether packed weights are still those of the tensor is told by its
bytes, all of which go into a fingerprint on every call.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from tconv import engine
from tconv.frameworks.torch import to_numpy
from tconv.geometry import Geometry

Array = np.ndarray[Any, Any]

_MOST_BOUND = 64


class _Seen:
    """What is known of a tensor whose memory is dense: where it lies, what it held, and that packed.

    The array, whose axes go as they lie in memory, keeps that from being given to another tensor.
    """

    def __init__(self, weight: Tensor, array: Array, lies_last: bool, last: bool) -> None:
        self.tensor = ref(weight, partial(_forget, (id(weight), last)))
        self.place = _place(weight)
        self.array = array
        self.fingerprint = 0
        self.weights: engine.Weights | None = None
        self._moved = None if lies_last == last else ((1, -1) if last else (-1, 1))
        self._bound: dict[tuple[int, int], tuple[Geometry, engine.Bound | None]] = {}

    def refresh(self, threads: int) -> engine.Weights:
        """Return the weights the tensor holds now, packed before if they are those it held."""
        if self.weights is None or self.fingerprint != engine.fingerprint(self.array, threads=threads):
            # The fingerprint is of the copy, which nobody else can change meanwhile.
            if self._moved is None:
                self.weights = engine.Weights(self.array)
                held = self.weights.plain
            else:
                held = self.array.copy()
                self.weights = engine.Weights(np.moveaxis(held, *self._moved))
            self._bound.clear()
            self.fingerprint = engine.fingerprint(held, threads=threads)
        return self.weights

    def bound(self, geometry: Geometry, workspace: int, threads: int) -> engine.Bound | None:
        """Return the engine's short way for these weights, if there is one."""
        # By identity, as hashing a geometry costs more than a small layer; the entry keeps it alive.
        key = (id(geometry), threads)
        found = self._bound.get(key)
        if found is None:
            if len(self._bound) >= _MOST_BOUND:
                self._bound.clear()
            way = engine.bind(
                geometry, "forward", self.array.dtype, self.weights, workspace=workspace, threads=threads
            )
            found = self._bound[key] = geometry, way
        return found[1]


_seen: dict[tuple[int, bool], _Seen] = {}


def _forget(key: tuple[int, bool], _: object) -> None:
    _seen.pop(key, None)


def _place(weight: Tensor) -> tuple[Any, ...]:
    version = 0 if weight.is_inference() else weight._version
    return version, weight.data_ptr(), weight.shape, weight.stride(), weight.dtype


def _ordered(weight: Tensor, last: bool) -> Array:
    return to_numpy(weight.movedim(1, -1) if last else weight)


def forward(geometry: Geometry, data: Array, weight: Tensor, bias: Array | None, workspace: int) -> Array:
    """Compute a transposed convolution by weights packed from the second use unchanged of their tensor on.

    So weights that a training step renews, or that are computed for each call, are never packed to be kept.
    """
    threads = torch.get_num_threads()
    last = geometry.channels_last
    key = id(weight), last
    seen = _seen.get(key)
    if seen is None or seen.tensor() is not weight or seen.place != _place(weight):
        array = _ordered(weight.resolve_neg(), last)
        if not weight.is_neg():
            # A weight may lie otherwise than the arrays it is used with.
            lying = ((_ordered(weight, lies_last), lies_last) for lies_last in (last, not last))
            dense = next((found for found in lying if found[0].flags.c_contiguous), None)
            if dense is not None:
                _seen[key] = _Seen(weight, *dense, last)
        return engine.forward(geometry, data, array, bias, workspace=workspace, threads=threads)
    weights = seen.refresh(threads)
    bound = seen.bound(geometry, workspace, threads)
    result = None if bound is None else bound(data, None, bias, None)
    if result is None:
        result = engine.forward(geometry, data, weights, bias, workspace=workspace, threads=threads)
    return result


def kept_bytes() -> int:
    """Return the bytes that packed weights of all tensors take.

    Examples
    --------
    >>> from tconv.torch import weights
    >>> weights.kept_bytes() >= 0
    True
    """
    return sum(seen.weights.nbytes for seen in list(_seen.values()) if seen.weights is not None)
