"""Record what the scripts of `tests/scripts` return under MXNet 1.9.1, for `tests/test_scripts.py`.

Run in an environment with MXNet 1.9.1: `python tests/oracle/record_scripts.py`. It writes
`tests/golden/scripts.json`.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path

TESTS = Path(__file__).parent.parent

if __name__ == "__main__":
    found = {path.stem: runpy.run_path(str(path))["main"]() for path in sorted((TESTS / "scripts").glob("*.py"))}
    (TESTS / "golden" / "scripts.json").write_text(json.dumps(found, indent=1) + "\n")
