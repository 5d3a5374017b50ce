"""The photographs, all from the scikit-image and scikit-learn wheels; how they are made small, and compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import skimage.data
import sklearn.datasets
from PIL import Image

HELD_OUT = ("astronaut", "camera", "chelsea", "coffee")
TRAINING = (
    *("brick", "china", "coins", "flower", "grass", "gravel", "immunohistochemistry"),
    *("moon", "page", "rocket", "stereo_motorcycle", "text"),
)
REDUCTIONS = (1.0, 0.8, 0.6)
"""Sizes in which photographs are trained on: made smaller, they are sharper."""


def photograph(name: str) -> Image.Image:
    """Return a photograph in RGB, cut to even sizes."""
    if name in ("china", "flower"):
        pixels = sklearn.datasets.load_sample_image(f"{name}.jpg")
    else:
        pixels = getattr(skimage.data, name)()
    if isinstance(pixels, tuple):
        pixels = pixels[0]
    image = Image.fromarray(np.asarray(pixels)).convert("RGB")
    return image.crop((0, 0, image.width // 2 * 2, image.height // 2 * 2))


def halved(image: Image.Image) -> Image.Image:
    """Return the picture at half its size, by Pillow's bicubic filter, which is wide enough not to alias."""
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


def doubled(image: Image.Image) -> Image.Image:
    """Return the picture at twice its size by bicubic interpolation, what the network has to beat."""
    return image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC)


def luma(image: Image.Image) -> np.ndarray:
    """Return the luma of a picture (ITU-R BT.601, as JPEG has it), 0 to 255, not rounded."""
    return np.asarray(image, np.float32) @ np.float32([0.299, 0.587, 0.114])


def psnr(ours: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of the luma of two pictures, over all their pixels, in dB."""
    return float(10 * np.log10(255**2 / np.mean((ours.astype(np.float64) - truth) ** 2)))


def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the luma of every training photograph in every size: halved, and as it is."""
    for name in TRAINING:
        whole = photograph(name)
        for reduction in REDUCTIONS:
            size = [round(reduction * length / 2) * 2 for length in whole.size]
            image = whole.resize(size, Image.Resampling.BICUBIC) if reduction < 1 else whole
            yield luma(halved(image)), luma(image)


class Patches:
    """Batches of random patches, each turned and mirrored at random.

    Parameters
    ----------
    count, size, reach : int
        Patches a batch; rows and columns of one, and of its surroundings on every side, in the small picture.
    """

    def __init__(self, count: int, size: int, reach: int) -> None:
        self._count, self._size, self._reach = count, size, reach
        self._pairs = [
            (small / np.float32(255), large / np.float32(255))
            for small, large in pairs()
            if min(small.shape) >= size + 2 * reach
        ]
        areas = np.array([small.size for small, _ in self._pairs], float)
        self._shares = areas / areas.sum()

    def batch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return patches with their surroundings, and the same at twice the size without."""
        size, reach = self._size, self._reach
        small = np.empty((self._count, 1, size + 2 * reach, size + 2 * reach), np.float32)
        large = np.empty((self._count, 1, 2 * size, 2 * size), np.float32)
        for place, which in enumerate(rng.choice(len(self._pairs), self._count, p=self._shares)):
            image, truth = self._pairs[which]
            row, column = (rng.integers(length - size - 2 * reach + 1) for length in image.shape)
            turns, mirrored = rng.integers(4), rng.integers(2)
            y, x = 2 * (row + reach), 2 * (column + reach)
            for target, source in (
                (small, image[row : row + size + 2 * reach, column : column + size + 2 * reach]),
                (large, truth[y : y + 2 * size, x : x + 2 * size]),
            ):
                source = np.rot90(source, turns)
                target[place, 0] = source[:, ::-1] if mirrored else source
        return small, large
