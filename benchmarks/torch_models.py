"""Time whole PyTorch models before and after `tconv.torch.accelerate`, in one run, turn by turn.

    python benchmarks/torch_models.py --threads 1 --match vocoder --json benchmarks/results/torch_models.json
    python benchmarks/torch_models.py --threads 1 --lengths --json benchmarks/results/torch_models.json

The process is pinned to as many cores as it may use threads. Models run as they are and accelerated, both eagerly,
contiguous and channels-last, and by torch.compile with frozen weights. The time inside transposed convolutions is
taken by hooks in the same eager calls. Outputs are checked against each other. Ratios are of one turn's medians, so
that a machine that slows down for a while does so for both sides. `--lengths` instead gives a vocoder 100
spectrograms of lengths that it has not met. Rows that a run leaves out stay in the JSON file, of which
`torch_report.py` makes the page. Run it on cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "pytorch"))

import dcgan
import pose_head
import unet_3d
import vocoder

import tconv.torch
from tconv.tuning import processor
from timing import pin, summary, take_turn

_LARGEST_ERROR = 1e-3
_TURNS = 7
_QUICK = 20e-3
_LENGTHS = 100
_COMPILED = ("torch.compile", "torch.compile, accelerated")
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Snake(nn.Module):
    """The periodic activation of the Descript audio codec."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha * x).sin().square() / (self.alpha + 1e-9)


class Added(nn.Sequential):
    """Layers whose output is added to what they were given."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Recurrent(nn.LSTM):
    """EnCodec's LSTM over (N, channels, time), added to what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x.permute(2, 0, 1))[0].permute(1, 2, 0)


def encodec_decoder() -> nn.Module:
    """Return the decoder of EnCodec at 24 kHz (https://arxiv.org/abs/2210.13438)."""
    width = 512
    parts: list[nn.Module] = [nn.Conv1d(128, width, 7, padding=3), Recurrent(width, width, 2)]
    for rate in (8, 5, 4, 2):
        half = width // 2
        pad = (rate // 2, rate % 2)
        parts += [nn.ELU(), nn.ConvTranspose1d(width, half, 2 * rate, rate, pad[0] + pad[1], pad[1])]
        parts += [
            Added(nn.ELU(), nn.Conv1d(half, half // 2, 3, padding=1), nn.ELU(), nn.Conv1d(half // 2, half, 1))
        ]
        width = half
    return nn.Sequential(*parts, nn.ELU(), nn.Conv1d(width, 1, 7, padding=3))


def dac_decoder() -> nn.Module:
    """Return the decoder of the Descript audio codec at 44.1 kHz (https://arxiv.org/abs/2306.06546)."""
    width = 1536
    parts: list[nn.Module] = [nn.Conv1d(1024, width, 7, padding=3)]
    for rate in (8, 8, 4, 2):
        half = width // 2
        parts += [Snake(width), nn.ConvTranspose1d(width, half, 2 * rate, rate, rate // 2)]
        for dilation in (1, 3, 9):
            wide = nn.Conv1d(half, half, 7, padding=3 * dilation, dilation=dilation)
            parts.append(Added(Snake(half), wide, Snake(half), nn.Conv1d(half, half, 1)))
        width = half
    return nn.Sequential(*parts, Snake(width), nn.Conv1d(width, 1, 7, padding=3), nn.Tanh())


def mask_head() -> nn.Module:
    """Return the mask head of Mask R-CNN (https://arxiv.org/abs/1703.06870)."""
    convolutions = [part for _ in range(4) for part in (nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*convolutions, nn.ConvTranspose2d(256, 256, 2, 2), nn.ReLU(), nn.Conv2d(256, 80, 1))


class Case(NamedTuple):
    """A model, the shape of what goes in, and whether a training step is timed."""

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    trains: bool = False


CASES = (
    Case("vocoder (HiFi-GAN V1), 200 frames", vocoder.Generator, (1, vocoder.BANDS, 200)),
    Case("EnCodec decoder, 2 s", encodec_decoder, (1, 128, 150)),
    Case("DAC decoder, 0.5 s", dac_decoder, (1, 1024, 43)),
    Case("pose head (SimpleBaseline)", pose_head.head, (1, 2048, 8, 6)),
    Case("pose head (ViTPose-B)", lambda: pose_head.head(768, 2), (1, 768, 16, 12)),
    Case("DCGAN generator, batch 16", dcgan.generator, (16, dcgan.NOISE, 1, 1)),
    Case("DCGAN generator, batch 16, training step", dcgan.generator, (16, dcgan.NOISE, 1, 1), trains=True),
    Case("3-D U-Net, 48 x 48 x 48", unet_3d.UNet, (1, 1, 48, 48, 48)),
    Case("mask head (Mask R-CNN), 100 boxes", mask_head, (100, 256, 14, 14)),
)


class Inside:
    """The seconds that a model's transposed convolutions take, call by call."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[float] = []
        self._started = 0.0
        for module in model.modules():
            if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
                module.register_forward_pre_hook(self._start)
                module.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self.calls[-1] += time.perf_counter() - self._started


def _training(model: nn.Module) -> Callable[[Tensor], Tensor]:
    steps = torch.optim.SGD(model.parameters(), 1e-4)

    def step(x: Tensor) -> Tensor:
        y = model(x)
        steps.zero_grad()
        y.square().mean().backward()
        steps.step()
        return y.detach()

    return step


def _ways(case: Case, compiles: bool) -> Iterator[tuple[str, Callable[[], Tensor], Inside | None]]:
    torch.manual_seed(0)
    plain = case.model().train(case.trains)
    x = torch.randn(case.shape)
    formats = {"contiguous": torch.contiguous_format}
    if len(case.shape) in _FORMATS:
        formats["channels-last"] = _FORMATS[len(case.shape)]
    for who in ("PyTorch", "tconv"):
        for format_name, layout in formats.items():
            model = copy.deepcopy(plain).to(memory_format=layout)
            if who == "tconv":
                tconv.torch.accelerate(model)
            inside = Inside(model)
            given = x.contiguous(memory_format=layout)
            run = _training(model) if case.trains else model

            def call(run: Any = run, inside: Inside = inside, given: Tensor = given) -> Tensor:
                inside.calls.append(0.0)
                return run(given)

            yield f"{who}, {format_name}", call, inside
    if compiles:
        # Models of one class share what was compiled, of which a few are kept.
        torch._dynamo.reset()
        torch._inductor.config.freezing = not case.trains
        for name in _COMPILED:
            model = copy.deepcopy(plain)
            if name == "torch.compile, accelerated":
                tconv.torch.accelerate(model)
            compiled = torch.compile(model)
            run = _training(compiled) if case.trains else compiled
            yield name, lambda run=run: run(x), None


def measure(case: Case, threads: int, seconds: float, compiles: bool) -> dict[str, Any]:
    """Time one model every way."""
    torch.set_num_threads(threads)
    with torch.set_grad_enabled(case.trains):
        ways = list(_ways(case, compiles))
        outputs = {name: run() for name, run, _ in ways}
        expected = outputs["PyTorch, contiguous"]
        for name, found in outputs.items():
            error = float((found - expected).abs().max() / expected.abs().max())
            if error > _LARGEST_ERROR:
                raise SystemExit(f"{case.name}: {name} is off by {error:.1e} of the largest value")
        for _, run, _ in ways:
            run()
        warm = {name: len(inside.calls) for name, _, inside in ways if inside is not None}
        turns: dict[str, list[list[float]]] = {name: [] for name, _, _ in ways}
        for turn in range(_TURNS):
            for name, run, _ in ways:
                cold = turn == 0 or turns[name][-1][-1] < _QUICK
                turns[name].append(take_turn(run, seconds / _TURNS, cold=cold))
    within = {
        name: statistics.median(inside.calls[warm[name] :]) * 1e3 for name, _, inside in ways if inside is not None
    }
    whole = {name: summary([time for times in turns[name] for time in times]) for name in turns}
    best = {
        who: min((name for name in whole if who in name), key=lambda name: whole[name]["median"])
        for who in ("PyTorch", "tconv")
    }
    pairs = {"eager": (best["PyTorch"], best["tconv"])}
    if compiles:
        pairs |= {"torch.compile": ("torch.compile", best["tconv"]), "both by torch.compile": _COMPILED}
    least = {who: min(value for name, value in within.items() if who in name) for who in ("PyTorch", "tconv")}
    return {
        "model": case.name,
        "threads": threads,
        "whole": whole,
        "inside": within,
        "best": best,
        "ratio": {name: _ratio(turns[peer], turns[ours]) for name, (peer, ours) in pairs.items()},
        # In training, hooks see the forward pass alone.
        "ratio_inside": least["PyTorch"] / least["tconv"],
    }


def _ratio(peer: list[list[float]], ours: list[list[float]]) -> dict[str, float]:
    """Return median and quartiles of the ratios of turns."""
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(peer, ours)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def _print(row: dict[str, Any]) -> None:
    print(f"{row['model']}, {row['threads']} threads")
    for name, found in row["whole"].items():
        inside = f", {row['inside'][name]:8.2f} inside" if name in row["inside"] else ""
        print(f"  {name:26} {found['median']:9.2f} ms ({found['low']:.2f} to {found['high']:.2f}){inside}")
    ratios = ", ".join(
        f"{name} x{value['median']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
        for name, value in row["ratio"].items()
    )
    print(f"  {ratios}, inside x{row['ratio_inside']:.2f}", flush=True)


def _write(path: Path, kind: str, row: dict[str, Any]) -> None:
    """Put a row of `rows` or `lengths` in the place of the one it replaces."""
    kept: dict[str, Any] = {"rows": [], "lengths": []}
    if path.exists():
        kept |= json.loads(path.read_text(encoding="utf-8"))
    order = [case.name for case in CASES]

    def key(row: dict[str, Any]) -> tuple[int, int]:
        return row["threads"], order.index(row["model"]) if "model" in row else 0

    row["date"] = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    kept[kind] = sorted([row, *(r for r in kept[kind] if key(r) != key(row))], key=key)
    document = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": {"tconv": tconv.__version__, "torch": torch.__version__},
        "turns": _TURNS,
        "lengths": kept["lengths"],
        "rows": kept["rows"],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def measure_lengths(threads: int) -> dict[str, Any]:
    """Time a vocoder on spectrograms of many lengths, each met for the first time and then again."""
    torch.manual_seed(0)
    models = {"PyTorch": vocoder.Generator(channels=256).eval()}
    models["tconv"] = copy.deepcopy(models["PyTorch"])
    tconv.torch.accelerate(models["tconv"])
    inside = {who: Inside(model) for who, model in models.items()}
    lengths = random.Random(0).sample(range(100, 100 + 4 * _LENGTHS), _LENGTHS)
    visits = ("first", "again")
    whole: dict[str, dict[str, list[float]]] = {who: {visit: [] for visit in visits} for who in models}
    new: dict[str, list[float]] = {who: [] for who in models}
    with torch.no_grad():
        for frames in (99, 99, 99, *lengths):
            x = torch.randn(1, vocoder.BANDS, frames)
            for visit in visits:
                for who, model in models.items():
                    inside[who].calls.append(0.0)
                    started = time.perf_counter()
                    model(x)
                    whole[who][visit].append((time.perf_counter() - started) / frames)
            for who in models:
                first, again = inside[who].calls[-2:]
                new[who].append(first - again)
    measured = {who: {visit: whole[who][visit][-_LENGTHS:] for visit in visits} for who in models}
    return {
        "threads": threads,
        "lengths": [min(lengths), max(lengths)],
        "count": _LENGTHS,
        "milliseconds a frame": {
            who: {visit: statistics.median(times) * 1e3 for visit, times in measured[who].items()} for who in models
        },
        "slowest": {
            who: {visit: max(times) / statistics.median(times) for visit, times in measured[who].items()}
            for who in models
        },
        "milliseconds of a new length inside": {
            who: statistics.median(times[-_LENGTHS:]) * 1e3 for who, times in new.items()
        },
    }


def _print_lengths(row: dict[str, Any]) -> None:
    low, high = row["lengths"]
    print(f"vocoder at {row['count']} lengths from {low} to {high} frames, {row['threads']} threads")
    for who, slowest in row["slowest"].items():
        each = row["milliseconds a frame"][who]
        print(
            f"  {who:8} first {each['first']:.3f} ms a frame, slowest x{slowest['first']:.2f}; "
            f"again {each['again']:.3f}, x{slowest['again']:.2f}; "
            f"new lengths cost {row['milliseconds of a new length inside'][who]:.3f} ms inside"
        )


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--match", default="", help="time models whose name matches this regular expression")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each way of running each model")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--lengths", action="store_true", help=f"instead, time a vocoder at {_LENGTHS} lengths")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pin(options.threads)
    torch.set_num_threads(options.threads)
    if options.lengths:
        row = measure_lengths(options.threads)
        _print_lengths(row)
        if options.json:
            _write(options.json, "lengths", row)
        return
    for case in CASES:
        if re.search(options.match, case.name, re.IGNORECASE):
            row = measure(case, options.threads, options.seconds, not options.no_compile)
            _print(row)
            if options.json:
                _write(options.json, "rows", row)


if __name__ == "__main__":
    main()
