"""What was fastest when it was timed, remembered in a file of this processor and version.

The file has one line of JSON for each problem, `["problem", "algorithm"]`, appended in one write. The first line
about a problem counts, so processes that timed it at the same moment go the same way after; a line that does not
parse is passed over. Without a file, what was found lasts as long as the process.
"""

from __future__ import annotations

import json
import os
import platform
from functools import cache
from hashlib import sha256
from pathlib import Path

from tconv import __version__, knobs

_LARGEST = 1 << 22

_known: dict[str, str] = {}


def processor(source: Path = Path("/proc/cpuinfo")) -> str:
    """Return the model of the processor, as far as the system tells; of one of Arm's, its numbers."""
    try:
        lines = source.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        told.setdefault(name.strip(), value.strip())
    machine = platform.processor() or platform.machine()
    numbers = [told[name] for name in ("CPU implementer", "CPU part", "CPU variant") if name in told]
    return told.get("model name") or " ".join([machine, *numbers])


@cache
def _path() -> Path | None:
    folder = os.path.expanduser(knobs.read("tuned"))
    # A user without a home keeps nothing.
    if not folder or folder.startswith("~"):
        return None
    model = sha256(processor().encode()).hexdigest()[:12]
    return Path(folder, f"{__version__}-{model}.jsonl")


def _read() -> None:
    """Add to what is known what the file tells besides."""
    path = _path()
    if path is None:
        return
    try:
        with path.open("rb") as file:
            lines = file.read(_LARGEST + 1).splitlines()
    except OSError:
        return
    for line in lines:
        try:
            problem, algorithm = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        if isinstance(problem, str) and isinstance(algorithm, str):
            _known.setdefault(problem, algorithm)


def recall(problem: str) -> str | None:
    """Return the algorithm found for a problem, or None."""
    if problem not in _known:
        _read()
    return _known.get(problem)


def remember(problem: str, algorithm: str) -> str:
    """Keep the algorithm found for a problem; return the one that counts, which another process may have found."""
    path = _path()
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(file).st_size < _LARGEST:
                    # The line break before ends a line that somebody did not finish.
                    os.write(file, f"\n{json.dumps([problem, algorithm])}\n".encode())
            finally:
                os.close(file)
        except OSError:
            pass
        _read()
    return _known.setdefault(problem, algorithm)
