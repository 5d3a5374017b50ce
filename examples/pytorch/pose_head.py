"""The head of a pose estimator: heat maps of joints, as in SimpleBaseline (https://arxiv.org/abs/1804.06208).

With `--channels 768 --layers 2` it is ViTPose's. Its weights are random, which changes nothing about its speed.
"""

from __future__ import annotations

import argparse

import torch
from before_and_after import compare
from torch import nn

JOINTS, WIDTH = 17, 256


def head(channels: int = 2048, layers: int = 3) -> nn.Sequential:
    """Return a head: each layer doubles height and width, the last convolution gives one map a joint."""
    parts: list[nn.Module] = []
    for layer in range(layers):
        parts += [
            nn.ConvTranspose2d(WIDTH if layer else channels, WIDTH, 4, 2, 1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*parts, nn.Conv2d(WIDTH, JOINTS, 1))


def main() -> None:
    """Time the head before and after one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    size = (8, 6) if options.layers == 3 else (16, 12)
    compare("pose head", head(options.channels, options.layers), torch.randn(1, options.channels, *size))


if __name__ == "__main__":
    main()
