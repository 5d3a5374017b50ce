"""Time whole PyTorch models before and after `tconv.torch.accelerate`, in one run, turn by turn.

    python benchmarks/torch_models.py --threads 1 --match vocoder --json benchmarks/results/torch_models.json
    python benchmarks/torch_models.py --lengths
    python benchmarks/torch_models.py --picture docs/pytorch.svg --json benchmarks/results/torch_models.json

The process is pinned to as many cores as it may use threads. Models run eagerly, contiguous and channels-last, as
they are and accelerated, and as they are by torch.compile with frozen weights. The time inside transposed
convolutions is taken by hooks in the same calls. Outputs are checked against each other. Rows that a run leaves out
stay in the JSON file. Run it on cores that nothing else uses.
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
from timing import summary, time_in_turn

_LARGEST_ERROR = 1e-3
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
        torch._inductor.config.freezing = not case.trains
        compiled = torch.compile(copy.deepcopy(plain))
        run = _training(compiled) if case.trains else compiled
        yield "torch.compile", lambda: run(x), None


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
        times = time_in_turn({name: run for name, run, _ in ways}, seconds)
    within = {
        name: statistics.median(inside.calls[warm[name] :]) * 1e3 for name, _, inside in ways if inside is not None
    }
    whole = {name: summary(values) for name, values in times.items()}
    best = {
        who: min((name for name in whole if who in name), key=lambda name: whole[name]["median"])
        for who in ("PyTorch", "tconv")
    }
    ours = whole[best["tconv"]]["median"]
    peers = {name: row["median"] for name, row in whole.items() if "tconv" not in name}
    least = {who: min(value for name, value in within.items() if who in name) for who in ("PyTorch", "tconv")}
    return {
        "model": case.name,
        "threads": threads,
        "whole": whole,
        "inside": within,
        "best": best,
        "ratio": {"eager": peers[best["PyTorch"]] / ours}
        | ({"torch.compile": peers["torch.compile"] / ours} if compiles else {}),
        # In training, hooks see the forward pass alone.
        "ratio_inside": least["PyTorch"] / least["tconv"],
    }


def _print(row: dict[str, Any]) -> None:
    print(f"{row['model']}, {row['threads']} threads")
    for name, found in row["whole"].items():
        inside = f", {row['inside'][name]:8.2f} inside" if name in row["inside"] else ""
        print(f"  {name:24} {found['median']:9.2f} ms ({found['low']:.2f} to {found['high']:.2f}){inside}")
    ratios = ", ".join(f"{name} x{value:.2f}" for name, value in row["ratio"].items())
    print(f"  {ratios}, inside x{row['ratio_inside']:.2f}", flush=True)


def _write(path: Path, row: dict[str, Any]) -> None:
    kept = {}
    if path.exists():
        kept = {(r["threads"], r["model"]): r for r in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    kept[row["threads"], row["model"]] = row
    order = [case.name for case in CASES]
    document = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": {"tconv": tconv.__version__, "torch": torch.__version__},
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "rows": sorted(kept.values(), key=lambda r: (r["threads"], order.index(r["model"]))),
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _lengths(count: int) -> None:
    """Print how evenly a vocoder takes spectrograms of many lengths, each met for the first time."""
    torch.manual_seed(0)
    model = vocoder.Generator(channels=128).eval()
    tconv.torch.accelerate(model)
    lengths = random.Random(0).sample(range(100, 100 + 4 * count), count)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(1, vocoder.BANDS, 99))
        each = []
        for frames in lengths:
            x = torch.randn(1, vocoder.BANDS, frames)
            started = time.perf_counter()
            model(x)
            each.append((time.perf_counter() - started) / frames)
    middle = statistics.median(each)
    print(
        f"vocoder at {count} lengths from {min(lengths)} to {max(lengths)} frames, none met before: "
        f"median {middle * 1e3:.3f} ms a frame, slowest x{max(each) / middle:.2f}"
    )


def _picture(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib import pyplot

    counts = sorted({row["threads"] for row in rows})
    figure, grid = pyplot.subplots(1, len(counts), figsize=(3 + 5 * len(counts), 4.2), sharey=True, squeeze=False)
    axes = grid[0]
    for axis, threads in zip(axes, counts):
        some = [row for row in rows if row["threads"] == threads][::-1]
        for place, row in enumerate(some):
            bars = [
                (row["ratio_inside"], "transposed convolutions", "#1b9e77"),
                (row["ratio"]["eager"], "whole model", "#7570b3"),
            ]
            if "torch.compile" in row["ratio"]:
                bars.append((row["ratio"]["torch.compile"], "whole model, against torch.compile", "#d95f02"))
            for number, (value, label, colour) in enumerate(bars):
                at = place + 0.27 * (1 - number)
                axis.barh(at, value, 0.25, color=colour, label=label if place == 0 else None)
                axis.text(value, at, f" {value:.2f}", va="center", fontsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_yticks(range(len(some)), [row["model"] for row in some], fontsize=8)
        axis.set_title(f"{threads} thread{'s' * (threads > 1)}: times as fast as PyTorch", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _table(rows: list[dict[str, Any]]) -> None:
    """Print the rows as Markdown."""
    print("| model | threads | PyTorch eager (ms) | torch.compile (ms) | accelerated (ms) | eager / accelerated "
          "| compile / accelerated | inside, eager (ms) | inside, accelerated (ms) | inside, ratio |")  # fmt: skip
    print("| --- " * 10 + "|")
    for row in rows:
        whole = {name: found["median"] for name, found in row["whole"].items()}
        inside = {
            who: min(value for name, value in row["inside"].items() if who in name) for who in ("PyTorch", "tconv")
        }
        compiled = whole.get("torch.compile")
        cells = [
            row["model"],
            str(row["threads"]),
            f"{whole[row['best']['PyTorch']]:.1f}",
            "-" if compiled is None else f"{compiled:.1f}",
            f"{whole[row['best']['tconv']]:.1f}",
            f"{row['ratio']['eager']:.2f}",
            "-" if compiled is None else f"{row['ratio']['torch.compile']:.2f}",
            *(f"{inside[who]:.2f}" for who in ("PyTorch", "tconv")),
            f"{row['ratio_inside']:.2f}",
        ]
        print(f"| {' | '.join(cells)} |")
    for threads in sorted({row["threads"] for row in rows}):
        ratios = [r["ratio_inside"] for r in rows if r["threads"] == threads and "training" not in r["model"]]
        print(f"\n{threads} threads, inference: inside x{statistics.geometric_mean(ratios):.2f} (geometric mean)")


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--match", default="", help="time models whose name matches this regular expression")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each way of running each model")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--lengths", action="store_true", help="instead, time a vocoder at 100 lengths")
    parser.add_argument("--picture", type=Path, help="instead, draw what the JSON file holds")
    parser.add_argument("--table", action="store_true", help="instead, print as Markdown what the JSON file holds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.picture or options.table:
        rows = json.loads(options.json.read_text(encoding="utf-8"))["rows"]
        if options.picture:
            _picture(rows, options.picture)
        if options.table:
            _table(rows)
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < options.threads:
        raise SystemExit(f"--threads: got {options.threads}; this process may use {len(cores)} cores")
    os.sched_setaffinity(0, cores[: options.threads])
    torch.set_num_threads(options.threads)
    if options.lengths:
        _lengths(100)
        return
    for case in CASES:
        if re.search(options.match, case.name, re.IGNORECASE):
            row = measure(case, options.threads, options.seconds, not options.no_compile)
            _print(row)
            if options.json:
                _write(options.json, row)


if __name__ == "__main__":
    main()
