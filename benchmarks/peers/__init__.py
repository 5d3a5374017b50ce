"""The libraries that tconv is measured against, one file each, imported only where they are wanted.

A file defines `NAME` and `Peer`, and cannot be imported where its library is absent. A peer that takes the weights
anew in each call has `backward` too; one that computes in other types than float32 has their names as `dtypes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

FILES = ("pytorch", "onnxruntime", "openvino", "jax", "litert", "ncnn")


def load(files: Sequence[str], threads: int, dtype: str = "float32") -> tuple[dict[str, Any], dict[str, str]]:
    """Return the peers by name, and of those that are absent the reasons."""
    found: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for file in files:
        try:
            module = import_module(f"peers.{file}")
        except ImportError as error:
            absent[file] = str(error)
        else:
            if dtype in getattr(module.Peer, "dtypes", ("float32",)):
                found[module.NAME] = module.Peer(threads)
            else:
                absent[file] = f"knows no {dtype}"
    return found, absent
