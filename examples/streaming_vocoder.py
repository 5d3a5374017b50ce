"""Play a melody through a vocoder of transposed convolutions, once whole and once in chunks as they would arrive.

    python examples/streaming_vocoder.py --out out

The network is a small upsampler with the shape of a neural vocoder, 256 samples a frame, whose weights are written
down instead of trained: notes become the strengths of partials, these are smoothed twice, and the last layer is a
bank of windowed oscillators. Both ways must give the same bits. Writes the sound (WAV) and the spectrograms of both
and of their difference (PNG).
"""

from __future__ import annotations

import argparse
import time
import wave
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from tconv.torch import StreamStack

RATE, NOTES, PARTIALS, HOP = 22050, 16, 32, 64
FRAME = 4 * HOP
# Numbers of the natural notes of a horn, and their lengths in eighths.
MELODY = [(4, 1), (6, 1), (8, 2), (10, 1), (8, 1), (12, 3), (10, 1), (12, 1), (16, 2), (12, 1), (10, 1), (8, 4)]
EIGHTH = 16  # frames


def vocoder() -> nn.Sequential:
    """Return the network, its weights set."""
    spread = nn.ConvTranspose1d(NOTES, PARTIALS, 4, 2, 1)
    smooth = nn.ConvTranspose1d(PARTIALS, PARTIALS, 4, 2, 1, groups=PARTIALS)
    voices = nn.ConvTranspose1d(PARTIALS, 1, 2 * HOP, HOP, HOP // 2)
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    window = torch.hann_window(2 * HOP)
    with torch.no_grad():
        for layer in (spread, smooth, voices):
            layer.bias.zero_()
        spread.weight.zero_()
        for note in range(1, NOTES + 1):
            for harmonic in range(1, PARTIALS // note + 1):
                spread.weight[note - 1, note * harmonic - 1] = ramp / harmonic**1.5
        smooth.weight[:] = ramp
        samples = torch.arange(2 * HOP)
        for partial in range(1, PARTIALS + 1):
            # A whole number of periods a hop, so that neighbouring windows agree.
            voices.weight[partial - 1, 0] = window * torch.sin(2 * torch.pi * partial * samples / HOP)
    return nn.Sequential(spread, nn.ReLU(), smooth, nn.ReLU(), voices, nn.Tanh()).eval()


def melody() -> torch.Tensor:
    """Return the strengths of the notes, (1, NOTES, frames), each struck and fading."""
    frames = sum(length for _, length in MELODY) * EIGHTH
    score, at = torch.zeros(1, NOTES, frames), 0
    for note, length in MELODY:
        fade = torch.exp(-torch.arange(length * EIGHTH) / (1.2 * EIGHTH))
        score[0, note - 1, at : at + length * EIGHTH] = 0.6 * fade
        at += length * EIGHTH
    return score


def in_chunks(stack: StreamStack, score: torch.Tensor, seed: int) -> tuple[torch.Tensor, float]:
    """Feed chunks of 1 to 20 frames; return the sound, and the longest time a frame of a chunk took in seconds."""
    generator, parts, at, slowest = np.random.default_rng(seed), [], 0, 0.0
    while at < score.shape[-1]:
        length = min(int(generator.integers(1, 21)), score.shape[-1] - at)
        before = time.perf_counter()
        parts.append(stack.feed(score[..., at : at + length]))
        slowest = max(slowest, (time.perf_counter() - before) / length)
        at += length
    return torch.cat([*parts, stack.flush()], dim=-1), slowest


def spectrogram(sound: np.ndarray) -> np.ndarray:
    """Return decibels, (frequencies, times), the highest frequency first."""
    size, hop = 512, 256
    windows = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop] * np.hanning(size)
    return 20 * np.log10(np.abs(np.fft.rfft(windows, axis=1)).T[::-1] + 1e-6)


def picture(named: dict[str, np.ndarray]) -> Image.Image:
    """Return spectrograms one below the other, from black at -80 dB to white at 40 dB."""
    rows = []
    for name, sound in named.items():
        level = np.clip((spectrogram(sound) + 80) / 120, 0, 1)[..., None]
        shade = np.concatenate([level**0.7, level**1.6, 0.35 * np.sqrt(level) + 0.65 * level**4], axis=2)
        image = Image.fromarray((255 * shade).astype(np.uint8)).resize((900, 220), Image.Resampling.BILINEAR)
        ImageDraw.Draw(image).text((8, 6), name, "#ffffff")
        rows.append(np.asarray(image))
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    """Run both ways, check them, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="directory to write to")
    parser.add_argument("--seed", type=int, default=0, help="of the lengths of the chunks")
    given = parser.parse_args()
    network, score = vocoder(), melody()
    stack = StreamStack(network)
    whole = stack.whole(score)
    streamed, slowest = in_chunks(stack, score, given.seed)
    with torch.no_grad():
        plain = network(score)
    if not torch.equal(streamed, whole):
        raise SystemExit("chunks and the whole differ")
    torch.testing.assert_close(whole, plain, rtol=1e-4, atol=1e-5)
    seconds = whole.shape[-1] / RATE
    print(f"{seconds:.1f} s of sound; chunks of 1 to 20 frames give the bits of the whole")
    print(f"PyTorch differs by {(whole - plain).abs().max():.1e} at most")
    print(f"the slowest frame took {1e3 * slowest:.2f} ms of its {1e3 * FRAME / RATE:.1f} ms")
    given.out.mkdir(parents=True, exist_ok=True)
    sound = streamed[0, 0].numpy()
    with wave.open(str(given.out / "streaming_vocoder.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((32767 * sound).astype("<i2").tobytes())
    named = {"in chunks": sound, "whole": whole[0, 0].numpy(), "difference": sound - whole[0, 0].numpy()}
    picture(named).save(given.out / "streaming_vocoder.png")
    print(f"wrote {given.out / 'streaming_vocoder.wav'} and {given.out / 'streaming_vocoder.png'}")


if __name__ == "__main__":
    main()
