"""Timing several ways of doing one thing, turn by turn, on cores of their own."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

TURNS = 3
_REST = 2e-3
_QUICK = 20e-3
_HOPELESS = 4.0


def pin(threads: int) -> None:
    """Leave this process and its libraries as many cores as threads; stop it if there are fewer."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < threads:
        raise SystemExit(f"--threads: got {threads}; this process may use {len(cores)} cores")
    os.sched_setaffinity(0, cores[:threads])


Clock = Callable[[], float]


def time_in_turn(
    runs: Mapping[str, Callable[[], Any]], seconds: float, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of each call by `clock`, every way having `seconds` in all, cut into turns.

    A way that is quick is called once more at the start of its turn, unmeasured, as a loop would find the caches.
    One that is more than four times slower than the best has its first turn only.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS):
        best = min((min(values) for values in times.values() if values), default=0.0)
        for name, run in runs.items():
            if turn and min(times[name]) > _HOPELESS * best:
                continue
            cold = turn == 0 or times[name][-1] < _QUICK
            times[name] += take_turn(run, seconds / TURNS, cold=cold, clock=clock)
    return times


def take_turn(
    run: Callable[[], Any], seconds: float, *, cold: bool, clock: Clock = time.perf_counter
) -> list[float]:
    """Return what each call within `seconds` takes, at least one; if `cold`, after one that is not counted."""
    time.sleep(_REST)  # until the threads of the one before have stopped spinning
    times = []
    end = time.perf_counter() + seconds
    if cold:
        run()
    while True:
        before = clock()
        run()
        times.append(clock() - before)
        if time.perf_counter() >= end:
            return times


def summary(times: list[float]) -> dict[str, float]:
    """Return median and quartiles in milliseconds, and the number of calls."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": middle * 1e3, "low": low * 1e3, "high": high * 1e3, "calls": len(times)}
