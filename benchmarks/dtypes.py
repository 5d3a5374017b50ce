"""Time the layers of tests/problems/layers.txt in every element type, in one run, turn by turn.

    python benchmarks/dtypes.py --json benchmarks/results/dtypes.json

Weights prepared, in each layout. Every result is checked against float64. Rows that a run leaves out stay in the
JSON file. Run it on cores that nothing else uses. More memory of outputs is kept than by default, for those of four
element types together are larger than what a caller has, and each type would have its pages anew at every turn.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
os.environ.setdefault("TCONV_KEPT_OUTPUTS", "1024")

import tconv
from layers import LARGEST_ERROR, PASSES, check, expected_of, ours_of, problems
from peers.layer import Layer
from problem_list import Problem, load
from tconv.tuning import processor
from timing import pin, summary, time_in_turn

MODES = ("prepared", "channel-last")
DTYPES = tuple(LARGEST_ERROR)
BASE = "float32"


def measure(problem: Problem, threads: int, seconds: float) -> dict[str, Any]:
    """Time one layer."""
    runs, plans = {}, {}
    for dtype in DTYPES:
        layer = Layer(problem.name, problem.geometry, dtype)
        ways, plans[dtype] = ours_of(layer, PASSES[0], threads)
        expected = expected_of(layer, PASSES[0])
        for mode in MODES:
            check(f"{layer.name}: {mode}, {dtype}", ways[mode], expected, LARGEST_ERROR[dtype])
            runs[mode, dtype] = ways[mode].run
    milliseconds: dict[str, dict[str, Any]] = {}
    for mode in MODES:
        # Each layout on its own, or the weights of one would drive out those of the other.
        times = time_in_turn({dtype: runs[mode, dtype] for dtype in DTYPES}, seconds)
        milliseconds[mode] = {dtype: summary(values) for dtype, values in times.items()}
    return {
        "layer": problem.name,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "threads": threads,
        "milliseconds": milliseconds,
        "plans": plans,
    }


def speeds(row: dict[str, Any], mode: str) -> dict[str, float]:
    """Return how fast each other element type is, over float32."""
    medians = {dtype: times["median"] for dtype, times in row["milliseconds"][mode].items()}
    return {dtype: medians[BASE] / median for dtype, median in medians.items() if dtype != BASE}


def _print(row: dict[str, Any]) -> None:
    for mode in MODES:
        found = ", ".join(f"{dtype} x{speed:.2f}" for dtype, speed in speeds(row, mode).items())
        print(f"{row['layer']}, {mode}: {row['milliseconds'][mode][BASE]['median']:.3f} ms, {found}", flush=True)


def _print_means(rows: list[dict[str, Any]]) -> None:
    for mode in MODES:
        for dtype in DTYPES:
            if dtype == BASE:
                continue
            found = {row["layer"]: speeds(row, mode)[dtype] for row in rows}
            least = min(found, key=found.__getitem__)
            mean = statistics.geometric_mean(found.values())
            print(f"{mode}, {dtype}: geometric mean x{mean:.2f}, least x{found[least]:.2f} ({least})")


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Put the rows into the file, in place of those of the same layer and threads."""
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    kept = {(row["threads"], row["layer"]): row for row in [*before, *rows]}
    order = [problem.name for problem in load("layers")]
    document = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "tconv": tconv.__version__,
        "rows": sorted(kept.values(), key=lambda row: (row["threads"], order.index(row["layer"]))),
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--match", default="", help="time layers whose name matches this regular expression")
    parser.add_argument("--slice", default="1/1", help="I/N: of N parts of the list, time the I-th")
    parser.add_argument("--seconds", type=float, default=0.1, help="for each element type, layer and layout")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pin(options.threads)
    rows = []
    for problem in problems("layers", options.match, options.slice):
        rows.append(measure(problem, options.threads, options.seconds))
        _print(rows[-1])
        if options.json:
            _write(options.json, rows[-1:])
    if rows:
        _print_means(rows)


if __name__ == "__main__":
    main()
