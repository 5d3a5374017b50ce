"""The examples for PyTorch run, small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

FOLDER = Path(__file__).parent.parent / "examples" / "pytorch"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vocoder", ["--frames", "3"]),
        ("pose_head", ["--channels", "64", "--layers", "2"]),
        ("unet_3d", ["--size", "8"]),
        ("dcgan", ["--steps", "2", "--batch", "2"]),
    ],
)
def test_example(name: str, arguments: list[str]) -> None:
    command = [sys.executable, "-W", "error", str(FOLDER / f"{name}.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ})
    assert result.returncode == 0, result.stderr
    assert "difference" in result.stdout
