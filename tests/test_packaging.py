"""What users get: the names, the types marker, and an import that brings in nothing but NumPy."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import tconv

OPERATOR_IN_USE = """
import numpy as np
import tconv as mx
x, w = np.ones((1, 2, 3, 3), np.float32), np.ones((2, 4, 2, 2), np.float32)
tconv_out = mx.deconvolution(x, w, stride=2)
nd_out = mx.nd.Deconvolution(mx.nd.array(x), mx.nd.array(w), kernel=(2, 2), stride=(2, 2), num_filter=4)
up = mx.sym.Deconvolution(mx.sym.Variable("x"), kernel=(2, 2), stride=(2, 2), num_filter=4, name="up")
sym_out = up.eval(ctx=mx.cpu(), x=mx.nd.array(x), up_weight=mx.nd.array(w))[0]
assert (nd_out.asnumpy() == tconv_out).all() and (sym_out.asnumpy() == tconv_out).all()
mx.gluon.nn.Conv2DTranspose(4, 2, in_channels=2).initialize()
"""


def modules_after(code: str) -> list[str]:
    """Return the names of the modules a fresh interpreter holds after `code`."""
    code += "\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names: list[str] = json.loads(done.stdout)
    return names


def test_import_loads_the_operator_and_no_face() -> None:
    loaded = {name.split(".")[1] for name in modules_after("import tconv") if name.startswith("tconv.")}
    operator = {"activations", "api", "dtypes", "engine", "errors", "frameworks", "geometry"}
    assert loaded <= {*operator, "knobs", "padding", "params"}


@pytest.mark.parametrize("code", ["import tconv", OPERATOR_IN_USE], ids=["import", "operator in use"])
def test_nothing_but_numpy_is_loaded(code: str) -> None:
    loaded = {name.split(".")[0] for name in modules_after(code)}
    before = {name.split(".")[0] for name in modules_after("import numpy.random")}
    assert loaded - before - set(sys.stdlib_module_names) <= {"tconv", "nanobind"}


def test_types_are_marked() -> None:
    assert (Path(tconv.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", [name for name in dir(tconv) if not name.startswith("_")])
def test_public_name_is_there_and_documented(name: str) -> None:
    if name == "torch":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    assert inspect.getdoc(getattr(tconv, name))


@pytest.mark.parametrize("face", ["nd", "sym", "autograd", "random", "init", "model", "gluon"])
def test_face_is_documented(face: str) -> None:
    module = getattr(tconv, face)
    public = [name for name in dir(module) if not name.startswith("_")]
    ours = [name for name in public if str(getattr(getattr(module, name), "__module__", "")).startswith("tconv")]
    assert ours
    assert [name for name in ours if not inspect.getdoc(getattr(module, name))] == []


def test_absent_pytorch_is_one_sentence() -> None:
    code = "import sys\nsys.modules['torch'] = None\nimport tconv\ntconv.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = "ImportError: tconv.torch: PyTorch is not installed; install it by: pip install 'tconv[torch]'"
    assert done.stderr.splitlines()[-1] == expected
