"""Image files, read and written by Pillow, and how pixels become what a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tconv.errors import FormatError, FrameworkError, ParameterError, ShapeError
from tconv.operators.registry import Array

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
CHANNELS = {"rgb": 3, "bgr": 3, "luma": 1, "gray": 1}
"""How a network sees a photograph, and how many channels that takes."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Parts of red, green and blue in luma, by ITU-R BT.601."""

_LARGEST = 1 << 30
_JPEG_QUALITY = 95


def is_image(path: str | PathLike[str]) -> bool:
    """Tell whether a file is an image by its name.

    Examples
    --------
    >>> is_image("photo.JPG"), is_image("data.npy")
    (True, False)
    """
    return Path(path).suffix.lower() in SUFFIXES


def pillow() -> Any:
    """Return Pillow's `Image`.

    Raises
    ------
    FrameworkError
        If it is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise FrameworkError("images: Pillow is missing; install it by: pip install 'tconv[cli]'") from None
    return Image


def read_image(path: str | PathLike[str]) -> Array:
    """Return the pixels of an image file, (height, width, 3), 8-bit RGB, upright as the camera held it.

    Raises
    ------
    FormatError
        If it is missing, damaged, no image, or has more than a thousand million pixels.
    """
    image = pillow()
    from PIL import ImageOps

    try:
        with image.open(path) as opened:
            if opened.width * opened.height > _LARGEST:
                raise FormatError(f"image {str(path)!r}: got {opened.width} x {opened.height}; need fewer pixels")
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"image {str(path)!r}: {error}") from None


def write_image(path: str | PathLike[str], pixels: Array) -> None:
    """Write pixels, (height, width, 3) or (height, width, 1), 8-bit; the name tells the format.

    Raises
    ------
    FormatError
        If the format is unknown.
    OSError
        If the file cannot be written.
    """
    shown = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    try:
        pillow().fromarray(shown).save(path, quality=_JPEG_QUALITY)
    except ValueError as error:
        raise FormatError(f"image {str(path)!r}: {error}") from None


@dataclass(frozen=True)
class View:
    """How a network sees a photograph: `(pixel - mean) / scale`, by channel, and back.

    Attributes
    ----------
    channels : str
        `rgb`, `bgr`, `gray`, or `luma`: the network computes luma, and colours are enlarged bicubically.
    scale : float
        What pixels are divided by.
    mean : tuple of float
        What is subtracted before, one number or one a channel.
    """

    channels: str = "rgb"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, CHANNELS[self.channels]):
            raise ParameterError(
                f"mean: got {len(self.mean)} numbers; need 1, or {CHANNELS[self.channels]} for {self.channels}"
            )
        if not self.scale:
            raise ParameterError("scale: got 0; need another number")

    def to_network(self, pixels: Array) -> Array:
        """Return (1, channels, height, width), float32, from 8-bit RGB pixels (height, width, 3)."""
        seen = pixels
        if CHANNELS[self.channels] == 1:
            seen = pixels.astype(np.float32) @ _LUMA[:, None]
        elif self.channels == "bgr":
            seen = pixels[..., ::-1]
        made: Array = (seen.astype(np.float32) - np.asarray(self.mean, np.float32)) / np.float32(self.scale)
        return np.ascontiguousarray(made.transpose(2, 0, 1)[None])

    def to_pixels(self, output: Array, source: Array) -> Array:
        """Return 8-bit pixels from the network's output (1, C, H, W), C being 1 or 3.

        Parameters
        ----------
        output : ndarray
            The output.
        source : ndarray
            The pixels the network was given, for the colours of `luma`.

        Raises
        ------
        ShapeError
            If the output is no picture.
        """
        if output.ndim != 4 or output.shape[0] != 1 or output.shape[1] not in (1, 3):
            raise ShapeError(f"output: got shape {output.shape}; a picture needs (1, 1 or 3, height, width)")
        fits = len(self.mean) in (1, output.shape[1])
        mean = np.asarray(self.mean if fits else np.mean(self.mean), np.float32)
        values = output[0].transpose(1, 2, 0) * np.float32(self.scale) + mean
        np.nan_to_num(values, copy=False)
        if self.channels == "bgr" and values.shape[2] == 3:
            values = values[..., ::-1]
        if self.channels == "luma" and values.shape[2] == 1:
            values = values + _resized(source - source @ _LUMA[:, None], values.shape[:2])
        pixels: Array = np.rint(values.clip(0, 255)).astype(np.uint8)
        return pixels


def _resized(planes: Array, size: tuple[int, ...]) -> Array:
    """Return planes (height, width, count) at another size by bicubic interpolation."""
    image = pillow()
    resized = [
        np.asarray(image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], image.Resampling.BICUBIC))
        for plane in planes.astype(np.float32).transpose(2, 0, 1)
    ]
    return np.stack(resized, axis=2)
