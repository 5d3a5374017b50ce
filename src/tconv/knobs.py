"""The knobs: every setting tconv reads from the environment, each declared in one row."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tconv.errors import ParameterError


@dataclass(frozen=True)
class Knob:
    """One setting: its environment variable is `TCONV_` and the name in capitals."""

    name: str
    type: Callable[[str], Any]
    default: Any
    doc: str

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return f"TCONV_{self.name.upper()}"


MOST_THREADS = 4096
"""Threads that one may ask for."""


def _count(text: str, most: int = 2**31 - 1) -> int:
    value = int(text)
    if not 0 <= value <= most:
        raise ValueError
    return value


_CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "tconv")

KNOBS = {
    knob.name: knob
    for knob in (
        Knob("backend", str, "", "Compute backend to use alone: native or reference; empty for the best."),
        Knob("isa", str, "", "Instruction set of the native kernels, as in avx2 or portable; empty for the best."),
        Knob(
            "threads",
            partial(_count, most=MOST_THREADS),
            0,
            f"Threads of the native backend, at most {MOST_THREADS}; 0 for the cores this process may use.",
        ),
        Knob("kept_outputs", _count, 256, "MB of freed large outputs the native backend keeps for the next."),
        Knob("tuned", str, _CACHE, "Folder that keeps what cudnn_tune has timed; empty to keep nothing."),
        Knob(
            "winograd_points",
            _count,
            7,
            "Most points of a Winograd tile along an axis; with 4 whole numbers come out exact, and layers slower.",
        ),
        Knob("plans", _count, 1024, "Plans the native backend keeps."),
    )
}


def read(name: str) -> Any:
    """Return the value of the knob `name` from the environment, or its default.

    Raises
    ------
    ParameterError
        If the environment holds a text that is no value of the knob.

    Examples
    --------
    >>> from tconv import knobs
    >>> knobs.read("plans")
    1024
    """
    knob = KNOBS[name]
    text = os.environ.get(knob.variable)
    if text is None:
        return knob.default
    try:
        return knob.type(text)
    except ValueError:
        raise ParameterError(f"{knob.variable}: got {text!r}; {knob.doc}") from None
