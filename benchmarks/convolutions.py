"""Time the plain convolutions of tests/problems/convolutions.txt against PyTorch and OpenVINO, turn by turn.

    python benchmarks/convolutions.py --json benchmarks/results/convolutions.json

A convolution is the data gradient of a deconvolution, and computed by it. Layers are timed as those of `layers.py`
are, weights plain in either layout, and every result is checked against float64. The ratio is PyTorch's time, in
the better of its two memory formats, over tconv's; OpenVINO, whose weights are prepared, is timed beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import peers
from layers import measure, print_means, print_row, problems, write_run
from peers.layer import Layer
from timing import pin


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--match", default="", help="time layers whose name matches this regular expression")
    parser.add_argument("--slice", default="1/1", help="I/N: of N parts of the list, time the I-th")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each way of computing each layer")
    parser.add_argument("--peers", nargs="*", choices=("pytorch", "openvino"), default=("pytorch", "openvino"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pin(options.threads)
    opponents, absent = peers.load(options.peers, options.threads)
    for file, reason in absent.items():
        print(f"{file}: absent ({reason})")
    rows = []
    for problem in problems("convolutions", options.match, options.slice):
        layer = Layer(problem.name, problem.geometry)
        rows.append(measure(layer, "convolution", options.threads, opponents, options.seconds))
        print_row(rows[-1])
    if rows:
        print_means(rows)
    if options.json:
        write_run(options.json, rows, opponents, threads=options.threads)


if __name__ == "__main__":
    main()
