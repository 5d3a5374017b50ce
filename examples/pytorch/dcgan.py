"""Train a DCGAN (https://arxiv.org/abs/1511.06434) on drawn discs, by PyTorch and then by tconv.

Both runs start from the same weights and see the same images; only one line differs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

import tconv.torch

NOISE, SIZE = 100, 64


def generator(width: int = 64, channels: int = 3) -> nn.Sequential:
    """Return a network from noise (N, 100, 1, 1) to images (N, channels, 64, 64)."""
    widths = [8 * width, 4 * width, 2 * width, width]
    parts: list[nn.Module] = [nn.ConvTranspose2d(NOISE, widths[0], 4, 1, 0, bias=False)]
    for wide, narrow in zip(widths, [*widths[1:], channels]):
        parts += [nn.BatchNorm2d(wide), nn.ReLU(True), nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False)]
    return nn.Sequential(*parts, nn.Tanh())


def discriminator(width: int = 32, channels: int = 3) -> nn.Sequential:
    """Return a network from images to one number, above 0 for real ones."""
    widths = [width, 2 * width, 4 * width, 8 * width]
    parts: list[nn.Module] = []
    for narrow, wide in zip([channels, *widths], widths):
        parts += [nn.Conv2d(narrow, wide, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4), nn.Flatten())


def discs(count: int, random: torch.Generator) -> Tensor:
    """Draw coloured discs on a dark ground."""
    centre = torch.rand(count, 2, 1, 1, generator=random) * 0.6 + 0.2
    radius = torch.rand(count, 1, 1, 1, generator=random) * 0.15 + 0.1
    colour = torch.rand(count, 3, 1, 1, generator=random)
    axis = (torch.arange(SIZE) + 0.5) / SIZE
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))[None]
    inside = ((grid - centre).square().sum(1, keepdim=True).sqrt() < radius).float()
    return 2 * inside * colour - 1


def train(steps: int, batch: int, accelerated: bool) -> tuple[list[float], float]:
    """Train both networks; return the generator's losses and the median milliseconds of a step."""
    torch.manual_seed(0)
    maker, judge = generator(), discriminator()
    if accelerated:
        tconv.torch.accelerate(maker)
    random = torch.Generator().manual_seed(1)
    learn = [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (maker, judge)]
    right = nn.functional.binary_cross_entropy_with_logits
    losses, times = [], []
    for _ in range(steps):
        real = discs(batch, random)
        noise = torch.randn(batch, NOISE, 1, 1, generator=random)
        started = time.perf_counter()
        fake = maker(noise)
        doubts = (judge(real), judge(fake.detach()))
        judged = right(doubts[0], torch.ones(batch, 1)) + right(doubts[1], torch.zeros(batch, 1))
        learn[1].zero_grad()
        judged.backward()
        learn[1].step()
        loss = right(judge(fake), torch.ones(batch, 1))
        learn[0].zero_grad()
        loss.backward()
        learn[0].step()
        times.append(time.perf_counter() - started)
        losses.append(loss.item())
    return losses, 1e3 * statistics.median(times)


def main() -> None:
    """Train twice and print losses and times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    theirs, before = train(options.steps, options.batch, accelerated=False)
    ours, after = train(options.steps, options.batch, accelerated=True)
    off = max(abs(a - b) / abs(a) for a, b in zip(theirs[:5], ours))
    print(f"DCGAN: {options.steps} steps of {options.batch} images by {torch.get_num_threads()} threads")
    print(f"PyTorch     {before:.1f} ms a step, loss {theirs[0]:.4f} to {theirs[-1]:.4f}")
    print(f"tconv       {after:.1f} ms a step, loss {ours[0]:.4f} to {ours[-1]:.4f}")
    print(f"difference  {off:.1e} in the losses of the first steps; after that, rounding grows as training does")
    assert off < 1e-2, f"losses are off by {off:.1e}"


if __name__ == "__main__":
    main()
