"""Whether the plan that is chosen for a layer is the fastest of those that could have been."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from peers.layer import Layer
from tconv import _core
from tconv.backends import native
from tconv.errors import ParameterError
from tconv.geometry import Geometry
from timing import time_in_turn

TOLERANCE = 1.05
# Seconds by which the same call differs from run to run: a cache line more or less, and the clock itself.
FLOOR = 0.5e-6
_REPEATS = 3
_HOPELESS = 4
_WORKSPACE = 512 << 20


class Case(NamedTuple):
    """A pass of a layer in one layout, with weights packed beforehand or not."""

    name: str
    geometry: Geometry
    pass_: int
    packed: bool


def cases(layer: Layer) -> Iterator[Case]:
    """Yield everything that plans are made for."""
    for geometry in (layer.geometry, replace(layer.geometry, channels_last=True)):
        layout = ", channel-last" if geometry.channels_last else ""
        yield Case(f"forward, packed{layout}", geometry, native.FORWARD, True)
        yield Case(f"forward{layout}", geometry, native.FORWARD, False)
        yield Case(f"data gradient{layout}", geometry, native.DATA_GRADIENT, False)
        yield Case(f"weight gradient{layout}", geometry, native.WEIGHT_GRADIENT, False)


def _runs(case: Case, threads: int) -> tuple[str, dict[str, Callable[[], Any]]]:
    """Return the algorithm chosen, and those that neither refuse nor are expected to take four times as long."""
    g, dtype = case.geometry, np.dtype(np.float32)
    random = np.random.default_rng(0)
    small, weight, large = (
        random.standard_normal(shape, np.float32) for shape in (g.small_shape, g.weight_shape, g.large_shape)
    )
    source = large if case.pass_ == native.DATA_GRADIENT else small
    second = large if case.pass_ == native.WEIGHT_GRADIENT else weight
    out = np.empty((g.large_shape, g.small_shape, g.weight_shape)[case.pass_], np.float32)

    def plan_of(algorithm: str) -> _core.Plan:
        return native.plan_for(
            g, case.pass_, dtype, workspace=_WORKSPACE, threads=threads, algorithm=algorithm, packed=case.packed
        )

    chosen = plan_of("")
    found: dict[str, Callable[[], Any]] = {}
    for algorithm in _core.algorithms():
        try:
            plan = plan_of(algorithm)
        except ParameterError:
            continue
        if plan.seconds > _HOPELESS * chosen.seconds:
            continue
        operand = plan.pack(weight) if case.packed else second
        found[algorithm] = lambda plan=plan, operand=operand: plan.run(source, operand, None, out)
    return chosen.algorithm, found


def loser(case: Case, threads: int, seconds: float) -> str | None:
    """Return a sentence where another algorithm is more than 5 % faster than the one chosen, however often timed.

    What disturbs a call only makes it longer, so the fastest call of each counts. On one thread, the clock leaves
    out what other processes take of the core.
    """
    chosen, runs = _runs(case, threads)
    clock = time.thread_time if threads == 1 else time.perf_counter
    sentence = None
    for _ in range(_REPEATS):
        least = {name: min(times) for name, times in time_in_turn(runs, seconds, clock).items()}
        best = min(least, key=least.__getitem__)
        if least[chosen] <= max(TOLERANCE * least[best], least[best] + FLOOR):
            return None
        sentence = (
            f"{case.name}: {chosen} takes {least[chosen] * 1e3:.3f} ms, {best} {least[best] * 1e3:.3f} ms, "
            f"x{least[chosen] / least[best]:.2f}"
        )
        runs = {name: runs[name] for name in (chosen, best)}
    return sentence
