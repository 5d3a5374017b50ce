"""Time how long it takes to make the plan of a layer that nobody chose, above all of an extreme one.

    python benchmarks/plans.py --count 2000 --seed 1 --json benchmarks/results/plans.json

Geometries are drawn at random, in the format of tests/problems/layers.txt: one to three axes, kernels of up to a
million taps, strides of up to a hundred thousand, dilation, pads, thousands of groups, batches of up to 1000. Each
is planned in its three passes, in either layout, for any element type, weights plain or prepared, and in workspaces
from 64 KB on. The time is the least of several, so it is that of the code, and not of lines of memory that others
have emptied. The arrays of a geometry need no more than a gigabyte; none is made.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tconv
from cliffs import log_uniform
from problem_list import parse
from tconv import _core
from tconv.activations import NONE
from tconv.backends import native
from tconv.dtypes import COMPUTABLE, as_dtype, to_code
from tconv.errors import MXNetError
from tconv.geometry import Geometry
from tconv.tuning import processor
from timing import pin

_BYTES = 1e9
_REPEATS = 5
# By the number of axes, at most along each.
_TAPS = {1: 1 << 20, 2: 2048, 3: 128}
_LONG_STRIDE = {1: 1 << 17, 2: 512, 3: 64}
_STRIDE = {1: 2048, 2: 64, 3: 16}
_SIZE = {1: 20000, 2: 300, 3: 50}


def _line(random: np.random.Generator) -> str:
    """Return a problem that may be impossible or too large."""
    rank = int(random.choice([1, 1, 2, 2, 3]))
    alike = random.random() < 0.6

    def per_axis(low: int, high: int) -> list[int]:
        count = 1 if alike else rank
        return [low - 1 + log_uniform(random, high - low + 1) for _ in range(count)] * (rank // count)

    style = random.choice(["near", "free", "long", "apart", "small"])
    stride = per_axis(1, {"long": 16, "small": 4}.get(style, _STRIDE[rank]))
    if style == "near":
        times, more = random.choice([0.5, 1, 1, 1.5, 2, 2, 3, 4, 7]), random.choice([0, 0, 1, -1])
        kernel = [max(1, int(s * times + more)) for s in stride]
    elif style == "apart":
        stride = per_axis(_STRIDE[rank] // 2, _LONG_STRIDE[rank])
        kernel = [max(1, int(s * random.choice([0.1, 0.5, 1, 1, 2]))) for s in stride]
    else:
        most = {"free": _TAPS[rank] // 8, "long": _TAPS[rank], "small": 9}[style]
        kernel = per_axis(most // 64 if style == "long" else 1, most)
    dilation = [1] * rank
    if random.random() < 0.3:
        dilation = [int(d) for d in random.choice([1, 2, 3, 4, 5, 6, 8, 12, 16, 64], rank)]
    channels, filters = (log_uniform(random, 64 if style == "long" else 4096) for _ in range(2))
    groups = 1
    if (kind := random.random()) < 0.25:
        groups, filters = channels, channels * int(random.choice([1, 1, 1, 2, 4]))
    elif kind < 0.45:
        groups = int(random.choice([2, 4, 8, 32, 100, 1000]))
        channels, filters = (max(1, maps // groups) * groups for maps in (channels, filters))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    pad = [0] * rank
    if random.random() < 0.5:
        pad = [int(random.choice([max(0, r - s) // 2, r // 2, r - 1])) for r, s in zip(reach, stride, strict=True)]
    letters: dict[str, list[int]] = {
        "n": [int(random.choice([1, 1, 1, 2, 3, 16, 64, 1000]))],
        "g": [groups],
        "c": [channels],
        "o": [filters],
        "i": per_axis(1, _SIZE[rank]),
        "k": kernel,
        "s": stride,
        "d": dilation,
        "p": pad,
        "a": [0],
    }
    return " ".join(letter + "x".join(map(str, numbers)) for letter, numbers in letters.items())


def draw(random: np.random.Generator) -> tuple[str, Geometry]:
    """Return a problem whose arrays are not empty, and not too large."""
    while True:
        line = _line(random)
        try:
            g = parse(f'{line} ""').geometry
        except MXNetError:
            continue
        elements = [math.prod(shape) for shape in (g.small_shape, g.large_shape, g.weight_shape)]
        if 0 not in elements and 4 * sum(elements) <= _BYTES:
            return line, g


def measure(line: str, geometry: Geometry, random: np.random.Generator) -> list[dict[str, Any]]:
    """Return the microseconds that plans of a geometry take, a row for each pass."""
    geometry = replace(geometry, channels_last=bool(random.random() < 0.35))
    dtype, prepared = str(random.choice(COMPUTABLE)), bool(random.random() < 0.5)
    workspace = int(random.choice([512 << 20, 512 << 20, 1 << 20, 1 << 16]))
    isa, points, solved = _core.isas()[0], 6, native._solved(geometry)
    rows = []
    for number, name in enumerate(native.PASSES):
        packed = prepared and number != native.WEIGHT_GRADIENT
        least = math.inf
        for _ in range(_REPEATS):
            _core.clear_cache()
            before = time.perf_counter()
            plan = _core.plan(solved, number, to_code(as_dtype(dtype)), workspace, 1, isa, "", packed, NONE, points)
            least = min(least, time.perf_counter() - before)
        rows.append(
            {
                "layer": line,
                "pass": name,
                "dtype": dtype,
                "channels last": geometry.channels_last,
                "prepared": packed,
                "workspace": workspace,
                "algorithm": plan.algorithm,
                "microseconds": least * 1e6,
            }
        )
    return rows


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="of geometries")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worst", type=int, default=20, help="of how many plans to tell at the end")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pin(1)
    random = np.random.default_rng(options.seed)
    rows = [row for _ in range(options.count) for row in measure(*draw(random), random)]
    rows.sort(key=lambda row: -row["microseconds"])
    times = [row["microseconds"] for row in rows]
    median, high = statistics.median(times), statistics.quantiles(times, n=100, method="inclusive")[-1]
    print(
        f"{len(rows)} plans: median {median:.1f} µs, 99 of 100 below {high:.1f}, longest {times[0]:.1f}; longest:"
    )
    for row in rows[: options.worst]:
        words = [row["pass"], row["dtype"], *(["channels last"] if row["channels last"] else [])]
        words += [*(["prepared"] if row["prepared"] else []), f"{row['workspace'] >> 10} KB"]
        print(f"  {row['microseconds']:.1f} {row['layer']}: {', '.join(words)}, by {row['algorithm']}")
    if options.json:
        document = {
            "processor": processor(),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "count": options.count,
            "seed": options.seed,
            "plans": len(rows),
            "versions": {"tconv": tconv.__version__},
            "microseconds": {"median": median, "99 of 100": high, "longest": times[0]},
            "rows": rows[: options.worst],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
