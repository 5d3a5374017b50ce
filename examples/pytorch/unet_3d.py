"""Segmentation of volumes by a 3-D U-Net (https://arxiv.org/abs/1606.06650).

Its weights are random, which changes nothing about its speed.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import torch
from before_and_after import compare
from torch import Tensor, nn

CLASSES = 4


def double(channels: int, width: int) -> nn.Sequential:
    """Return two convolutions, each with normalisation and rectifier."""
    parts: list[nn.Module] = []
    for given in (channels, width):
        parts += [nn.Conv3d(given, width, 3, padding=1), nn.BatchNorm3d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)


class UNet(nn.Module):
    """Down by pooling, up by transposed convolutions, each level joined with the one it came from."""

    def __init__(self, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        widths = [width << level for level in range(levels)]
        self.down = nn.ModuleList(double(a, b) for a, b in zip([1, *widths], widths))
        self.pool = nn.MaxPool3d(2)
        pairs = list(pairwise(widths))[::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose3d(wide, narrow, 2, 2) for narrow, wide in pairs)
        self.joined = nn.ModuleList(double(2 * narrow, narrow) for narrow, _ in pairs)
        self.classes = nn.Conv3d(width, CLASSES, 1)

    def forward(self, volume: Tensor) -> Tensor:
        """Return the scores of every class at every place of a volume (N, 1, D, H, W)."""
        levels = []
        x = volume
        for level, block in enumerate(self.down):
            x = block(self.pool(x) if level else x)
            levels.append(x)
        levels.pop()
        for up, joined in zip(self.ups, self.joined):
            x = joined(torch.cat((up(x), levels.pop()), 1))
        return self.classes(x)


def main() -> None:
    """Time the network before and after one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=48, help="edge of the volume")
    size: int = parser.parse_args().size
    torch.manual_seed(0)
    compare("3-D U-Net", UNet(), torch.randn(1, 1, size, size, size))


if __name__ == "__main__":
    main()
