"""Time layers that nobody chose against PyTorch, to find those that fall off a cliff.

    python benchmarks/cliffs.py --count 200 --seed 1 --json benchmarks/results/cliffs.json

Geometries are drawn at random, in the format of tests/problems/layers.txt: one to three axes, kernels around
multiples of the stride, dense, in groups and depthwise, from 0.2 to 1,000 million operations. Each is checked
against float64, and timed turn by turn as both passes of `layers.py` are; the ratio is PyTorch's time, in the
better of its two memory formats, over tconv's.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import peers
from layers import PASSES, measure, write_run
from peers.layer import Layer
from problem_list import Problem, parse
from tconv.errors import MXNetError
from timing import pin

_SIZES = {1: 8192, 2: 160, 3: 40}  # most positions of an axis
_MAPS = 1024
_FLOPS = (2e5, 1e9)
_BYTES = 1e8


def log_uniform(random: np.random.Generator, most: int) -> int:
    """Return a number from 1 to `most`, as likely to lie between 1 and 2 as between 8 and 16."""
    return round(math.exp(random.uniform(0, math.log(most))))


def _line(random: np.random.Generator) -> str:
    """Return a problem that may be impossible, too large or too small."""
    rank = int(random.choice([1, 2, 2, 2, 3]))
    alike = random.random() < 0.7

    def per_axis(sizes: list[int]) -> list[int]:
        return [int(random.choice(sizes))] * rank if alike else [int(s) for s in random.choice(sizes, rank)]

    stride = per_axis([1, 2, 2, 2, 3, 4] if rank == 3 else [1, 2, 2, 2, 3, 4, 5, 8, 16])
    times, more = random.choice([0.5, 1, 1, 1.5, 2, 2, 2, 3, 4]), random.choice([0, 0, 0, 1, -1])
    kernel = [max(1, int(s * times + more)) for s in stride]
    dilation = 1 if random.random() < 0.9 else int(random.choice([2, 3]))
    style = random.choice(["dense", "dense", "dense", "groups", "depthwise"])
    channels, filters = log_uniform(random, _MAPS), log_uniform(random, _MAPS)
    if random.random() < 0.4:
        channels, filters = (1 << maps.bit_length() - 1 for maps in (channels, filters))
    groups = 1
    if style == "groups":
        groups = int(random.choice([2, 4, 8, 16, 32]))
        channels, filters = (max(1, maps // groups) * groups for maps in (channels, filters))
    elif style == "depthwise":
        groups, filters = channels, channels * int(random.choice([1, 1, 2]))
    sizes = [log_uniform(random, _SIZES[rank]) for _ in range(rank)]
    if alike:
        sizes = sizes[:1] * rank
    reach = [(k - 1) * dilation + 1 for k in kernel]
    padded = random.random() < 0.7
    pad = [max(0, r - s) // 2 if padded else 0 for r, s in zip(reach, stride, strict=True)]
    letters: dict[str, list[int]] = {
        "n": [int(random.choice([1, 1, 1, 2, 4, 16, 64]))],
        "g": [groups],
        "c": [channels],
        "o": [filters],
        "i": sizes,
        "k": kernel,
        "s": stride,
        "d": [dilation],
        "p": pad,
        "a": [0],
    }
    return " ".join(letter + "x".join(map(str, numbers)) for letter, numbers in letters.items())


def draw(random: np.random.Generator) -> Problem:
    """Return a problem of the sizes above, named after itself."""
    while True:
        line = _line(random)
        try:
            problem = parse(f'{line} "{line}"')
        except MXNetError:
            continue
        g = problem.geometry
        elements = math.prod(g.small_shape) + math.prod(g.large_shape) + math.prod(g.weight_shape)
        if _FLOPS[0] <= g.flops <= _FLOPS[1] and 4 * elements <= _BYTES:
            return problem


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=200, help="of layers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.05, help="for each way of computing each layer")
    parser.add_argument("--worst", type=int, default=20, help="of how many layers to tell at the end")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pin(options.threads)
    opponents, absent = peers.load(["pytorch"], options.threads, "float32")
    if absent:
        raise SystemExit("cliffs.py: needs PyTorch")
    random = np.random.default_rng(options.seed)
    rows: list[dict[str, Any]] = []
    told: dict[tuple[str, str], str] = {}
    for number in range(options.count):
        problem = draw(random)
        layer = Layer(problem.name, problem.geometry)
        row: dict[str, Any] = {"layer": problem.name, "ratio": {}}
        for pass_ in PASSES:
            found = measure(layer, pass_, options.threads, opponents, options.seconds)
            for refusal in found["refusals"].values():
                print(refusal)
            row["ratio"].update(found["ratio"])
            times = found["milliseconds"]
            for mode in found["ratio"]:
                peer = found["best peer"][mode]
                told[mode, problem.name] = (
                    f"{peer} {times[peer]['median']:.3f} ms, tconv {times[mode]['median']:.3f} ms by "
                    f"{found['plans'][mode]}"
                )
        rows.append(row)
        line = ", ".join(f"{mode} x{ratio:.2f}" for mode, ratio in row["ratio"].items())
        print(f"{number + 1}/{options.count} {problem.name}: {line}", flush=True)
    for mode in dict.fromkeys(mode for mode, _ in told):
        compared = [row for row in rows if mode in row["ratio"]]
        ratios = [row["ratio"][mode] for row in compared]
        slower = sum(ratio < 1 for ratio in ratios)
        mean = statistics.geometric_mean(ratios)
        print(f"{mode}: geometric mean x{mean:.2f}, {slower} of {len(compared)} slower; worst:")
        for row in sorted(compared, key=lambda row: row["ratio"][mode])[: options.worst]:
            print(f"  x{row['ratio'][mode]:.2f} {row['layer']}: {told[mode, row['layer']]}")
    if options.json:
        write_run(options.json, rows, opponents, threads=options.threads, seed=options.seed)


if __name__ == "__main__":
    main()
