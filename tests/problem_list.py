"""The problems of `problems/*.txt`, the one list that tests and benchmarks run."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from tconv.geometry import Axis, Geometry, Shape, Window, solve_deconvolution

FOLDER = Path(__file__).parent / "problems"


@dataclass(frozen=True)
class Problem:
    """One line of the list."""

    name: str
    geometry: Geometry

    def shrunk(self, flops: int) -> Geometry:
        """Return the geometry with channels, batch and then sizes halved until `flops` are enough, if it can."""
        geometry, smaller = self.geometry, _smaller(self.geometry)
        while geometry.flops > flops and smaller != geometry:
            geometry, smaller = smaller, _smaller(smaller)
        return geometry

    def __str__(self) -> str:
        return self.name


def _smaller(geometry: Geometry) -> Geometry:
    per_group = geometry.channels // geometry.groups, geometry.filters // geometry.groups
    if max(per_group) >= 16:
        channels, filters = (size // 2 if size == max(per_group) else size for size in per_group)
        return replace(geometry, channels=channels * geometry.groups, filters=filters * geometry.groups)
    if geometry.groups >= 16:
        groups = geometry.groups // 2
        return replace(geometry, groups=groups, channels=per_group[0] * groups, filters=per_group[1] * groups)
    if geometry.batch > 1:
        return replace(geometry, batch=geometry.batch // 2)
    return replace(geometry, axes=tuple(_shorter(axis) for axis in geometry.axes))


def _shorter(axis: Axis) -> Axis:
    size = (axis.size + 1) // 2
    out = axis.out - (axis.size - size) * axis.stride
    return axis._replace(size=size, out=out) if out > 0 else axis


def load(name: str) -> list[Problem]:
    """Read `problems/NAME.txt`."""
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [parse(line) for line in lines if line.strip() and not line.startswith("#")]


def parse(line: str) -> Problem:
    """Read one line."""
    words, name, _ = line.split('"')
    texts = {match[1]: match[2] for match in map(re.compile(r"([a-z])(\S+)").fullmatch, words.split()) if match}
    rank = len(texts["i"].split("x"))

    def sizes(letter: str) -> Shape:
        found = tuple(map(int, texts[letter].split("x")))
        return found * rank if len(found) == 1 else found

    pads = [tuple(map(int, text.split(":"))) for text in texts["p"].split("x")]
    window = Window(
        kernel=sizes("k"),
        stride=sizes("s"),
        dilation=sizes("d"),
        pad=tuple((pad[0], pad[-1]) for pad in (pads * rank if len(pads) == 1 else pads)),
        adj=sizes("a"),
        filters=int(texts["o"]),
        groups=int(texts["g"]),
    )
    data = (int(texts["n"]), int(texts["c"]), *sizes("i"))
    return Problem(name, solve_deconvolution(name, window, data))
