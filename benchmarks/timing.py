"""Timing several ways of doing one thing, turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

TURNS = 3
_REST = 2e-3
_QUICK = 20e-3
_HOPELESS = 4.0


def time_in_turn(runs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Return the seconds of each call, every way having `seconds` in all, cut into turns.

    A way that is quick is called once more at the start of its turn, unmeasured, as a loop would find the caches.
    One that is more than four times slower than the best has its first turn only.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS):
        best = min((min(values) for values in times.values() if values), default=0.0)
        for name, run in runs.items():
            if turn and min(times[name]) > _HOPELESS * best:
                continue
            times[name] += take_turn(run, seconds / TURNS, cold=turn == 0 or times[name][-1] < _QUICK)
    return times


def take_turn(run: Callable[[], Any], seconds: float, *, cold: bool) -> list[float]:
    """Return the seconds of each call within `seconds`, at least one; if `cold`, after one that is not counted."""
    time.sleep(_REST)  # until the threads of the one before have stopped spinning
    times = []
    end = time.perf_counter() + seconds
    if cold:
        run()
    while True:
        before = time.perf_counter()
        run()
        after = time.perf_counter()
        times.append(after - before)
        if after >= end:
            return times


def summary(times: list[float]) -> dict[str, float]:
    """Return median and quartiles in milliseconds, and the number of calls."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": middle * 1e3, "low": low * 1e3, "high": high * 1e3, "calls": len(times)}
