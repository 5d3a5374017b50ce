"""Enlarge a photograph twofold by MXNet's Deconvolution, once as a symbol and once as an array function.

Bilinear interpolation by 2 is a depthwise transposed convolution: kernel 4, stride 2, pad 1, one group a channel,
and the weights of `mx.init.Bilinear`. Both forms must give the same bits, and agree with the sum that defines the
operator within float32 rounding.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import tconv as mx

KERNEL, STRIDE, PAD, CHANNELS = 4, 2, 1, 3
DECONVOLUTION = {
    "kernel": (KERNEL, KERNEL),
    "stride": (STRIDE, STRIDE),
    "pad": (PAD, PAD),
    "num_filter": CHANNELS,
    "num_group": CHANNELS,
}
ROUNDING = 4 * np.finfo(np.float32).eps
CROP_ROWS, CROP_COLUMNS, ZOOM = slice(60, 150), slice(126, 246), 6


def through_symbol(photo: np.ndarray, weight: mx.nd.NDArray) -> np.ndarray:
    """Declare the operator, bind it to a shape, run it."""
    up = mx.sym.Deconvolution(mx.sym.Variable("photo"), name="up", **DECONVOLUTION)
    executor = up.simple_bind(mx.cpu(), grad_req="null", photo=photo.shape)
    executor.copy_params_from({"up_weight": weight})
    return executor.forward(photo=mx.nd.array(photo))[0].asnumpy()


def through_array(photo: np.ndarray, weight: mx.nd.NDArray) -> np.ndarray:
    """Call the operator on arrays."""
    return mx.nd.Deconvolution(mx.nd.array(photo), weight, **DECONVOLUTION).asnumpy()


def by_definition(photo: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Add pixel times weight at `y = i * stride + k - pad` for every pixel i and tap k, in float64."""
    height, width = photo.shape[2:]
    full = np.zeros((*photo.shape[:2], (height - 1) * STRIDE + KERNEL, (width - 1) * STRIDE + KERNEL))
    for row, column in np.ndindex(KERNEL, KERNEL):
        rows = slice(row, row + height * STRIDE, STRIDE)
        columns = slice(column, column + width * STRIDE, STRIDE)
        full[:, :, rows, columns] += photo * weight[:, 0, row, column].astype(np.float64)[:, None, None]
    return full[:, :, PAD:-PAD, PAD:-PAD]


def enlarged_crop(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Cut the crop out of the photograph enlarged by `scale`, and repeat its pixels up to ZOOM."""
    rows, columns = (slice(scale * crop.start, scale * crop.stop) for crop in (CROP_ROWS, CROP_COLUMNS))
    return pixels[rows, columns].repeat(ZOOM // scale, axis=0).repeat(ZOOM // scale, axis=1)


def main() -> None:
    """Run both forms, check them, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    folder: Path = parser.parse_args().out

    chelsea = data.chelsea()
    # One pixel repeated all round, so that the border has neighbours to mix with.
    photo = np.pad(chelsea, ((1, 1), (1, 1), (0, 0)), mode="edge").transpose(2, 0, 1)[None]
    photo = np.ascontiguousarray(photo, dtype=np.float32) / 255
    weight = mx.nd.zeros((CHANNELS, 1, KERNEL, KERNEL))
    mx.init.Bilinear()(mx.init.InitDesc("up_weight"), weight)

    started = time.perf_counter()
    symbolic = through_symbol(photo, weight)
    between = time.perf_counter()
    imperative = through_array(photo, weight)
    ended = time.perf_counter()
    defined = by_definition(photo, weight.asnumpy())

    print(f"photograph     {photo.shape} -> {imperative.shape}, float32")
    print(f"mx.sym         {1e3 * (between - started):.1f} ms, bind included")
    print(f"mx.nd          {1e3 * (ended - between):.1f} ms")
    assert np.array_equal(symbolic, imperative), "the symbol and the array function differ"
    print("mx.sym, mx.nd  equal bit for bit")
    off = np.abs(imperative - defined).max()
    assert off <= ROUNDING, f"off by {off:.2e} from the definition, {ROUNDING:.2e} allowed"
    print(f"definition     largest difference {off:.2e}, {ROUNDING:.2e} allowed")

    pixels = np.rint(imperative[0, :, STRIDE:-STRIDE, STRIDE:-STRIDE].clip(0, 1) * 255)
    ours = pixels.astype(np.uint8).transpose(1, 2, 0)
    gap = np.full(((CROP_ROWS.stop - CROP_ROWS.start) * ZOOM, 2 * ZOOM, CHANNELS), 255, np.uint8)
    picture = np.hstack([enlarged_crop(chelsea, 1), gap, enlarged_crop(ours, STRIDE)])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bilinear_upsampling.png"
    Image.fromarray(picture).save(path)
    print(f"picture        {path}: nearest pixel on the left, Deconvolution on the right")


if __name__ == "__main__":
    main()
