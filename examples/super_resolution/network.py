"""The network: an FSRCNN whose last Deconvolution also interpolates the photograph itself."""

from __future__ import annotations

import numpy as np

import tconv as mx

SCALE = 2
REACH = 8
"""Rows and columns of the small picture, on every side, that an output pixel depends on."""

WIDTH, NARROW, DEPTH = 48, 16, 4
TAPS = 8
TRIM = 7
"""What `pad` takes off the result of the last layer: where taps would have reached beyond the features."""


def network(bordered: bool = True) -> mx.sym.Symbol:
    """Return the network, from luma in 0..1 of shape (N, 1, H, W) to luma of (N, 1, 2H, 2W).

    Parameters
    ----------
    bordered : bool
        Whether to repeat the outermost pixels of the picture `REACH` times before all else. Without, as in
        training, the input brings its surroundings along: (N, 1, H + 2 * REACH, W + 2 * REACH).
    """
    data = mx.sym.Variable("data")
    wide = (0, 0, 0, 0, REACH, REACH, REACH, REACH)
    photo = mx.sym.Pad(data, mode="edge", pad_width=wide, name="surroundings") if bordered else data

    def layer(x: mx.sym.Symbol, name: str, kernel: int, filters: int) -> mx.sym.Symbol:
        x = mx.sym.Convolution(x, kernel=(kernel, kernel), num_filter=filters, name=name)
        return mx.sym.LeakyReLU(x, act_type="prelu", name=f"{name}_prelu")

    features = layer(photo, "extract", 5, WIDTH)
    features = layer(features, "shrink", 1, NARROW)
    for number in range(DEPTH):
        features = layer(features, f"map{number}", 3, NARROW)
    features = layer(features, "expand", 1, WIDTH)
    lost = REACH - TRIM // 2 + 1
    middle = mx.sym.slice(photo, begin=(None, None, lost, lost), end=(None, None, -lost, -lost), name="middle")
    return mx.sym.Deconvolution(
        mx.sym.Concat(features, middle, name="features_and_photo"),
        mx.sym.Variable("enlarge_weight", lr_mult=0.1),
        kernel=(TAPS, TAPS),
        stride=(SCALE, SCALE),
        pad=(TRIM, TRIM),
        num_filter=1,
        no_bias=False,
        name="enlarge",
    )


def bicubic_taps() -> np.ndarray:
    """Return the weights with which Deconvolution doubles a signal as bicubic interpolation does (Keys 1981)."""
    t = np.abs(np.arange(TAPS) - (TAPS - 1) / 2) / SCALE
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t < 1, near, far)


def initialized(
    symbol: mx.sym.Symbol, rng: np.random.Generator, **shapes: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Return first values of all parameters: He's for the layers, and bicubic interpolation for the result."""
    values = {}
    for name, shape in zip(symbol.list_arguments(), symbol.infer_shape(**shapes)[0]):
        if name.endswith("_gamma"):
            values[name] = np.full(shape, 0.25, np.float32)
        elif name == "enlarge_weight":
            values[name] = 1e-3 * rng.standard_normal(shape, np.float32)
            values[name][-1, 0] = np.outer(bicubic_taps(), bicubic_taps())
        elif name.endswith("_weight"):
            values[name] = np.sqrt(2 / np.prod(shape[1:])) * rng.standard_normal(shape, np.float32)
        elif name.endswith("_bias"):
            values[name] = np.zeros(shape, np.float32)
    return values
