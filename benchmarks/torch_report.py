"""Write the measurements in docs/pytorch.md and their picture from the results of `torch_models.py`.

python benchmarks/torch_report.py benchmarks/results/torch_models.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot

Row = dict[str, Any]

DOCS = Path(__file__).parent.parent / "docs"
HEADING = "## Measured\n"
RATIOS = {
    "eager": ("whole model, eager", "#7570b3"),
    "torch.compile": ("accelerated eagerly, against torch.compile", "#d95f02"),
    "both by torch.compile": ("whole model, both by torch.compile", "#e7298a"),
}
"""By the name of a ratio in the results, what a bar of the picture is called, and its colour."""

INTRODUCTION = """
Written by `python benchmarks/torch_report.py {file}`; measured by

```console
{commands}
```

{processor}, {cores} cores, {dates}; PyTorch {torch}; float32; every way in one run, turn by turn, each side at its
better memory format. "Compiled" is by torch.compile, with frozen weights in inference. Times are medians; a
ratio is the median of those of {turns}, its quartiles in brackets. "Inside" is the time within transposed
convolutions, by hooks; in the training step these see the forward pass alone.

![Times as fast as PyTorch: transposed convolutions, models, and models against torch.compile](pytorch.svg)
"""

SHARE = """
What a whole model gains is the share of its transposed convolutions: large in heads and generators, next to nothing
where other convolutions do the work, as in the vocoder and the U-Net, whose accelerated times are PyTorch's within
the spread of the measurement. There torch.compile, which fuses those other operators and lays their arrays channels
last, is ahead of an accelerated model that runs eagerly. It does so for an accelerated model too, whose operators
take and give arrays as they then lie.
"""

LENGTHS = """
## Many lengths

A vocoder (256 channels) at {count} lengths from {low} to {high} frames, each met for the first time and then
again, PyTorch's own model and the accelerated one in turn. The slowest call is told as a multiple of the median,
both per frame. The last column is what a first call costs more than a second within transposed convolutions:
planning, and for PyTorch making a primitive; a whole call takes {call:.0f} ms.

| threads | | first (ms a frame) | slowest | again (ms a frame) | slowest | a new length inside (ms) |
| --- | --- | --- | --- | --- | --- | --- |
"""


def _plural(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _table(rows: list[Row]) -> Iterator[str]:
    yield (
        "| model | eager (ms) | accelerated (ms) | compiled (ms) | accelerated, compiled (ms) "
        "| eager / accelerated | compiled / accelerated | compiled / accelerated, compiled "
        "| inside, eager (ms) | inside, accelerated (ms) | inside, ratio |"
    )
    yield "| --- " * 11 + "|"
    for row in rows:
        whole = {name: found["median"] for name, found in row["whole"].items()}
        inside = {
            who: min(value for name, value in row["inside"].items() if who in name) for who in ("PyTorch", "tconv")
        }
        ways = [row["best"]["PyTorch"], row["best"]["tconv"], "torch.compile", "torch.compile, accelerated"]
        cells = [
            row["model"],
            *(f"{whole[way]:.1f}" if way in whole else "-" for way in ways),
            *(_ratio(row["ratio"][name]) if name in row["ratio"] else "-" for name in RATIOS),
            *(f"{inside[who]:.2f}" for who in ("PyTorch", "tconv")),
            f"{row['ratio_inside']:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _models(rows: list[Row]) -> Iterator[str]:
    """Yield a table for each number of threads, and what it comes to."""
    for threads in sorted({row["threads"] for row in rows}):
        some = [row for row in rows if row["threads"] == threads]
        yield f"\n### {_plural(threads).capitalize()}\n"
        yield from _table(some)
        inference = [row for row in some if "training" not in row["model"]]
        inside = statistics.geometric_mean(row["ratio_inside"] for row in inference)
        whole, _, compiled = (
            statistics.geometric_mean(row["ratio"][name]["median"] for row in inference if name in row["ratio"])
            for name in RATIOS
        )
        yield (
            f"\nOver the {len(inference)} models in inference, transposed convolutions take {inside:.2f} times "
            f"less, whole models {whole:.2f} times, and compiled ones {compiled:.2f} times (geometric means)."
        )


def _lengths(rows: list[Row]) -> str:
    low, high = rows[0]["lengths"]
    call = statistics.fmean((low, high)) * rows[0]["milliseconds a frame"]["tconv"]["first"]
    text = LENGTHS.format(count=rows[0]["count"], low=low, high=high, call=call)
    for row in rows:
        for who, name in (("PyTorch", "PyTorch"), ("tconv", "accelerated")):
            each, slowest = row["milliseconds a frame"][who], row["slowest"][who]
            cells = [str(row["threads"]), name]
            for visit in each:
                cells += [f"{each[visit]:.3f}", f"x{slowest[visit]:.2f}"]
            cells.append(f"{row['milliseconds of a new length inside'][who]:.3f}")
            text += f"| {' | '.join(cells)} |\n"
    return text


def _picture(rows: list[Row], path: Path) -> None:
    counts = sorted({row["threads"] for row in rows})
    figure, grid = pyplot.subplots(1, len(counts), figsize=(3 + 5 * len(counts), 6), sharey=True, squeeze=False)
    axes = grid[0]
    for axis, threads in zip(axes, counts):
        some = [row for row in rows if row["threads"] == threads][::-1]
        for place, row in enumerate(some):
            bars = [(row["ratio_inside"], "transposed convolutions", "#1b9e77")]
            bars += [
                (row["ratio"][name]["median"], *drawn) for name, drawn in RATIOS.items() if name in row["ratio"]
            ]
            for number, (value, label, colour) in enumerate(bars):
                at = place + 0.21 * (1.5 - number)
                axis.barh(at, value, 0.2, color=colour, label=label if place == 0 else None)
                axis.text(value, at, f" {value:.2f}", va="center", fontsize=6)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_yticks(range(len(some)), [row["model"] for row in some], fontsize=8)
        axis.set_title(f"{_plural(threads)}: times as fast as PyTorch", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Write the section and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    path = parser.parse_args().results
    document = json.loads(path.read_text(encoding="utf-8"))
    rows, lengths = document["rows"], document["lengths"]
    commands = [
        f"$ python benchmarks/torch_models.py --threads {threads}{option} --json {path.as_posix()}"
        for option, some in (("", rows), (" --lengths", lengths))
        for threads in sorted({row["threads"] for row in some})
    ]
    dates = sorted({row["date"] for row in (*rows, *lengths)})
    text = INTRODUCTION.format(
        file=path.as_posix(),
        commands="\n".join(commands),
        processor=document["processor"],
        cores=document["cores"],
        dates=dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        torch=document["versions"]["torch"],
        turns=f"{document['turns']} turns",
    )
    text += "\n".join(_models(rows)) + "\n" + SHARE + (_lengths(lengths) if lengths else "")
    page = DOCS / "pytorch.md"
    before, _, _ = page.read_text(encoding="utf-8").partition(HEADING)
    page.write_text(before + HEADING + text, encoding="utf-8")
    mpl.rcParams["svg.hashsalt"] = "tconv"
    _picture(rows, DOCS / "pytorch.svg")


if __name__ == "__main__":
    main()
