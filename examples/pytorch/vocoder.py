"""A vocoder: sound from a spectrogram, by the generator of HiFi-GAN V1 (https://arxiv.org/abs/2010.05646).

Its weights are random, which changes nothing about its speed.
"""

from __future__ import annotations

import argparse

import torch
from before_and_after import compare
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

SLOPE = 0.1
BANDS, FRAMES = 80, 200


class Residual(nn.Module):
    """Three pairs of convolutions of one kernel, the first of each dilated, added to what they were given."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding="same") for d in (1, 3, 5)
        )
        self.dense = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding="same") for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return sound of the same shape."""
        for dilated, dense in zip(self.dilated, self.dense):
            x = x + dense(leaky_relu(dilated(leaky_relu(x, SLOPE)), SLOPE))
        return x


class Generator(nn.Module):
    """Four times upsampling and residual blocks of three kernels, averaged."""

    def __init__(self, channels: int = 512, rates: tuple[int, ...] = (8, 8, 2, 2)) -> None:
        super().__init__()
        widths = [channels >> level for level in range(len(rates) + 1)]
        self.first = nn.Conv1d(BANDS, channels, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(wide, narrow, 2 * rate, rate, rate // 2)
            for wide, narrow, rate in zip(widths, widths[1:], rates)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(Residual(width, kernel) for kernel in (3, 7, 11)) for width in widths[1:]
        )
        self.last = nn.Conv1d(widths[-1], 1, 7, padding=3)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Return sound (N, 1, 256 * frames) for a spectrogram (N, bands, frames)."""
        x = self.first(spectrogram)
        for up, blocks in zip(self.ups, self.blocks):
            x = up(leaky_relu(x, SLOPE))
            x = torch.stack([block(x) for block in blocks]).mean(0)
        return torch.tanh(self.last(leaky_relu(x)))


def main() -> None:
    """Time the generator before and after one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=FRAMES)
    frames: int = parser.parse_args().frames
    torch.manual_seed(0)
    compare("vocoder", Generator(), torch.randn(1, BANDS, frames))


if __name__ == "__main__":
    main()
