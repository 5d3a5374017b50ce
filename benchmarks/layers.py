"""Time the layers of tests/problems/layers.txt against every peer that is installed, in one run, turn by turn.

    python benchmarks/layers.py --threads 1 --json benchmarks/results/layers.json

The process is pinned to as many cores as it may use threads. Every result is checked against float64, and a peer's
way that computes something else is left out. `forward` times tconv with weights prepared, in one shot, and
channel-last, every result in fresh memory; `backward` the gradients of data, weight and bias together, in either
layout. Prepared and channel-last are compared with the best way of any peer, whatever its layout; one-shot and
backward with the best of those that prepare nothing (PyTorch, JAX).
Rows that a run leaves out stay in the JSON file. Run it on cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import dispatch
import peers
import tconv
from peers.layer import Array, Layer, RefusalError, Way, channels_first, channels_last
from problem_list import Problem, load
from tconv import _core
from tconv.backends import native
from tconv.dtypes import to_code
from tconv.tuning import processor
from timing import pin, summary, time_in_turn

PASSES = ("forward", "backward")
LARGEST_ERROR = {"float32": 1e-4, "float64": 1e-12, "float16": 1e-2, "bfloat16": 5e-2}
_LONGEST_FIRST_CALL = 10e-3
_NEW_SHAPES = 9
# Those of ours that are compared only with peers that prepare nothing either.
_UNPREPARED = ("one-shot", "gradients", "channel-last gradients", "convolution", "channel-last convolution")


def _options(layer: Layer) -> dict[str, Any]:
    names = {"stride": "stride", "pad": "pad_lo", "dilate": "dilation", "adj": "adj"}
    found: dict[str, Any] = {name: layer.per_axis(field) for name, field in names.items()}
    return {**found, "num_group": layer.geometry.groups}


def ours_of(layer: Layer, pass_: str, threads: int) -> tuple[dict[str, Way], dict[str, Any]]:
    """Return tconv's ways, and what its plans are."""
    options = {**_options(layer), "threads": threads}
    last = {**options, "layout": "N" + "DHW"[-layer.rank :] + "C"}
    x, w = channels_last(layer.x), channels_last(layer.w)
    if pass_ == "convolution":
        dy = channels_last(layer.dy)
        plans = {
            "convolution": tconv.explain(layer.x, layer.w, **options, gradient="data"),
            "channel-last convolution": tconv.explain(x, w, **last, gradient="data"),
        }
        del options["adj"], last["adj"]
        return {
            "convolution": Way(lambda: tconv.convolution(layer.dy, layer.w, **options), lambda y: (y,)),
            "channel-last convolution": Way(
                lambda: tconv.convolution(dy, w, **last), lambda y: (channels_first(y),)
            ),
        }, {name: f"{plan.algorithm} {plan.kernel}" for name, plan in plans.items()}
    if pass_ == "backward":
        dy = channels_last(layer.dy)
        both = {
            name: [tconv.explain(*arrays, **words, gradient=of).algorithm for of in ("data", "weight")]
            for name, arrays, words in (
                ("gradients", (layer.x, layer.w), options),
                ("channel-last gradients", (x, w), last),
            )
        }
        return {
            "gradients": Way(lambda: tconv.deconvolution_gradients(layer.x, layer.w, layer.dy, **options), tuple),
            "channel-last gradients": Way(
                lambda: tconv.deconvolution_gradients(x, w, dy, **last),
                lambda found: (channels_first(found.data), channels_first(found.weight), found.bias),
            ),
        }, {name: "/".join(algorithms) for name, algorithms in both.items()}
    prepared = tconv.prepare(layer.w, **options)
    prepared_last = tconv.prepare(w, **last)
    plans = {
        "prepared": prepared.explain(layer.x.shape),
        "one-shot": tconv.explain(layer.x, layer.w, **options),
        "channel-last": prepared_last.explain(x.shape),
    }
    return {
        "prepared": Way(lambda: prepared(layer.x), lambda y: (y,)),
        "one-shot": Way(lambda: tconv.deconvolution(layer.x, layer.w, **options), lambda y: (y,)),
        "channel-last": Way(lambda: prepared_last(x), lambda y: (channels_first(y),)),
    }, {name: f"{plan.algorithm} {plan.kernel}" for name, plan in plans.items()}


def expected_of(layer: Layer, pass_: str) -> tuple[Array, ...]:
    """Return the results, computed in float64."""
    x, w, dy = (array.astype(np.float64) for array in (layer.x, layer.w, layer.dy))
    if pass_ == "backward":
        return tuple(tconv.deconvolution_gradients(x, w, dy, **_options(layer)))
    options = _options(layer)
    if pass_ == "convolution":
        del options["adj"]
        return (tconv.convolution(dy, w, **options),)
    return (tconv.deconvolution(x, w, **options),)


def check(name: str, way: Way, expected: Iterable[Array], largest: float) -> float:
    """Return the seconds of one call; raise ValueError where a way computes something else."""
    before = time.perf_counter()
    result = way.run()
    seconds = time.perf_counter() - before
    found = way.read(result)
    for got, wanted in zip(found, expected, strict=True):
        if got.shape != wanted.shape:
            raise ValueError(f"{name}: got shape {got.shape}; need {wanted.shape}")
        error = float(np.abs(got.astype(np.float64) - wanted).max() / np.abs(wanted).max())
        if not error < largest:
            raise ValueError(f"{name}: off by {error:.1e} of the largest value")
    return seconds


def measure(layer: Layer, pass_: str, threads: int, opponents: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Time one layer."""
    ours, plans = ours_of(layer, pass_, threads)
    ways = dict(ours)
    eager, refusals = set(), {}
    for peer, adapter in opponents.items():
        compute = getattr(adapter, pass_, None)
        if compute is None:
            continue
        try:
            found = {f"{peer} {way}".strip(): run for way, run in compute(layer).items()}
        except (RefusalError, RuntimeError) as error:
            refusals[peer] = str(error).strip().splitlines()[0]
            continue
        ways.update(found)
        if hasattr(adapter, "backward"):
            eager.update(found)
    expected = expected_of(layer, pass_)
    largest = LARGEST_ERROR[layer.dtype]
    first = {}
    for name, way in list(ways.items()):
        try:
            first[name] = check(f"{layer.name}: {name}", way, expected, largest)
        except ValueError as error:
            if name in ours:
                raise
            refusals[name] = str(error)
            del ways[name]
            eager.discard(name)
    # Whoever takes more than a second and ten times as long as the best is not asked again.
    longest = max(1.0, 10 * min(first.values()))
    times = {name: [taken] for name, taken in first.items() if taken > longest}
    times.update(time_in_turn({name: way.run for name, way in ways.items() if name not in times}, seconds))
    found = {name: summary(values) for name, values in times.items()}
    best = {}
    for name in ours:
        against = eager if name in _UNPREPARED else ways.keys() - ours.keys()
        best[name] = min(against, key=lambda peer: found[peer]["median"], default=None)
    return {
        "layer": layer.name,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "pass": pass_,
        "threads": threads,
        "flops": layer.geometry.flops,
        "milliseconds": found,
        "best peer": best,
        "ratio": {name: found[peer]["median"] / found[name]["median"] for name, peer in best.items() if peer},
        "plans": plans,
        "refusals": refusals,
    }


def _new_shapes(layer: Layer, row: dict[str, Any]) -> dict[str, float | None]:
    """Return the milliseconds by which calls on new shapes are longer than later ones, weights prepared.

    Those of the first call, a median of several shapes, and those of the longest call of all until weights are
    packed for good. Every call has an array of its own, for one that was read before is nearer to the core,
    whatever its shape.
    """
    # Of layers of which a call takes so long, the difference of two says nothing.
    if row["pass"] != "forward" or row["milliseconds"]["prepared"]["median"] * 1e-3 > _LONGEST_FIRST_CALL:
        return {"first call": None, "dearest call": None}
    prepared = tconv.prepare(layer.w, **_options(layer), threads=row["threads"])
    prepared(layer.x)
    first, dearest = [], []
    for more in range(1, _NEW_SHAPES + 1):
        shape = (*layer.x.shape[:-1], layer.x.shape[-1] + more)
        generator = np.random.default_rng(more)
        times = []
        for _ in range(12):
            x = generator.standard_normal(shape, np.float32).astype(layer.x.dtype, copy=False)
            before = time.perf_counter()
            prepared(x)
            times.append(time.perf_counter() - before)
        later = statistics.median(times[-5:])
        first.append(times[0] - later)
        dearest.append(max(times) - later)
    return {"first call": statistics.median(first) * 1e3, "dearest call": max(dearest) * 1e3}


def print_row(row: dict[str, Any]) -> None:
    parts = []
    for name, peer in row["best peer"].items():
        times = row["milliseconds"]
        against = f"{peer} {times[peer]['median']:.3f} = x{row['ratio'][name]:.2f}" if peer else "no peer"
        parts.append(f"{name} {times[name]['median']:.3f} ms, {against}, {row['plans'].get(name, '')}")
    print(f"{row['layer']}\n  " + "\n  ".join(parts), flush=True)


def print_means(rows: list[dict[str, Any]]) -> None:
    for name in rows[0]["ratio"]:
        ratios = {row["layer"]: row["ratio"][name] for row in rows}
        least = min(ratios, key=ratios.__getitem__)
        mean = statistics.geometric_mean(ratios.values())
        print(f"{name}: geometric mean x{mean:.2f}, least x{ratios[least]:.2f} ({least}), {len(ratios)} layers")


def _write(path: Path, rows: list[dict[str, Any]], versions: dict[str, str]) -> None:
    """Put the rows into the file, in place of those of the same layer, pass and threads."""
    before: dict[str, Any] = {"rows": [], "versions": {}}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
    kept = {(row["pass"], row["threads"], row["layer"]): row for row in before["rows"]}
    kept.update({(row["pass"], row["threads"], row["layer"]): row for row in rows})
    order = [problem.name for problem in load("layers")]
    document = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": {**before["versions"], **versions},
        "peak": native.peak(to_code(np.dtype("float32")), _core.isas()[0]),
        "rows": sorted(
            kept.values(), key=lambda r: (PASSES.index(r["pass"]), r["threads"], order.index(r["layer"]))
        ),
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def write_run(path: Path, rows: list[dict[str, Any]], opponents: dict[str, Any], **settings: int) -> None:
    """Write what one whole run found, and how it was made."""
    document = {
        "processor": processor(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        **settings,
        "versions": {"tconv": tconv.__version__, **{name: peer.version for name, peer in opponents.items()}},
        "rows": rows,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def problems(name: str, match: str, slice_: str) -> Iterator[Problem]:
    """Yield the layers whose name matches, of the I-th of N parts of the list of that name."""
    part, parts = map(int, slice_.split("/"))
    for problem in load(name)[part - 1 :: parts]:
        if re.search(match, problem.name, re.IGNORECASE):
            yield problem


def _assert_best(layers: Iterable[Layer], threads: int, seconds: float) -> None:
    """Print every case where a slower algorithm is chosen, and fail if there is one."""
    losers = 0
    for layer in layers:
        for case in dispatch.cases(layer):
            if sentence := dispatch.loser(case, threads, seconds):
                losers += 1
                print(f"{layer.name}: {sentence}", flush=True)
    if losers:
        raise SystemExit(f"{losers} times a slower algorithm is chosen")


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pass", dest="pass_", choices=PASSES, default=PASSES[0])
    parser.add_argument("--match", default="", help="time layers whose name matches this regular expression")
    parser.add_argument("--dtype", choices=LARGEST_ERROR, default="float32", help="of all arrays")
    parser.add_argument("--slice", default="1/1", help="I/N: of N parts of the list, time the I-th")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each way of computing each layer")
    parser.add_argument("--peers", nargs="*", choices=peers.FILES, default=peers.FILES)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--assert",
        dest="assert_",
        action="store_true",
        help="instead of timing peers, fail where the algorithm chosen is more than 5 %% slower than another",
    )
    options = parser.parse_args()
    if options.json and options.dtype != "float32":
        raise SystemExit("--json: keeps results in float32 only")
    pin(options.threads)
    layers = (
        Layer(problem.name, problem.geometry, options.dtype)
        for problem in problems("layers", options.match, options.slice)
    )
    if options.assert_:
        _assert_best(layers, options.threads, options.seconds)
        return
    opponents, absent = peers.load(options.peers, options.threads, options.dtype)
    for file, reason in absent.items():
        print(f"{file}: absent ({reason})")
    versions = {"tconv": tconv.__version__, **{name: peer.version for name, peer in opponents.items()}}
    print(f"{options.pass_}, threads {options.threads}, " + ", ".join(" ".join(pair) for pair in versions.items()))
    rows = []
    for layer in layers:
        rows.append(measure(layer, options.pass_, options.threads, opponents, options.seconds))
        rows[-1].update(_new_shapes(layer, rows[-1]))
        print_row(rows[-1])
        if options.json:
            _write(options.json, rows[-1:], versions)
    if rows:
        print_means(rows)


if __name__ == "__main__":
    main()
