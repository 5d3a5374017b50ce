"""Temporary memory: `workspace` is a ceiling that is kept, and memory that cannot be had changes nothing."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from oracles import AMPLE, PASSES, Example, assert_close, by_engine, by_taps, example, solved
from problem_list import FOLDER, Problem, load
from tconv import deconvolution, engine, prepare
from tconv.backends import native
from tconv.errors import MXNetError, OutOfMemoryError
from tconv.geometry import Axis, Geometry

MEGABYTE = 2**20
CORNERS, LAYERS = load("corners"), load("layers")
# Column buffers, packed weights or padded copies of these would each pass 16 MB.
LARGE = [
    problem
    for problem in LAYERS
    if problem.name
    in ("pose head, first", "HiFi-GAN 2", "FSRCNN", "bilinear depthwise", "inverse short-time Fourier transform")
]


@pytest.fixture(autouse=True)
def counters_at_rest() -> Iterator[None]:
    gc.collect()  # what tests before have left in cycles may hold packed weights
    native._core.trim_memory()
    before = native._core.memory_current()
    yield
    native._core.fail_allocation(-1)
    assert native._core.memory_current() == before
    native._core.trim_memory()
    assert native._core.memory_kept() == 0


def peak_of(case: Example, name: str, workspace: int, threads: int | None = None) -> int:
    """Run a pass and return the most temporary bytes it held."""
    out = np.empty(case.shape(name), case.small.dtype)
    at_rest = native._core.memory_current()
    native._core.reset_memory_peak()
    by_engine(name, case, out, workspace=workspace, threads=threads)
    peak: int = native._core.memory_peak() - at_rest
    return peak


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("problem", LAYERS, ids=str)
def test_peak_stays_below_the_ceiling(problem: Problem, dtype: str) -> None:
    case = example(problem.shrunk(1_500_000), dtype, bias=dtype != "float64")
    for name in PASSES:
        for threads in (1, 7):
            ceilings = (0, 1, 1000, 30_000, 100_000, MEGABYTE, 16 * MEGABYTE, 512 * MEGABYTE)
            peaks = [peak_of(case, name, ceiling, threads) for ceiling in ceilings]
            assert all(peak <= ceiling for peak, ceiling in zip(peaks, ceilings)), (name, threads, peaks)


def test_some_problem_uses_what_it_may() -> None:
    """The counters count: most layers take temporary memory where they are given it."""
    used = [peak_of(example(problem.shrunk(1_500_000), "float32"), "forward", MEGABYTE) for problem in LAYERS]
    assert sum(peak > 0 for peak in used) > len(used) / 2


@pytest.mark.parametrize("megabytes", [1, 16, 512])
@pytest.mark.parametrize("problem", LARGE, ids=str)
def test_peak_of_a_large_layer(problem: Problem, megabytes: int) -> None:
    case = example(problem.geometry, "float32", bias=False)
    for name in ("forward", "data_gradient"):
        assert peak_of(case, name, megabytes * MEGABYTE) <= megabytes * MEGABYTE


@pytest.mark.parametrize("ceiling", [0, 1000, 20_000, 60_000, 2**40])
def test_results_are_right_below_any_ceiling(ceiling: int) -> None:
    for problem in CORNERS:
        case, answers = solved(problem.geometry, "float32")
        for name in PASSES:
            for threads in (1, 7):
                got = by_engine(name, case, workspace=ceiling, threads=threads)
                assert_close(name, got, case, *answers[name])


def test_plan_says_what_the_run_takes() -> None:
    for problem in LAYERS:
        case = example(problem.shrunk(500_000), "float32", bias=False)
        for number, name in enumerate(PASSES):
            plan = native.plan_for(case.geometry, number, case.small.dtype, workspace=MEGABYTE)
            assert peak_of(case, name, MEGABYTE) <= plan.workspace_bytes <= MEGABYTE, name


# Sizes of the process, as the system sees them: an array made and touched beforehand costs nothing in the call.
RESIDENT = """
import re, sys
import numpy as np
import tconv
from tconv import engine
sys.path.insert(0, {tests!r})
from oracles import example, by_engine
from problem_list import load

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

problem = next(problem for problem in load("layers") if problem.name == {name!r})
case = example(problem.geometry, "float32", bias=False)
small = example(problem.shrunk(100_000), "float32", bias=False)
for pass_ in ("forward", "data_gradient"):
    by_engine(pass_, small)
    out = np.zeros(case.shape(pass_), np.float32)
    out.fill(1)
    for megabytes in {megabytes}:
        engine.backend_for(case.geometry, out.dtype)._core.trim_memory()
        open("/proc/self/clear_refs", "w").write("5")
        before = status("VmRSS")
        by_engine(pass_, case, out, workspace=megabytes * 2**20)
        print(pass_, megabytes, status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("problem", LARGE, ids=str)
def test_resident_memory_stays_below_the_ceiling(problem: Problem) -> None:
    code = RESIDENT.format(tests=str(FOLDER.parent), name=problem.name, megabytes=(1, 16))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 4
    # Besides the ceiling: stacks of threads, pages of code seen for the first time, what the plan itself takes.
    slack = 3 * MEGABYTE
    for name, megabytes, grown in lines:
        assert int(grown) <= int(megabytes) * MEGABYTE + slack, name


# Memory that cannot be had.


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("problem", [CORNERS[2], CORNERS[3], *LAYERS[::4]], ids=str)
def test_any_failing_allocation_changes_nothing(problem: Problem, threads: int) -> None:
    case = example(problem.shrunk(300_000), "float32")
    inputs = case.map(np.copy)
    for name in PASSES:
        expected = by_engine(name, case, threads=threads)
        for index in range(100):
            out = np.full(case.shape(name), -77.0, np.float32)
            native._core.trim_memory()
            native._core.fail_allocation(index)
            try:
                by_engine(name, case, out, threads=threads)
            except OutOfMemoryError as error:
                assert "memory" in str(error)  # noqa: PT017 (the call that needs no i-th allocation does not raise)
                assert (out == -77).all(), (name, index)
                continue
            finally:
                native._core.fail_allocation(-1)
            assert out.tobytes() == expected.tobytes()
            break
        else:
            raise AssertionError("a hundred allocations in one call")
    for side in ("small", "weight", "large"):
        assert getattr(case, side).tobytes() == getattr(inputs, side).tobytes()


def packing_plan(case: Example, number: int) -> native._core.Plan:
    return native.plan_for(case.geometry, number, case.weight.dtype, workspace=MEGABYTE, packed=True)


def test_failing_allocation_of_packed_weights() -> None:
    case = example(LAYERS[0].shrunk(300_000), "float32")
    weights = engine.Weights(case.weight)
    out = np.full(case.geometry.large_shape, -77.0, np.float32)
    native._core.fail_allocation(0)
    with pytest.raises(OutOfMemoryError):
        engine.forward(case.geometry, case.small, weights, out=out, workspace=MEGABYTE)
    assert (out == -77).all()
    native._core.fail_allocation(-1)
    case = replace(case, large_bias=None)
    got = engine.forward(case.geometry, case.small, weights, workspace=MEGABYTE)
    assert_close("forward", got, case, by_taps("forward", case))
    del weights


@pytest.mark.parametrize("problem", [*CORNERS[2:9], *LAYERS[::3]], ids=str)
def test_kept_weights_serve_instead_of_the_weight(problem: Problem) -> None:
    case = example(problem.shrunk(300_000), "float32")
    for name in ("forward", "data_gradient"):
        source, weight, bias = case.inputs(name)
        weights = engine.Weights(weight)
        for workspace in (0, 10_000, MEGABYTE):
            for threads in (1, 7):
                native._core.reset_memory_peak()
                held = native._core.memory_current()
                got = getattr(engine, name)(
                    case.geometry, source, weights, bias, workspace=workspace, threads=threads
                )
                kept = native._core.memory_current() - held
                assert native._core.memory_peak() - held <= workspace + kept
                assert_close(name, got, case, by_taps(name, case))
        del weights


STARVED = """
import resource, sys, time
import numpy as np
import tconv
import tconv as mx

def grant(more):
    size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))

x, w = np.ones((1, 4, 100, 100), np.float32), np.ones((4, 4, 3, 3), np.float32)
tconv.deconvolution(x, w)
grant(256 * 2**20)
start = time.monotonic()
for stride in (200, 2000, 100_000, 10**8):
    for ask in (
        lambda: tconv.deconvolution(x, w, stride=stride),
        lambda: mx.nd.Deconvolution(x, w, kernel=(3, 3), stride=(stride, stride), num_filter=4),
    ):
        try:
            ask()
        except mx.MXNetError as error:
            assert isinstance(error, MemoryError), error
            print("refused")
assert time.monotonic() - start < 20
assert (x == 1).all() and (w == 1).all()
assert tconv.deconvolution(x, w).shape == (1, 4, 102, 102)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_too_large_a_result_is_refused_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["refused"] * 8


@pytest.mark.parametrize("stride", [2**40, 2**58, 2**61, 2**62, 2**63 - 1])
def test_result_beyond_any_memory(stride: int) -> None:
    x, w = np.ones((1, 1, 3), np.float32), np.ones((1, 1, 2), np.float32)
    with pytest.raises(OutOfMemoryError, match="memory"):
        deconvolution(x, w, stride=stride)
    assert (x == 1).all()


def test_copy_beyond_any_memory() -> None:
    x, w = np.ones((1, 1, 3), np.float32), np.ones((1, 1, 2), np.float32)
    with pytest.raises(OutOfMemoryError, match=r"copy of an input: .* does not fit in memory"):
        prepare(np.broadcast_to(w, (1 << 45, 1, 2)))
    with pytest.raises(OutOfMemoryError, match=r"copy of an input: .* does not fit in memory"):
        deconvolution(np.broadcast_to(x[:, :, :1], (1, 1, 1 << 45)), w, pad=(1 << 44))
    assert (w == 1).all()


@pytest.mark.parametrize("huge", [2**40, 2**50, 2**57, 2**62])
def test_huge_numbers_on_a_small_result(huge: int) -> None:
    """Numbers near the end of 64 bits that leave small arrays: right, or refused, never wrapped."""
    small = {
        "stride": Axis(1, 2, 2, huge, 1, 0, 0, 0),
        "stride, middle cut out": Axis(2, 3, 1, huge, 1, huge - 1, -1, 0),
        "dilation": Axis(3, 3, 1, 1, huge, 0, 0, 0),
        "dilation, middle cut out": Axis(1, 3, 2, 1, huge, huge - 1, -1, 0),
        "all cut off": Axis(1, 3, 1, 1, 1, -huge, huge - 2, 0),
    }
    beside = Axis(3, 5, 3, 1, 1, 0, 0, 0)
    for (what, axis), axes, last, ceiling in product(
        small.items(), (slice(1), slice(2), slice(None, None, -1)), (False, True), (AMPLE, 1 << 62)
    ):
        case = example(Geometry(1, 2, 3, 1, (axis, beside)[axes], channels_last=last), "float64")
        for name in PASSES:
            try:
                got = by_engine(name, case, workspace=ceiling)
            except MXNetError:
                assert huge > 2**50
                continue
            np.testing.assert_allclose(got, by_taps(name, case), rtol=1e-12, err_msg=f"{what}: {name}")


def test_workspace_of_the_bias_gradient_is_none() -> None:
    grad = np.ones((4, 8, 1000), np.float32)
    geometry = Geometry(4, 8, 8, 1, (Axis(1000, 1000, 1, 1, 1, 0, 0, 0),))
    native._core.reset_memory_peak()
    assert (engine.bias_gradient(geometry, grad) == 4000).all()
    assert native._core.memory_peak() == native._core.memory_current()
