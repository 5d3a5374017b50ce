"""Packed weights, kept while the tensor they were packed from lives, and used only while it holds what it held.

PyTorch counts changes of a tensor, but not those made through `parameter.data`, NumPy or another process. So the
counter only tells when packing is worth while; whether packed weights are still those of the tensor is told by its
bytes, all of which go into a fingerprint on every call.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from tconv import engine
from tconv.frameworks.torch import to_numpy


@dataclass
class _Seen:
    """What is known of a tensor: its change counter, its fingerprint, and its weights as the engine keeps them."""

    version: int
    last: bool
    fingerprint: int | None = None
    weights: engine.Weights | None = None


_seen: MutableMapping[Tensor, _Seen] = WeakIdKeyDictionary()


def operand(weight: Tensor, last: bool) -> np.ndarray[Any, Any] | engine.Weights:
    """Return what the engine takes for `weight`, channels last if `last`: packed from its second use unchanged on.

    So weights that a training step renews, or that are computed for each call, are never packed to be kept.
    """
    array: np.ndarray[Any, Any] = to_numpy(weight.movedim(1, -1) if last else weight)
    if not array.flags.c_contiguous:
        return array
    version = 0 if weight.is_inference() else weight._version
    seen = _seen.get(weight)
    if seen is None or seen.version != version or seen.last != last:
        _seen[weight] = _Seen(version, last)
        return array
    fingerprint = engine.fingerprint(array, threads=torch.get_num_threads())
    kept: engine.Weights | None = seen.weights
    if (
        kept is None
        or seen.fingerprint != fingerprint
        or kept.plain.shape != array.shape
        or kept.plain.dtype != array.dtype
    ):
        kept = seen.weights = engine.Weights(array)
        # Of the copy, which nobody else can change meanwhile.
        seen.fingerprint = engine.fingerprint(kept.plain, threads=torch.get_num_threads())
    return kept


def kept_bytes() -> int:
    """Return the bytes that packed weights of all tensors take."""
    return sum(seen.weights.nbytes for seen in _seen.values() if seen.weights is not None)
