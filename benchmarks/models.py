"""Time the public models in ../shared/models against MXNet 1.9.1, in two processes that take turns.

    python benchmarks/models.py --mxnet MXNETS_PYTHON --json benchmarks/results/models.json

Both sides run `model_worker.py`, on the same number of threads and the same cores; MXNet uses oneDNN. Outputs are
compared first. Models that a run leaves out stay in the JSON file; `--table` writes it as the table of
docs/models.md. Run it on cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import tconv
from timing import summary

ROOT = Path(__file__).parent.parent
FOLDER = ROOT.parent / "shared" / "models"
PAGE = ROOT / "docs" / "models.md"
_LARGEST_ERROR = 1e-3
_LEAST_TURNS = 2
_SLOW = 2.0
_REST = 0.1

_IMAGE, _LUMA = [1, 3, 512, 512], [1, 1, 512, 512]
SIZES: dict[str, dict[str, list[int]]] = {
    "conv_autoencoder_mnist": {"data": [16, 1, 28, 28]},
    # A pass over 512 x 512 takes half a minute.
    "dbpn_2x": {"data": [1, 3, 256, 256]},
    "ees_2x": {"data": _LUMA},
    "fcn8s_vgg16": {"data": [1, 3, 480, 640]},
    "idn_2x": {"data": _LUMA},
    "igan_celeba_generator": {"latent_vector": [16, 100, 1, 1]},
    "lapsrn_2x": {"data": _LUMA},
    # Its graph crops to this size.
    "neural_style_gen_v3": {"g0_data": [16, 3, 64, 96]},
    "noise2noise_unet": {"data": _IMAGE},
    "sesr_2x": {"data": _LUMA},
    "simple_pose_resnet18": {"data": [1, 3, 256, 192]},
    "ssh_vgg16_face": {"data": [1, 3, 480, 640]},
    "tinyface_hr101": {"data": [1, 3, 480, 640]},
    "tscn_x4": {"data": _LUMA},
    "vaegan_generator": {"rand": [16, 100, 1, 1]},
    "waifu2x_upconv7": {"data": _IMAGE},
}
# oneDNN in MXNet refuses target_shape.
WITHOUT_ONEDNN = ("vaegan_generator",)


class Worker:
    """A process that runs one model."""

    def __init__(self, python: str, library: str, model: str, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src") if library == "tconv" else ""}
        if model in WITHOUT_ONEDNN:
            environment["MXNET_MKLDNN_ENABLED"] = "0"
        worker = str(Path(__file__).with_name("model_worker.py"))
        arguments = [library, str(FOLDER / model), json.dumps(SIZES[model]), str(threads)]
        self._process = subprocess.Popen(
            [python, worker, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.version = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._process.args)}: ended")  # type: ignore[arg-type]
        return line.strip()

    def ask(self, line: str) -> float:
        """Have one pass run and return its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def halt(self) -> None:
        """Stop the process, whose threads may spin for the next work."""
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let the process go on."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """End the process."""
        self.wake()
        self._process.communicate()


def _agree(sides: dict[str, Worker]) -> tuple[float, dict[str, float]]:
    """Return the largest difference, relative to the largest output, and the seconds of a pass of each."""
    arrays, first = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, side in sides.items():
            file = f"{folder}/{name}.npz"
            side.wake()
            first[name] = side.ask(f"save {file}")
            if first[name] < _SLOW:  # the first pass has packed the weights
                first[name] = side.ask("run")
            side.halt()
            with np.load(file) as saved:
                arrays[name] = [saved[key] for key in saved]
    ours, theirs = arrays.values()
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs)), first


def measure(model: str, pythons: dict[str, str], threads: int, seconds: float) -> dict[str, Any]:
    """Time one model."""
    sides = {library: Worker(python, library, model, threads) for library, python in pythons.items()}
    difference, first = _agree(sides)
    if not difference < _LARGEST_ERROR:
        raise SystemExit(f"{model}: the outputs differ by {difference:.1e} of the largest")
    times: dict[str, list[float]] = {name: [] for name in sides}
    while sum(map(sum, times.values())) < seconds or len(times["tconv"]) < _LEAST_TURNS:
        for name, side in sides.items():
            # Small models several times a turn, the first unmeasured, as a loop would find the caches.
            quick = first[name] < seconds / 20
            time.sleep(_REST)
            side.wake()
            if quick:
                side.ask("run")
            times[name] += [side.ask("run") for _ in range(4 if quick else 1)]
            side.halt()
    for side in sides.values():
        side.end()
    found = {name: summary(values) for name, values in times.items()}
    return {
        "model": model,
        "shapes": SIZES[model],
        "threads": threads,
        "onednn": model not in WITHOUT_ONEDNN,
        "versions": {name: side.version for name, side in sides.items()},
        "difference": difference,
        "times_ms": found,
        "speedup": found["mxnet"]["median"] / found["tconv"]["median"],
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    lines = ["| model | input | MXNet 1.9.1, ms | tconv, ms | faster |", "| --- | --- | ---: | ---: | ---: |"]
    for row in sorted(rows, key=lambda row: str(row["model"])):
        (shape,) = row["shapes"].values()
        ours, theirs = (row["times_ms"][name]["median"] for name in ("tconv", "mxnet"))
        mark = "" if row["onednn"] else " [^onednn]"
        size = " x ".join(map(str, shape))
        lines.append(f"| {row['model']}{mark} | {size} | {theirs:.1f} | {ours:.1f} | {row['speedup']:.2f} x |")
    mean = statistics.geometric_mean(row["speedup"] for row in rows)
    lines.append(f"| geometric mean of {len(rows)} | | | | **{mean:.2f} x** |")
    return "\n".join(lines)


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mxnet", help="a Python interpreter that has MXNet 1.9.1")
    parser.add_argument("--match", default=".", help="only models whose name this pattern is found in")
    parser.add_argument("--threads", type=int, default=tconv.knobs.read("threads") or os.cpu_count())
    parser.add_argument("--seconds", type=float, default=10, help="for each model")
    parser.add_argument("--json", type=Path, help="file to keep results in")
    parser.add_argument("--table", action="store_true", help="write the results kept in --json into docs/models.md")
    options = parser.parse_args()
    kept = {}
    if options.json and options.json.exists():
        kept = {row["model"]: row for row in json.loads(options.json.read_text())}
    if options.mxnet:
        for model in SIZES:
            if re.search(options.match, model):
                row = measure(
                    model, {"tconv": sys.executable, "mxnet": options.mxnet}, options.threads, options.seconds
                )
                kept[model] = row
                ours, theirs = (row["times_ms"][name]["median"] for name in ("tconv", "mxnet"))
                print(
                    f"{model:24s} MXNet {theirs:9.1f} ms  tconv {ours:9.1f} ms  {row['speedup']:.2f} x", flush=True
                )
                if options.json:
                    options.json.write_text(json.dumps(list(kept.values()), indent=1) + "\n")
    rows = list(kept.values())
    if options.table:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- table -->\n")
        after = rest.partition("<!-- end -->")[2]
        PAGE.write_text(f"{before}<!-- table -->\n\n{table(rows)}\n\n<!-- end -->{after}", encoding="utf-8")
    elif rows:
        print(f"geometric mean {statistics.geometric_mean(row['speedup'] for row in rows):.2f} x of {len(rows)}")


if __name__ == "__main__":
    main()
