"""Training scripts written for MXNet run unchanged, and arrive where they arrive under MXNet 1.9.1."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tconv as mx

TESTS = Path(__file__).parent
SCRIPTS = sorted((TESTS / "scripts").glob("*.py"))
EXPECTED = json.loads((TESTS / "golden" / "scripts.json").read_text())
# Where a script's `import mxnet` and `from mxnet... import` end.
MODULES = {"mxnet": mx, "mxnet.gluon": mx.gluon, "mxnet.gluon.nn": mx.gluon.nn, "mxnet.autograd": mx.autograd}


def assert_alike(path: str, got: Any, expected: Any) -> None:
    """Compare what a script returned, numbers within what training makes of rounding."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_alike(f"{path}.{key}", got[key], value)
    elif isinstance(expected, list):
        assert len(got) == len(expected), path
        for place, value in enumerate(expected):
            assert_alike(f"{path}[{place}]", got[place], value)
    else:
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4, err_msg=path)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert_alike(script.stem, runpy.run_path(str(script))["main"](), EXPECTED[script.stem])
