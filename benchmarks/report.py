"""Write docs/benchmarks.md and its picture from what `layers.py`, and those of SECTIONS beside it, found.

python benchmarks/report.py benchmarks/results/layers.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import dtypes
from peers import FILES
from problem_list import load

Row = dict[str, Any]

DOCS = Path(__file__).parent.parent / "docs"
MODES = {
    "prepared": "weights prepared",
    "one-shot": "one shot, weights plain",
    "channel-last": "channel-last, weights prepared",
    "gradients": "gradients of data, weight and bias",
    "channel-last gradients": "channel-last, gradients of data, weight and bias",
    "convolution": "channel-first",
    "channel-last convolution": "channel-last",
}
# Ways of peers that take and give what one-shot calls do.
_CHANNEL_FIRST = ("PyTorch contiguous", "JAX channel-first")
_WIDE = 128
_SHARED = 1.0  # milliseconds from which a layer should gain from a second thread

INTRODUCTION = """# Benchmarks

Every layer of `tests/problems/layers.txt` against {peers}, all in one process, turn by turn, on the same cores,
every result checked against float64. A figure is a median; spreads and all ways of every peer are in
[{file}](../{file}). Written by `python benchmarks/report.py {file}`; measured by

```console
{commands}
```

{processor}, {cores} cores, {dates}; {versions}; float32.

Every result of tconv lies in memory of its own; OpenVINO and LiteRT, whose results do not, are not charged for a
copy. Weights prepared and channel-last are compared with the best way of any peer, whatever its layout; one-shot
calls and gradients with the best of those that prepare nothing, PyTorch and JAX, whatever their layout; turning a
channel-first array for those that want it channel-last is not counted. The ratio is the peer's time over
tconv's: above 1, tconv is faster. GFLOP/s count the operations of the direct method, so algorithms that save some
may pass the {peak:.0f} GFLOP/s that the product kernels reach on one core.

![Ratio of each layer](benchmarks.svg)
"""


def _commands(rows: list[Row], path: Path) -> Iterator[str]:
    for pass_, threads in dict.fromkeys((row["pass"], row["threads"]) for row in rows):
        some = [row for row in rows if (row["pass"], row["threads"]) == (pass_, threads)]
        ways = {way.lower().replace(" ", "") for row in some for way in row["milliseconds"]}
        asked = [file for file in FILES if any(way.startswith(file) for way in ways)]
        peers = "" if len(asked) == len(FILES) else f" --peers {' '.join(asked)}"
        options = f"--threads {threads} --pass {pass_}{peers}"
        yield f"$ python benchmarks/layers.py {options} --json {path.as_posix()}"


def _mean(ratios: dict[str, float]) -> str:
    least = min(ratios, key=ratios.__getitem__)
    return f"{statistics.geometric_mean(ratios.values()):.2f} | {ratios[least]:.2f} ({least}) | {len(ratios)}"


def _groups(rows: list[Row]) -> Iterator[tuple[int, str, list[Row]]]:
    """Yield the rows of each number of threads and mode."""
    for mode in MODES:
        for threads in sorted({row["threads"] for row in rows}):
            some = [row for row in rows if row["threads"] == threads and mode in row["ratio"]]
            if some:
                yield threads, mode, some


def _summary(groups: Iterable[tuple[int, str, list[Row]]]) -> Iterator[str]:
    """Yield the lines of the first table."""
    yield "| | threads | geometric mean | least | layers |"
    yield "| --- | --- | --- | --- | --- |"
    for threads, mode, rows in groups:
        yield f"| {MODES[mode]} | {threads} | {_mean({row['layer']: row['ratio'][mode] for row in rows})} |"
        if mode == "one-shot":
            plain = {}
            for row in rows:
                times = {way: spread["median"] for way, spread in row["milliseconds"].items()}
                plain[row["layer"]] = min(times[way] for way in _CHANNEL_FIRST if way in times) / times[mode]
            yield f"| the same against peers that take channel-first arrays too | {threads} | {_mean(plain)} |"


def _table(rows: list[Row], mode: str) -> Iterator[str]:
    yield "| layer | best peer | ms | tconv (ms) | GFLOP/s | ratio | by |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        times, peer = row["milliseconds"], row["best peer"][mode]
        ours = times[mode]["median"]
        # Gradients of data and weight take the operations of the output each.
        flops = row["flops"] * (2 if row["pass"] == "backward" else 1)
        algorithm = row["plans"].get(mode, "").partition(" ")[0]
        yield (
            f"| {row['layer']} | {peer} | {times[peer]['median']:.3f} | {ours:.3f} | {flops / ours / 1e6:.0f} "
            f"| {row['ratio'][mode]:.2f} | {algorithm} |"
        )


def _gains(rows: list[Row]) -> Iterator[str]:
    """Yield the lines about two threads against one."""
    one = {row["layer"]: row for row in rows if row["pass"] == "forward" and row["threads"] == 1}
    two = {row["layer"]: row for row in rows if row["pass"] == "forward" and row["threads"] == 2}
    gains = {}
    for layer in one.keys() & two.keys():
        before, after = (rows[layer]["milliseconds"]["prepared"]["median"] for rows in (one, two))
        if before > _SHARED:
            gains[layer] = before / after
    if gains:
        least = min(gains, key=gains.__getitem__)
        yield "## Two threads against one"
        yield ""
        yield (
            f"Weights prepared, the {len(gains)} layers above {_SHARED:g} ms: geometric mean "
            f"{statistics.geometric_mean(gains.values()):.2f}, least {gains[least]:.2f} ({least})."
        )
        yield ""


def _first_calls(rows: list[Row]) -> Iterator[str]:
    """Yield the lines about calls on shapes not met before."""
    some = [row for row in rows if row["threads"] == 1 and row.get("first call") is not None]
    if not some:
        return
    first, dearest = ({row["layer"]: row[call] for row in some} for call in ("first call", "dearest call"))
    most, worst = (max(times, key=times.__getitem__) for times in (first, dearest))
    yield "## The first call on a new shape"
    yield ""
    yield (
        f"Longer than later ones by {statistics.median(first.values()) * 1e3:.0f} µs (median of the {len(first)} "
        f"layers below 10 ms), at most {first[most]:.1f} ms ({most}); weights prepared, one thread, the last axis "
        "a few positions longer than those met, every call with an array of its own. The longest of the first "
        "twelve calls on any shape, some of which pack a part of the weights, takes "
        f"{dearest[worst]:.0f} ms more ({worst})."
    )
    yield ""


def _shares(rows: list[Row], peak: float) -> Iterator[str]:
    """Yield the lines about how much of the peak dense layers reach."""
    geometries = {problem.name: problem.geometry for problem in load("layers")}
    shares = {}
    for row in rows:
        g = geometries[row["layer"]]
        dense = g.groups == 1 and min(g.channels, g.filters) >= _WIDE
        if dense and row["threads"] == 1 and row["pass"] == "forward":
            shares[row["layer"]] = row["flops"] / row["milliseconds"]["prepared"]["median"] * 1e3 / peak
    if shares:
        least = min(shares, key=shares.__getitem__)
        yield "## Share of the peak"
        yield ""
        yield (
            f"The {len(shares)} layers of {_WIDE} channels and filters or more, weights prepared, one thread, "
            "operations of the direct method over what the product kernels reach: geometric mean "
            f"{statistics.geometric_mean(shares.values()):.2f}, least {shares[least]:.2f} ({least})."
        )
        yield ""


def _cliffs(path: Path) -> Iterator[str]:
    """Yield the section about layers drawn at random."""
    document = json.loads(path.read_text(encoding="utf-8"))
    rows, threads = document["rows"], document["threads"]
    yield "## Layers that nobody chose"
    yield ""
    yield (
        f"{len(rows)} geometries drawn at random, one to three axes, dense, in groups and depthwise, against "
        f"PyTorch {document['versions']['PyTorch']} in the better of its memory formats, {threads} thread"
        f"{'s' if threads > 1 else ''}; {document['date']}, [{path.as_posix()}](../{path.as_posix()}). Turning "
        "arrays for PyTorch's channels_last is not counted. Measured by"
    )
    yield ""
    yield "```console"
    yield (
        f"$ python benchmarks/cliffs.py --count {len(rows)} --seed {document['seed']} --threads {threads} "
        f"--json {path.as_posix()}"
    )
    yield "```"
    yield ""
    yield "| | geometric mean | slower than PyTorch | below half its speed | least |"
    yield "| --- | --- | --- | --- | --- |"
    for mode in dict.fromkeys(mode for row in rows for mode in row["ratio"]):
        ratios = {row["layer"]: row["ratio"][mode] for row in rows if mode in row["ratio"]}
        least = min(ratios, key=ratios.__getitem__)
        slower, half = (sum(ratio < limit for ratio in ratios.values()) for limit in (1, 0.5))
        yield (
            f"| {MODES[mode]} | {statistics.geometric_mean(ratios.values()):.2f} | {slower} | {half} "
            f"| {ratios[least]:.2f} (`{least}`) |"
        )
    yield ""


def _convolutions(path: Path) -> Iterator[str]:
    """Yield the section about plain convolutions: ratios in short and layer by layer."""
    document = json.loads(path.read_text(encoding="utf-8"))
    rows, threads = document["rows"], document["threads"]
    versions = [f"{name} {version}" for name, version in document["versions"].items() if name != "tconv"]
    modes = list(rows[0]["ratio"])
    yield "## Plain convolutions"
    yield ""
    yield (
        f"Every layer of `tests/problems/convolutions.txt`, weights plain, {threads} thread"
        f"{'s' if threads > 1 else ''}, {' and '.join(versions)}; {document['date']}, "
        f"[{path.as_posix()}](../{path.as_posix()}). The ratio is the time of PyTorch, in the better of its memory "
        "formats, over that of tconv. Measured by"
    )
    yield ""
    yield "```console"
    yield f"$ python benchmarks/convolutions.py --threads {threads} --json {path.as_posix()}"
    yield "```"
    yield ""
    yield "| | geometric mean | least | layers |"
    yield "| --- | --- | --- | --- |"
    for mode in modes:
        yield f"| {MODES[mode]} | {_mean({row['layer']: row['ratio'][mode] for row in rows})} |"
    yield ""
    headings = [f"{MODES[mode]} (ms) | ratio | by" for mode in modes]
    yield f"| layer | PyTorch (ms) | OpenVINO, weights prepared (ms) | {' | '.join(headings)} |"
    yield "| --- | --- | --- " + "| --- | --- | --- " * len(modes) + "|"
    for row in rows:
        times = {way: spread["median"] for way, spread in row["milliseconds"].items()}
        openvino = f"{times['OpenVINO']:.3f}" if "OpenVINO" in times else ""
        cells = [
            f"{times[mode]:.3f} | {row['ratio'][mode]:.2f} | {row['plans'][mode].partition(' ')[0]}"
            for mode in modes
        ]
        yield f"| {row['layer']} | {times[row['best peer'][modes[0]]]:.3f} | {openvino} | {' | '.join(cells)} |"
    yield ""


def _plans(path: Path) -> Iterator[str]:
    """Yield the section about the time that plans take to make."""
    document = json.loads(path.read_text(encoding="utf-8"))
    times, longest = document["microseconds"], document["rows"][0]
    yield "## Making a plan"
    yield ""
    yield (
        f"{document['plans']:,} plans of layers drawn at random, with kernels of up to a million taps: median "
        f"{times['median']:.1f} µs, 99 of 100 below {times['99 of 100']:.1f}, longest {times['longest']:.1f} "
        f"(`{longest['layer']}`, {longest['pass'].replace('_', ' ')}); {document['date']}, "
        f"[{path.as_posix()}](../{path.as_posix()}). Measured by"
    )
    yield ""
    yield "```console"
    chosen = f"--count {document['count']} --seed {document['seed']}"
    yield f"$ python benchmarks/plans.py {chosen} --json {path.as_posix()}"
    yield "```"
    yield ""


def _element_types(path: Path) -> Iterator[str]:
    """Yield the section about element types: speeds over float32, in short and layer by layer."""
    document = json.loads(path.read_text(encoding="utf-8"))
    yield "## Element types"
    yield ""
    dates = sorted({row["date"] for row in document["rows"]})
    yield (
        f"Speed over float32 of the same layer, weights prepared, in one process, turn by turn; {dates[-1]}, "
        f"[{path.as_posix()}](../{path.as_posix()}). Products take twice the time in float64, the same in float16 "
        "and half in bfloat16 where they take pairs of it; where memory binds, it is a matter of bytes. 1 GB of "
        "freed outputs is kept for the next, for those of all types in turn outgrow what is kept by default. "
        "Measured by"
    )
    yield ""
    yield "```console"
    for threads in sorted({row["threads"] for row in document["rows"]}):
        yield f"$ python benchmarks/dtypes.py --threads {threads} --json {path.as_posix()}"
    yield "```"
    yield ""
    yield "| | threads | element type | geometric mean | least |"
    yield "| --- | --- | --- | --- | --- |"
    others = [dtype for dtype in dtypes.DTYPES if dtype != dtypes.BASE]
    groups = [
        (threads, mode, [row for row in document["rows"] if row["threads"] == threads])
        for mode in dtypes.MODES
        for threads in sorted({row["threads"] for row in document["rows"]})
    ]
    for threads, mode, rows in groups:
        for dtype in others:
            speeds = {row["layer"]: dtypes.speeds(row, mode)[dtype] for row in rows}
            least = min(speeds, key=speeds.__getitem__)
            mean = statistics.geometric_mean(speeds.values())
            yield f"| {MODES[mode]} | {threads} | {dtype} | {mean:.2f} | {speeds[least]:.2f} ({least}) |"
    yield ""
    for threads in sorted({row["threads"] for row in document["rows"]}):
        yield (
            f"| layer, {threads} thread{'s' if threads > 1 else ''} | "
            + " | ".join(
                f"{dtype}{', channel-last' if mode == 'channel-last' else ''}"
                for mode in dtypes.MODES
                for dtype in others
            )
            + " |"
        )
        yield "| --- " * (1 + len(dtypes.MODES) * len(others)) + "|"
        for row in document["rows"]:
            if row["threads"] == threads:
                cells = [f"{dtypes.speeds(row, mode)[dtype]:.2f}" for mode in dtypes.MODES for dtype in others]
                yield f"| {row['layer']} | " + " | ".join(cells) + " |"
        yield ""


def _picture(rows: list[Row], path: Path) -> None:
    """Draw a bar for each layer with one thread, forward modes beside each other."""
    some = [row for row in rows if row["threads"] == 1 and row["pass"] == "forward"]
    modes = [mode for mode in MODES if some and mode in some[0]["ratio"]]
    figure, axes = pyplot.subplots(figsize=(9, 0.36 * len(some) + 1.4))
    height = 0.8 / len(modes)
    for at, mode in enumerate(modes):
        places = [place + at * height for place in range(len(some))]
        axes.barh(places, [row["ratio"][mode] for row in some], height, label=MODES[mode])
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(some))], [row["layer"] for row in some])
    axes.set_xscale("log")
    ticks = (0.25, 0.5, 1, 2, 4, 8)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("time of the best peer / time of tconv, one thread; right of the line tconv is faster")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.03), ncols=len(modes), frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


SECTIONS = {
    "plans.json": _plans,
    "cliffs.json": _cliffs,
    "convolutions.json": _convolutions,
    "dtypes.json": _element_types,
}


def main() -> None:
    """Write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    path = parser.parse_args().results
    document = json.loads(path.read_text(encoding="utf-8"))
    rows = document["rows"]
    names = list(document["versions"])
    dates = sorted({row["date"] for row in rows})
    page = [
        INTRODUCTION.format(
            commands="\n".join(_commands(rows, path)),
            peers=", ".join(names[1:-1]) + f" and {names[-1]}",
            file=path.as_posix(),
            processor=document["processor"],
            cores=document["cores"],
            dates=dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
            versions=", ".join(" ".join(pair) for pair in document["versions"].items()),
            peak=document["peak"] / 1e9,
        ),
    ]
    groups = list(_groups(rows))
    page += [*_summary(groups), "", *_gains(rows), *_shares(rows, document["peak"]), *_first_calls(rows)]
    for name, section in SECTIONS.items():
        if (beside := path.with_name(name)).exists():
            page += section(beside)
    for threads, mode, some in groups:
        plural = "" if threads == 1 else "s"
        page += [f"## {MODES[mode].capitalize()}, {threads} thread{plural}", "", *_table(some, mode), ""]
    (DOCS / "benchmarks.md").write_text("\n".join(page), encoding="utf-8")
    mpl.rcParams["svg.hashsalt"] = "tconv"
    _picture(rows, DOCS / "benchmarks.svg")


if __name__ == "__main__":
    main()
