"""JAX, compiled, channel-first and channel-last.

It takes no number of threads: the process must be pinned before this is imported. Weights lie flipped, as its
convolution wants them, before the clock runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from peers.layer import Layer, Way, channels_first, channels_last

NAME = "JAX"


def _convolve(layer: Layer, last: bool) -> Callable[[Any, Any], Any]:
    g = layer.geometry
    spatial = "DHW"[-layer.rank :]
    order = (
        (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
        if last
        else (f"NC{spatial}", f"OI{spatial}", f"NC{spatial}")
    )
    reach = [(axis.kernel - 1) * axis.dilation for axis in g.axes]
    return lambda x, w: lax.conv_general_dilated(
        x,
        w,
        window_strides=(1,) * layer.rank,
        padding=[(r - a.pad_lo, r - a.pad_hi + a.adj) for r, a in zip(reach, g.axes)],
        lhs_dilation=layer.per_axis("stride"),
        rhs_dilation=layer.per_axis("dilation"),
        dimension_numbers=order,
        feature_group_count=g.groups,
    )


def _weight(layer: Layer, last: bool) -> Any:
    """Return the weight flipped, as (filters, channels of a group, kernel...) or (kernel..., channels, filters)."""
    g = layer.geometry
    turned = np.swapaxes(layer.grouped(), 1, 2).reshape(
        g.filters, g.channels // g.groups, *layer.per_axis("kernel")
    )
    turned = np.flip(turned, tuple(range(2, turned.ndim)))
    return np.moveaxis(turned, (0, 1), (-1, -2)) if last else turned


def _unturn(layer: Layer, gradient: Any, last: bool) -> Any:
    """Return the gradient of `_weight` as that of the layer's weight."""
    g = layer.geometry
    turned = np.moveaxis(gradient, (-1, -2), (0, 1)) if last else gradient
    turned = np.flip(turned, tuple(range(2, turned.ndim)))
    grouped = turned.reshape(g.groups, g.filters // g.groups, *turned.shape[1:])
    return np.swapaxes(grouped, 1, 2).reshape(g.weight_shape)


class Peer:
    version = jax.__version__

    def __init__(self, threads: int) -> None:
        self._device = jax.devices("cpu")[0]

    def forward(self, layer: Layer) -> dict[str, Way]:
        return {"channel-first": self._forward(layer, False), "channel-last": self._forward(layer, True)}

    def backward(self, layer: Layer) -> dict[str, Way]:
        return {"channel-first": self._backward(layer, False), "channel-last": self._backward(layer, True)}

    def _put(self, array: Any) -> Any:
        return jax.device_put(np.ascontiguousarray(array), self._device)

    def _forward(self, layer: Layer, last: bool) -> Way:
        x, w = self._put(channels_last(layer.x) if last else layer.x), self._put(_weight(layer, last))
        compute = jax.jit(_convolve(layer, last)).lower(x, w).compile()
        return Way(
            lambda: compute(x, w).block_until_ready(),
            lambda y: (channels_first(np.asarray(y)) if last else np.asarray(y),),
        )

    def _backward(self, layer: Layer, last: bool) -> Way:
        x, w = self._put(channels_last(layer.x) if last else layer.x), self._put(_weight(layer, last))
        dy = self._put(channels_last(layer.dy) if last else layer.dy)
        convolve = _convolve(layer, last)
        over = tuple(axis for axis in range(layer.rank + 2) if axis != (layer.rank + 1 if last else 1))

        def gradients(x: Any, w: Any, dy: Any) -> Any:
            dx, dw = jax.vjp(convolve, x, w)[1](dy)
            return dx, dw, dy.sum(over)

        compute = jax.jit(gradients).lower(x, w, dy).compile()

        def read(found: Any) -> Any:
            dx, dw, db = map(np.asarray, found)
            return channels_first(dx) if last else dx, _unturn(layer, dw, last), db

        return Way(lambda: jax.block_until_ready(compute(x, w, dy)), read)
