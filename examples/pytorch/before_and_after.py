"""Time a PyTorch model before and after `tconv.torch.accelerate`, and see that its outputs agree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import tconv.torch

ROUNDING = 1e-4


def milliseconds(run: Callable[[], Any], times: int = 5) -> float:
    """Return the median time of some calls, after two that do not count."""
    run()
    run()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return 1e3 * statistics.median(found)


def compare(name: str, model: torch.nn.Module, *inputs: torch.Tensor) -> None:
    """Print the times of a model before and after one line; raise if its output changes beyond rounding."""
    model.eval()
    with torch.no_grad():
        expected = model(*inputs)
        before = milliseconds(lambda: model(*inputs))
        report = tconv.torch.accelerate(model)
        found = model(*inputs)
        after = milliseconds(lambda: model(*inputs))
    off = float((found - expected).abs().max() / expected.abs().max())
    print(f"{name}: {tuple(expected.shape)} by {torch.get_num_threads()} threads of PyTorch {torch.__version__}")
    print(f"layers      {len(report.swapped)} swapped, {len(report.kept)} kept")
    print(f"PyTorch     {before:.1f} ms")
    print(f"tconv       {after:.1f} ms, {before / after:.2f} times as fast")
    print(f"difference  {off:.1e} of the largest value")
    assert off < ROUNDING, f"off by {off:.1e}, {ROUNDING:.0e} allowed"
