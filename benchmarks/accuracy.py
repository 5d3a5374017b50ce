"""How far each algorithm is from float64 on the layers of `tests/problems/layers.txt`, forward in float32.

Prints one line a layer and algorithm: the largest error over the largest value, and that over the error of
`direct`, which computes by the definition. Ends with the worst of each algorithm.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tconv.backends import native
from tconv.errors import ParameterError
from tconv.geometry import Geometry

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from problem_list import load

_WORKSPACE = 1 << 31

Array = np.ndarray[Any, Any]


def main() -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flops", type=float, default=1e9, help="shrink layers to about so many operations")
    parser.add_argument("--match", default="", help="only layers whose name holds this text")
    options = parser.parse_args()
    worst: dict[str, tuple[float, float]] = {}
    for problem in load("layers"):
        if options.match not in problem.name:
            continue
        geometry = problem.shrunk(int(options.flops))
        rng = np.random.default_rng(0)
        x = rng.standard_normal(geometry.small_shape)
        w = rng.standard_normal(geometry.weight_shape)
        exact = _run(geometry, "direct", x.astype("f").astype("d"), w.astype("f").astype("d"))
        errors = {}
        for algorithm in native._core.algorithms():
            try:
                found = _run(geometry, algorithm, x.astype("f"), w.astype("f"))
            except ParameterError:
                continue
            errors[algorithm] = float(np.abs(found - exact).max() / np.abs(exact).max())
        chosen = native.plan_for(
            problem.geometry, native.FORWARD, np.dtype("f"), workspace=_WORKSPACE, packed=True
        ).algorithm
        for algorithm, error in errors.items():
            ratio = error / errors["direct"]
            mark = "*" if algorithm == chosen else " "
            print(f"{problem.name:40s} {mark} {algorithm:16s} {error:9.2e} {ratio:6.2f}", flush=True)
            if algorithm == chosen:
                before = worst.get(algorithm, (0.0, 0.0))
                worst[algorithm] = max(before[0], ratio), max(before[1], error)
    print("\n| algorithm, where it is chosen | error over that of `direct`, worst | of the largest value, worst |")
    print("| --- | --- | --- |")
    for algorithm, (ratio, error) in sorted(worst.items()):
        print(f"| `{algorithm}` | {ratio:.2f} | {error:.1e} |")


def _run(geometry: Geometry, algorithm: str, x: Array, w: Array) -> Array:
    out = np.empty(geometry.large_shape, x.dtype)
    plan = native.plan_for(geometry, native.FORWARD, x.dtype, workspace=_WORKSPACE, algorithm=algorithm)
    plan.run(x, w, None, out)
    return out


if __name__ == "__main__":
    main()
