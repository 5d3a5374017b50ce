"""Record what MXNet 1.9.1's gluon shows of the blocks in `tests/gluon_cases.py`, for `tests/test_gluon_layers.py`.

Run in an environment with MXNet 1.9.1: `python tests/oracle/record_gluon.py`. It writes
`tests/golden/gluon.jsonl`, one block a line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mxnet as mx
import numpy as np

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from gluon_cases import CASES, observe  # noqa: E402


def rounded(value):
    """Shorten the floats within `value` to what float32 holds."""
    if isinstance(value, float):
        return float(np.format_float_scientific(np.float32(value)))
    if isinstance(value, list):
        return [rounded(element) for element in value]
    if isinstance(value, dict):
        return {key: rounded(element) for key, element in value.items()}
    return value


if __name__ == "__main__":
    lines = (json.dumps({"block": case, **rounded(observe(mx, case, active=True))}) for case in CASES)
    (TESTS / "golden" / "gluon.jsonl").write_text("\n".join(lines) + "\n")
