"""The threads of PyTorch, for tconv to compute on.

PyTorch's OpenMP keeps its threads awake for a while after each operator. Threads of another pool would have to wait
for the cores these hold, so tconv's operators run on the very same ones.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from tconv import engine

_LIBRARIES = ("libgomp", "libomp", "libiomp5")


def _loaded() -> list[str]:
    """Return the paths of the OpenMP libraries of this process, PyTorch's own first."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    return sorted(
        (path for path in paths if Path(path).name.startswith(_LIBRARIES)), key=lambda path: "/torch" not in path
    )


def share() -> bool:
    """Let the engine compute on PyTorch's threads; return False where PyTorch's OpenMP cannot be found."""
    for path in _loaded():
        try:
            start = ctypes.CDLL(path).GOMP_parallel
        except (OSError, AttributeError):
            continue
        engine.use_team(ctypes.cast(start, ctypes.c_void_p).value or 0)
        return True
    return False
