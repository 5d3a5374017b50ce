"""Time the layers of tests/problems/layers.txt against PyTorch eager, both in one run, turn by turn.

    python benchmarks/layers.py [--threads 1 2] [--pass forward] [--match TEXT] [--seconds 0.6] [--json FILE]

A row gives the median milliseconds of PyTorch at its better memory format, of tconv with plain weights and with
prepared ones, every result in fresh memory, and the ratios. Run it on cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from problem_list import Problem, load
from tconv.backends import native
from tconv.geometry import Geometry

WORKSPACE = 512 << 20
Run = Callable[[], Any]


def torch_runs(
    geometry: Geometry, pass_: str, small: np.ndarray, weight: np.ndarray, large: np.ndarray
) -> dict[str, Run]:
    """Return PyTorch's ways of computing a pass, by memory format."""
    axes = geometry.axes
    convolution = getattr(torch, f"conv_transpose{len(axes)}d")
    arguments = {
        "stride": [a.stride for a in axes],
        "padding": [a.pad_lo for a in axes],
        "output_padding": [a.adj for a in axes],
        "groups": geometry.groups,
        "dilation": [a.dilation for a in axes],
    }
    formats = {"contiguous": torch.contiguous_format}
    if len(axes) == 2:
        formats["channels_last"] = torch.channels_last
    if len(axes) == 3:
        formats["channels_last"] = torch.channels_last_3d
    runs: dict[str, Run] = {}
    for name, layout in formats.items():
        x, w, y = (torch.from_numpy(array).contiguous(memory_format=layout) for array in (small, weight, large))
        if pass_ == "forward":
            runs[name] = lambda x=x, w=w: convolution(x, w, **arguments)
        else:
            wanted = [pass_ == "data_gradient", pass_ == "weight_gradient", False]
            order = [arguments[k] for k in ("stride", "padding", "dilation")]
            runs[name] = lambda x=x, w=w, y=y, wanted=wanted, order=order: torch.ops.aten.convolution_backward(
                y, x, w, None, *order, True, arguments["output_padding"], geometry.groups, wanted
            )
    return runs


def tconv_runs(
    geometry: Geometry, pass_: str, small: np.ndarray, weight: np.ndarray, large: np.ndarray, threads: int
) -> dict[str, Run]:
    """Return tconv's: weights packed on each call, and packed once."""
    shape = {"forward": geometry.large_shape, "data_gradient": geometry.small_shape}.get(
        pass_, geometry.weight_shape
    )
    options = {"workspace": WORKSPACE, "threads": threads}
    if pass_ == "weight_gradient":

        def plain() -> np.ndarray:
            out = np.empty(shape, np.float32)
            native.weight_gradient(geometry, small, large, out, **options)
            return out

        return {"plain": plain}
    source = small if pass_ == "forward" else large
    compute = getattr(native, pass_)
    packed = native.KeptWeights(weight)

    def run(weights: Any) -> np.ndarray:
        out = np.empty(shape, np.float32)
        compute(geometry, source, weights, None, out, **options)
        return out

    return {"plain": lambda: run(weight), "prepared": lambda: run(packed)}


def time_in_turn(runs: dict[str, Run], seconds: float, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Time every run again and again, in turn, for `seconds` each, at least three times."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    started = time.perf_counter()
    while len(next(iter(times.values()))) < 3 or time.perf_counter() - started < seconds * len(runs):
        for name, run in runs.items():
            before = clock()
            run()
            times[name].append(clock() - before)
        if len(next(iter(times.values()))) >= 2000:
            break
    return times


def measure(
    problem: Problem, pass_: str, threads: int, seconds: float, clock: Callable[[], float]
) -> dict[str, Any]:
    """Time one layer."""
    geometry = problem.geometry
    generator = np.random.default_rng(0)
    small, weight, large = (
        generator.standard_normal(shape, np.float32)
        for shape in (geometry.small_shape, geometry.weight_shape, geometry.large_shape)
    )
    torch.set_num_threads(threads)
    peers = torch_runs(geometry, pass_, small, weight, large)
    ours = tconv_runs(geometry, pass_, small, weight, large, threads)
    expected = next(iter(peers.values()))()
    if pass_ != "forward":
        expected = expected[0 if pass_ == "data_gradient" else 1]
    largest = float(expected.abs().max())
    for name, run in ours.items():
        error = float(np.abs(run() - expected.numpy()).max()) / largest
        assert error < 1e-4, f"{problem}: {name} is off by {error}"
    times = time_in_turn({**peers, **ours}, seconds, clock)
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    best = min(peers, key=medians.__getitem__)
    number = ("forward", "data_gradient", "weight_gradient").index(pass_)
    plan = native.plan_for(geometry, number, small.dtype, workspace=WORKSPACE, threads=threads)
    return {
        "layer": str(problem),
        "threads": threads,
        "milliseconds": medians,
        "peer": best,
        "ratio": {name: medians[best] / medians[name] for name in ours},
        "gigaflops": {name: geometry.flops / medians[name] / 1e6 for name in (best, *ours)},
        "algorithm": plan.algorithm,
        "kernel": plan.kernel,
    }


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pass", dest="pass_", default="forward")
    parser.add_argument("--list", default="layers")
    parser.add_argument("--match", default="")
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument(
        "--cpu-time", action="store_true", help="of the calling thread, for one thread on a busy machine"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    clock = time.thread_time if options.cpu_time else time.perf_counter
    rows = []
    for threads in options.threads:
        print(f"{options.pass_}, {threads} threads, milliseconds")
        some: list[dict[str, Any]] = []
        for problem in load(options.list):
            if options.match.lower() not in str(problem).lower():
                continue
            row = measure(problem, options.pass_, threads, options.seconds, clock)
            some.append(row)
            ms, ratio, rate = row["milliseconds"], row["ratio"], row["gigaflops"]
            print(
                f"{row['layer']:42.42} torch {ms[row['peer']]:9.3f} ({rate[row['peer']]:5.0f}) "
                + " ".join(f"{name} {ms[name]:9.3f} ({rate[name]:5.0f}) x{ratio[name]:5.2f}" for name in ratio)
                + f" {row['algorithm']} {row['kernel']}",
                flush=True,
            )
        for name in some[0]["ratio"]:
            ratios = [row["ratio"][name] for row in some]
            print(f"{name}: geometric mean x{statistics.geometric_mean(ratios):.2f}, least x{min(ratios):.2f}")
        rows += some
    if options.json:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        }
        options.json.write_text(json.dumps({"machine": machine, "pass": options.pass_, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
