"""Damaged and hostile model files load or are refused, in little time and memory; see `hostile_files.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory of a process as Linux does")
def test_files_load_or_are_refused() -> None:
    # Threads of a library for products would count as memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "TCONV_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, HERE / "hostile_files.py"], capture_output=True, text=True, check=False, env=environment
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {found[-1:]}: {done.stderr[-2000:]}"
    assert len(found) >= 500
    wrong = [row for row in found if row[2] not in ("loaded", "refused")]
    assert wrong == []
    # A sentence, not the file.
    assert [row for row in found if len(row[3]) > 1000] == []
    counts = Counter((kind, how) for kind, _, how, _ in found)
    assert all(counts[kind, how] > 20 for kind in ("symbol", "params") for how in ("loaded", "refused")), counts
