"""Record what MXNet 1.9.1 shows of the symbols in `tests/symbol_cases.py`, for `tests/test_symbol_golden.py`.

Run in an environment with MXNet 1.9.1: `python tests/oracle/record_symbol.py`. It writes
`tests/golden/symbol_graphs.jsonl`, one symbol a line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mxnet as mx

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from symbol_cases import CASES, observe  # noqa: E402

if __name__ == "__main__":
    lines = (json.dumps({"code": case[0], **observe(mx, case)}) for case in CASES)
    (TESTS / "golden" / "symbol_graphs.jsonl").write_text("\n".join(lines) + "\n")
