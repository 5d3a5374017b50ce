"""PyTorch eager, contiguous and channels_last."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from peers.layer import Array, Layer, Way

NAME = "PyTorch"
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def _tensor(array: Array) -> torch.Tensor:
    # NumPy's bfloat16 is of another package.
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: torch.Tensor) -> Array:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


class Peer:
    version = torch.__version__
    dtypes = ("float32", "float64", "float16", "bfloat16")

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def _tensors(self, layer: Layer, *arrays: Any) -> dict[str, list[torch.Tensor]]:
        formats = {"contiguous": torch.contiguous_format}
        if layer.rank in _CHANNELS_LAST:
            formats["channels_last"] = _CHANNELS_LAST[layer.rank]
        return {
            name: [_tensor(array).contiguous(memory_format=order) for array in arrays]
            for name, order in formats.items()
        }

    def forward(self, layer: Layer) -> dict[str, Way]:
        compute = getattr(torch, f"conv_transpose{layer.rank}d")
        return self._ways(layer, layer.x, partial(compute, output_padding=layer.per_axis("adj")))

    def backward(self, layer: Layer) -> dict[str, Way]:
        g = layer.geometry
        order = [layer.per_axis(field) for field in ("stride", "pad_lo", "dilation")]
        adj = layer.per_axis("adj")
        return {
            name: Way(
                lambda x=x, w=w, dy=dy: torch.ops.aten.convolution_backward(
                    dy, x, w, [g.filters], *order, True, adj, g.groups, [True, True, True]
                ),
                lambda found: tuple(map(_array, found)),
            )
            for name, (x, w, dy) in self._tensors(layer, layer.x, layer.w, layer.dy).items()
        }

    def convolution(self, layer: Layer) -> dict[str, Way]:
        return self._ways(layer, layer.dy, getattr(torch, f"conv{layer.rank}d"))

    def _ways(self, layer: Layer, data: Array, compute: Callable[..., torch.Tensor]) -> dict[str, Way]:
        options = {
            "stride": layer.per_axis("stride"),
            "padding": layer.per_axis("pad_lo"),
            "groups": layer.geometry.groups,
            "dilation": layer.per_axis("dilation"),
        }
        return {
            name: Way(lambda x=x, w=w: compute(x, w, **options), lambda y: (_array(y),))
            for name, (x, w) in self._tensors(layer, data, layer.w).items()
        }
