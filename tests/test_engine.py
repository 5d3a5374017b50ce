"""The engine with its native backend: numbers, bits, arrays of every make, and who is chosen."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import (
    AMPLE,
    DTYPES,
    PASSES,
    ROUNDING,
    SUMMING,
    Example,
    assert_close,
    by_backend,
    by_engine,
    by_taps,
    example,
    solved,
)
from problem_list import Problem, load
from strategies import examples
from tconv import engine
from tconv.backends import native, reference
from tconv.dtypes import as_dtype
from tconv.errors import DTypeError
from tconv.geometry import Axis, Geometry

Array = np.ndarray[Any, Any]

CORNERS, LAYERS, CONVOLUTIONS = load("corners"), load("layers"), load("convolutions")


def wide(case: Example) -> Example:
    return case.map(lambda array: array.astype(np.float64))


def same_bits(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def test_native_backend_is_the_first_choice() -> None:
    for problem in CORNERS + LAYERS:
        for dtype in DTYPES:
            assert engine.backend_for(problem.geometry, as_dtype(dtype)) is native


@settings(max_examples=300)
@given(examples(), st.sampled_from([1, 2, 7]))
def test_agrees_with_the_reference(case: Example, threads: int) -> None:
    for name in PASSES:
        expected = by_backend(reference, name, wide(case))
        assert_close(name, by_engine(name, case, threads=threads), case, expected)


def by_exact_tiles(name: str, case: Example) -> Array:
    """Compute without the tiles of Winograd's algorithm that round whole numbers."""
    with patch.object(native, "_winograd_points", 4):
        return by_engine(name, case)


@settings(max_examples=100)
@given(examples(dtypes=("float32", "float64"), whole=3))
def test_whole_numbers_are_exact(case: Example) -> None:
    for name in PASSES:
        np.testing.assert_array_equal(by_exact_tiles(name, case), by_backend(reference, name, case))


@settings(max_examples=150)
@given(examples(whole=2), st.data())
def test_nan_and_infinity_go_where_the_definition_sends_them(case: Example, data: st.DataObject) -> None:
    """Zeros are frequent among the whole numbers, and 0 * inf is NaN; positions nothing reaches stay finite."""

    def strew(array: Array) -> Array:
        strewn = array.copy()
        for _ in range(data.draw(st.integers(0, 2)) if array.size else 0):
            index = data.draw(st.integers(0, array.size - 1))
            strewn.flat[index] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        return strewn

    strewn = case.map(strew)
    for name in PASSES:
        expected = by_backend(reference, name, wide(strewn)).astype(case.small.dtype)
        np.testing.assert_array_equal(by_exact_tiles(name, strewn).astype(float), expected.astype(float))
        by_all = by_engine(name, strewn).astype(float)
        for kind in (np.isnan, np.isposinf, np.isneginf):
            np.testing.assert_array_equal(kind(by_all), kind(expected.astype(float)))


@pytest.mark.parametrize("problem", CORNERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_corner(problem: Problem, dtype: str) -> None:
    for last in (False, True):
        case, answers = solved(replace(problem.geometry, channels_last=last), dtype)
        for name in PASSES:
            assert_close(name, by_engine(name, case), case, *answers[name])


@pytest.mark.parametrize("problem", LAYERS + CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer(problem: Problem, dtype: str) -> None:
    for last in (False, True) if dtype == "float32" else (True,):
        case = example(replace(problem.shrunk(1_500_000), channels_last=last), dtype)
        for name in PASSES:
            assert_close(name, by_engine(name, case), case, by_taps(name, case))


@pytest.mark.parametrize("isa", native._core.isas())
@pytest.mark.parametrize("algorithm", native._core.algorithms())
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_algorithm_on_every_instruction_set(isa: str, algorithm: str, dtype: str) -> None:
    ran = set()
    for problem in CORNERS:
        for last in (False, True):
            case, answers = solved(replace(problem.geometry, channels_last=last), dtype)
            if not case.small.size or not case.large.size:
                continue
            for name in PASSES:
                if refuses(case, name, algorithm, isa=isa):
                    continue
                plan = plan_for(case, name, isa=isa, algorithm=algorithm)
                assert (plan.algorithm, plan.isa) == (algorithm, isa)
                ran.add((name, plan.kernel))
                source, second, *bias = case.inputs(name)
                out = np.empty(case.shape(name), case.small.dtype)
                plan.run(source, second, bias[0] if bias else None, out)
                assert_close(name, out, case, *answers[name])
    assert ran, f"no problem of corners.txt reaches {algorithm}"
    # The loops of `direct` are no kernel of any instruction set.
    assert {kernel for _, kernel in ran if not kernel.endswith(best_set(kernel, isa))} <= {"direct"}


def best_set(kernel: str, isa: str) -> str:
    """Return the best set up to `isa` with kernels of that type and family: some sets add a few to the next."""
    kind, _, _ = kernel.rpartition("__")[0].rpartition("_")
    isas = native._core.isas()
    having = {name.rpartition("__")[2] for name in native._core.kernels() if name.startswith(f"{kind}_")}
    return next((name for name in isas[isas.index(isa) :] if name in having), isa)


def assert_accurate(case: Example, name: str, algorithm: str, **rest: Any) -> None:
    """Check that an algorithm's error is at most four times that of the definition, both in float32."""
    # A weight is a sum over positions, which `direct` takes row by row.
    plain = "weight_gemm" if name == "weight_gradient" else "direct"
    exact, errors = by_taps(name, wide(case)), {}
    for which in (algorithm, plain):
        out = np.empty(case.shape(name), "float32")
        source, second, *bias = case.inputs(name)
        plan = plan_for(case, name, algorithm=which, packed=False, **rest)
        plan.run(source, second, bias[0] if bias else None, out)
        errors[which] = np.abs(out - exact).max()
    # Few sums may all come out exact by the definition.
    assert errors[algorithm] <= 4 * max(errors[plain], np.finfo("float32").eps * np.abs(exact).max())


@pytest.mark.parametrize("problem", LAYERS, ids=str)
def test_the_algorithm_chosen_is_as_accurate_as_the_definition(problem: Problem) -> None:
    case = example(problem.shrunk(4_000_000), "float32")
    for name in PASSES:
        assert_accurate(case, name, "")


STRASSEN = Geometry(3, 96, 12, 1, (Axis(13, 26, 2, 2, 1, 0, 0, 0), Axis(9, 18, 2, 2, 1, 0, 0, 0)))


@pytest.mark.parametrize("isa", native._core.isas())
def test_strassen_is_as_accurate_as_the_definition(isa: str) -> None:
    for maps in (2, 16, 96, 1024):
        case = example(replace(STRASSEN, channels=maps), "float32")
        assert_accurate(case, "forward", "strassen", isa=isa)
        if maps % 4 == 0:
            assert_accurate(case, "forward", "strassen_twice", isa=isa)
        case = example(replace(STRASSEN, channels=maps, channels_last=True), "float32")
        assert_accurate(case, "forward", "strassen_rows", isa=isa)
        case = example(replace(STRASSEN, filters=maps), "float32")
        assert_accurate(case, "data_gradient", "strassen", isa=isa)
        case = example(replace(STRASSEN, filters=maps, channels_last=True), "float32")
        assert_accurate(case, "data_gradient", "strassen_rows", isa=isa)
    for samples in (1, 8, 30):
        case = example(replace(STRASSEN, batch=samples), "float32")
        assert_accurate(case, "weight_gradient", "weight_strassen", isa=isa)
        case = example(replace(STRASSEN, batch=samples, filters=24, channels_last=True), "float32")
        assert_accurate(case, "weight_gradient", "weight_strassen", isa=isa)


def test_strassen_packs_weights_past_the_caches() -> None:
    axes = (Axis(3, 6, 2, 2, 1, 0, 0, 0), Axis(5, 10, 2, 2, 1, 0, 0, 0))
    case = example(Geometry(1, 1024, 301, 1, axes), "float32")
    assert case.weight.nbytes * 7 / 4 > 8 << 20
    for threads in (1, 3):
        assert_accurate(case, "forward", "strassen", threads=threads)
        assert_accurate(case, "forward", "strassen_twice", threads=threads)


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("forward", "strassen"),
        ("forward", "strassen_twice"),
        ("data_gradient", "strassen"),
        ("forward", "strassen_rows"),
        ("data_gradient", "strassen_rows"),
    ],
)
def test_a_sample_by_strassen_has_the_bits_it_has_alone(name: str, algorithm: str) -> None:
    case = example(replace(STRASSEN, channels_last=algorithm == "strassen_rows"), "float32")

    def run(case: Example, threads: int) -> Array:
        out = np.empty(case.shape(name), np.float32)
        source, weight, *bias = case.inputs(name)
        plan = plan_for(case, name, algorithm=algorithm, threads=threads)
        plan.run(source, weight, bias[0] if bias else None, out)
        return out

    for threads in (1, 3):
        whole = run(case, threads)
        for samples in (slice(0, 1), slice(1, 3)):
            assert same_bits(run(part(case, samples), 1), whole[samples])


def test_weights_by_strassen_have_the_same_bits_on_any_threads() -> None:
    case = example(replace(STRASSEN, batch=9), "float32")
    found = []
    for threads in (1, 3):
        found.append(np.empty(case.geometry.weight_shape, np.float32))
        plan = plan_for(case, "weight_gradient", algorithm="weight_strassen", threads=threads)
        plan.run(*case.inputs("weight_gradient"), None, found[-1])
    assert same_bits(*found)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("array", ["small", "large"])
def test_the_gradients_by_strassen_mix_nothing_that_is_not_finite(array: str, value: float) -> None:
    for name, algorithm in (
        ("data_gradient", "strassen"),
        ("data_gradient", "strassen_rows"),
        ("weight_gradient", "weight_strassen"),
    ):
        case = example(replace(STRASSEN, channels_last=algorithm == "strassen_rows"), "float32")
        getattr(case, array)[1, 5, 0, 1] = value
        out = np.empty(case.shape(name), np.float32)
        source, second, *bias = case.inputs(name)
        plan_for(case, name, algorithm=algorithm).run(source, second, bias[0] if bias else None, out)
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(out, by_taps(name, case), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("array", ["small", "weight"])
@pytest.mark.parametrize("algorithm", ["strassen", "strassen_twice", "strassen_rows"])
def test_strassen_mixes_nothing_that_is_not_finite(algorithm: str, array: str, packed: bool, value: float) -> None:
    case = example(replace(STRASSEN, channels_last=algorithm == "strassen_rows"), "float32")
    getattr(case, array)[1, 1, 0, 1] = value
    out = np.empty(case.shape("forward"), np.float32)
    plan = plan_for(case, "forward", algorithm=algorithm, packed=packed)
    source, weight, bias = case.inputs("forward")
    plan.run(source, plan.pack(weight) if packed else weight, bias, out)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(out, by_taps("forward", case), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", native._core.isas())
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2), (5, 2), (6, 2)])
def test_winograd_of_few_maps_is_as_accurate_as_the_definition(kernel: int, stride: int, isa: str) -> None:
    """A sum of few maps has little error of its own."""
    pad = kernel // 2
    axis = Axis(32, 31 * stride + kernel - 2 * pad, kernel, stride, 1, pad, pad, 0)
    for channels, filters in ((8, 64), (64, 8)):
        case = example(Geometry(1, channels, filters, 1, (axis, axis)), "float32")
        for name in ("forward", "data_gradient"):
            assert_accurate(case, name, "winograd", isa=isa)


def refuses(case: Example, name: str, algorithm: str, **rest: Any) -> bool:
    return any(refusing == algorithm for refusing, _ in plan_for(case, name, **rest).refusals)


def plan_for(case: Example, name: str, **rest: Any) -> Any:
    number = {
        "forward": native.FORWARD,
        "data_gradient": native.DATA_GRADIENT,
        "weight_gradient": native.WEIGHT_GRADIENT,
    }[name]
    return native.plan_for(case.geometry, number, case.small.dtype, **{"workspace": AMPLE, **rest})


def test_something_refuses_nothing() -> None:
    for problem in CORNERS + LAYERS:
        case = example(problem.shrunk(1000))
        if case.small.size and case.large.size:
            for name in PASSES:
                assert plan_for(case, name, algorithm="direct", workspace=0).algorithm == "direct"


@pytest.mark.parametrize("columns", [248, 252, 256])
@pytest.mark.parametrize("algorithm", ["no_overlap", "position_rows", "strassen", "strassen_rows"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_beyond_the_caches_have_the_bits_of_their_parts(dtype: str, algorithm: str, columns: int) -> None:
    # 8 MB or more go past the caches where lines are whole, those of some rows from the middle of a vector; a
    # filter alone does not.
    last = algorithm in ("position_rows", "strassen_rows")

    def geometry(filters: int) -> Geometry:
        axes = (Axis(272, 544, 2, 2, 1, 0, 0, 0), Axis(columns, 2 * columns, 2, 2, 1, 0, 0, 0))
        return Geometry(1, 4, filters, 1, axes, channels_last=last)

    def forward(filters: int, weight: Array, bias: Array, past: int) -> Array:
        shape = geometry(filters).large_shape
        out = np.empty(prod(shape) + past, source.dtype)[past:].reshape(shape)
        plan = native.plan_for(
            geometry(filters), native.FORWARD, source.dtype, workspace=AMPLE, algorithm=algorithm
        )
        plan.run(source, np.ascontiguousarray(weight), bias, out)
        return out

    source, weight, bias = example(geometry(16), dtype).inputs("forward")
    axis = -1 if last else 1
    if algorithm.startswith("strassen"):  # which adds up filters
        parts = [forward(16, weight, bias, 1)]
    else:
        parts = [forward(1, weight.take([f], axis), bias[[f]], 0) for f in range(16)]
    for past in (0, 1):
        assert same_bits(forward(16, weight, bias, past), np.concatenate(parts, axis))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_depthwise_outputs_beyond_the_caches_have_the_bits_of_their_parts(dtype: str, last: bool) -> None:
    def geometry(groups: int) -> Geometry:
        return Geometry(1, groups, groups, groups, (Axis(512, 1024, 4, 2, 1, 1, 1, 0),) * 2, channels_last=last)

    def forward(source: Array, weight: Array, bias: Array, past: int) -> Array:
        shape = geometry(len(weight)).large_shape
        out = np.empty(prod(shape) + past, source.dtype)[past:].reshape(shape)
        plan = native.plan_for(
            geometry(len(weight)), native.FORWARD, source.dtype, workspace=AMPLE, algorithm="depthwise"
        )
        plan.run(np.ascontiguousarray(source), np.ascontiguousarray(weight), bias, out)
        return out

    source, weight, bias = example(geometry(16), dtype).inputs("forward")
    axis = -1 if last else 1
    parts = [forward(source.take([m], axis), weight[[m]], bias[[m]], 0) for m in range(16)]
    for past in (0, 1):
        assert same_bits(forward(source, weight, bias, past), np.concatenate(parts, axis))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_types_are_summed_in_float32(dtype: str) -> None:
    # 4096 ones are 4096; in a sum of the short type itself they stay at 2048 or 256.
    def ones(batch: int, channels: int, filters: int, size: int) -> Example:
        geometry = Geometry(batch, channels, filters, 1, (Axis(size, size, 1, 1, 1, 0, 0, 0),))
        return example(geometry, dtype, bias=False).map(np.ones_like)

    assert (by_engine("forward", ones(1, 4096, 5, 3)) == 4096).all()
    assert (by_engine("data_gradient", ones(1, 5, 4096, 3)) == 4096).all()
    long = ones(4, 2, 3, 1024)
    assert (by_engine("weight_gradient", long) == 4096).all()
    assert (engine.bias_gradient(long.geometry, long.large) == 4096).all()


@settings(max_examples=60)
@given(examples())
def test_bias_gradient_sums_all_but_the_maps(case: Example) -> None:
    axis = case.small.ndim - 1 if case.geometry.channels_last else 1
    others = tuple(a for a in range(case.small.ndim) if a != axis)
    for grad in (case.small, case.large):
        expected = grad.astype(np.float64).sum(axis=others)
        dtype = grad.dtype.name
        got = engine.bias_gradient(case.geometry, grad).astype(np.float64)
        slack = SUMMING[dtype] * (grad.size + 2) * np.abs(grad.astype(np.float64)).sum(initial=0.0)
        np.testing.assert_array_less(np.abs(got - expected), slack + ROUNDING[dtype] * np.abs(expected) + 1e-300)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1, 4096, 31), 2), ((1, 4096, 48), 2), ((1, 4096, 300), 2), ((256, 300, 7), 1), ((3, 5, 700), 1)],
)
def test_bias_gradient_has_the_same_bits_on_any_threads(shape: tuple[int, ...], axis: int) -> None:
    grad = np.random.default_rng(0).standard_normal(shape, np.float32)

    def by_threads(threads: int) -> Array:
        out = np.empty(shape[axis], np.float32)
        native.bias_gradient(grad, axis, out, threads=threads)
        return out

    assert all(same_bits(by_threads(1), by_threads(threads)) for threads in (2, 3, 7))


@pytest.mark.parametrize("problem", LAYERS, ids=str)
def test_passes_are_adjoint(problem: Problem) -> None:
    case = example(problem.shrunk(3_000_000), bias=False)
    forth = np.vdot(case.large, by_engine("forward", case))
    assert np.vdot(case.small, by_engine("data_gradient", case)) == pytest.approx(forth, rel=1e-9, abs=1e-9)
    assert np.vdot(case.weight, by_engine("weight_gradient", case)) == pytest.approx(forth, rel=1e-9, abs=1e-9)


# The bits.

BUSY = [problem for problem in LAYERS if problem.geometry.flops > 1e8]


def computes(problem: Problem) -> bool:
    return 0 not in problem.geometry.small_shape + problem.geometry.large_shape


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("problem", list(filter(computes, CORNERS + BUSY)), ids=str)
def test_threads_change_no_bit(problem: Problem, last: bool) -> None:
    case = example(replace(problem.shrunk(20_000_000), channels_last=last), "float32")
    for name in PASSES:
        one = by_engine(name, case, threads=1)
        for threads in (2, 7):
            assert same_bits(one, by_engine(name, case, threads=threads)), (name, threads)
    for grad in (case.small, case.large):
        sums = [engine.bias_gradient(case.geometry, grad, threads=threads) for threads in (1, 2, 7)]
        assert same_bits(sums[0], sums[1])
        assert same_bits(sums[0], sums[2])


@pytest.mark.parametrize("problem", list(filter(computes, CORNERS + BUSY)), ids=str)
def test_packing_within_the_call_changes_no_bit(problem: Problem) -> None:
    case = example(problem.shrunk(20_000_000), "float32")
    for name in ("forward", "data_gradient"):
        source, weight, *bias = case.inputs(name)
        for algorithm in native._core.algorithms():
            if refuses(case, name, algorithm):
                continue
            outputs = []
            for threads in (1, 2, 7):
                plan = plan_for(case, name, algorithm=algorithm, packed=False, threads=threads)
                outputs.append(np.empty(case.shape(name), "float32"))
                plan.run(source, weight, bias[0] if bias else None, outputs[-1])
            if not refuses(case, name, algorithm, packed=True):
                prepared = plan_for(case, name, algorithm=algorithm, packed=True)
                # Tiles that are chosen with what packing costs may be others.
                if plan.packing_key == prepared.packing_key:
                    outputs.append(np.empty_like(outputs[0]))
                    prepared.run(source, prepared.pack(weight), bias[0] if bias else None, outputs[-1])
            assert all(same_bits(out, outputs[0]) for out in outputs), (name, algorithm)


@settings(max_examples=60)
@given(examples())
def test_threads_and_runs_change_no_bit(case: Example) -> None:
    for name in PASSES:
        one = by_engine(name, case, threads=1)
        for threads in (1, 2, 7):
            assert same_bits(one, by_engine(name, case, threads=threads))


def part(case: Example, samples: slice) -> Example:
    small, large = case.small[samples], case.large[samples]
    return replace(case, geometry=replace(case.geometry, batch=len(small)), small=small, large=large)


@pytest.mark.parametrize("workspace", [0, 2**16, 2**20, AMPLE])
@pytest.mark.parametrize("problem", BUSY[::3], ids=str)
def test_splitting_the_batch_changes_no_bit(problem: Problem, workspace: int) -> None:
    geometry = replace(problem.shrunk(2_000_000), batch=5)
    case = example(geometry, "float32")
    for name in ("forward", "data_gradient"):
        for threads in (1, 7):
            full = by_engine(name, case, workspace=workspace, threads=threads)
            for samples in (slice(0, 1), slice(1, 3), slice(2, 5)):
                piece = by_engine(name, part(case, samples), workspace=workspace, threads=2)
                assert same_bits(piece, full[samples]), (name, samples)


def test_calls_of_many_threads_change_no_bit() -> None:
    """Calls that find the pool busy work alone; whoever computes, the bits are the same."""
    cases = [example(problem.shrunk(1_000_000), "float32") for problem in BUSY[::4]]
    alone = [by_engine(name, case) for case in cases for name in PASSES]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            futures = [pool.submit(by_engine, name, case) for case in cases for name in PASSES]
            assert all(same_bits(one, future.result()) for one, future in zip(alone, futures))


FORKED = """
import os, warnings
import numpy as np, tconv
warnings.simplefilter("ignore", DeprecationWarning)
x, w = np.ones((8, 32, 32, 32), np.float32), np.ones((32, 32, 4, 4), np.float32)
before = tconv.deconvolution(x, w, stride=2, threads=2)
child = os.fork()
if child == 0:
    after = tconv.deconvolution(x, w, stride=2, threads=2)
    os._exit(0 if before.tobytes() == after.tobytes() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_forked_child_computes() -> None:
    assert run(FORKED).stdout.split() == ["0"]


def test_geometry_that_was_run_copies_and_pickles() -> None:
    case = example(CORNERS[2].geometry)
    by_engine("forward", case)
    for twin in (copy.deepcopy(case.geometry), pickle.loads(pickle.dumps(case.geometry))):
        assert twin == case.geometry
        assert same_bits(by_engine("forward", replace(case, geometry=twin)), by_engine("forward", case))


# The arrays.


def spread(array: Array) -> Array:
    """Put the elements apart."""
    room = np.full([2 * size for size in array.shape], 7, array.dtype)
    view = room[(slice(None, None, 2),) * array.ndim]
    view[...] = array
    return view


def backwards(array: Array) -> Array:
    return np.flip(np.flip(array).copy())


def column_major(array: Array) -> Array:
    return np.asfortranarray(array)


def misaligned(array: Array) -> Array:
    room = np.zeros(array.nbytes + 1, np.uint8)
    view = room[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def big_endian(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder(">"))


MAKES = [spread, backwards, column_major, misaligned, read_only, big_endian]
SOME = [problem for problem in CORNERS if problem.name in ("ragged, grouped, adj at its limit", "vocoder layer")]


@pytest.mark.parametrize(
    ("make", "dtype"),
    # ml_dtypes knows no other byte order than the machine's.
    [(make, dtype) for make in MAKES for dtype in DTYPES if (make, dtype) != (big_endian, "bfloat16")],
)
@pytest.mark.parametrize("problem", SOME, ids=str)
def test_inputs_of_every_make(make: Callable[[Array], Array], dtype: str, problem: Problem) -> None:
    case = example(problem.geometry, dtype)
    made = case.map(make)
    before = made.map(np.copy)
    for name in PASSES:
        assert same_bits(by_engine(name, made), by_engine(name, case))
    for grad, same in ((made.small, case.small), (made.large, case.large)):
        assert same_bits(engine.bias_gradient(case.geometry, grad), engine.bias_gradient(case.geometry, same))
    for side in ("small", "weight", "large"):
        assert same_bits(getattr(made, side).copy(), getattr(before, side))


@pytest.mark.parametrize("make", [spread, backwards, column_major, misaligned, big_endian])
@pytest.mark.parametrize("problem", SOME, ids=str)
def test_out_of_every_make(make: Callable[[Array], Array], problem: Problem) -> None:
    case = example(problem.geometry, "float32")
    for name in PASSES:
        out = make(np.full(case.shape(name), np.nan, np.float32))
        assert by_engine(name, case, out) is out
        assert same_bits(out.astype(np.float32), by_engine(name, case))
    sums = make(np.full(case.geometry.filters, np.nan, np.float32))
    assert engine.bias_gradient(case.geometry, case.large, sums) is sums
    assert same_bits(sums.astype(np.float32), engine.bias_gradient(case.geometry, case.large))


@pytest.mark.parametrize("problem", [p for p in CORNERS if 0 not in p.geometry.small_shape], ids=str)
def test_nothing_around_out_is_touched(problem: Problem) -> None:
    case = example(problem.geometry, "float32")
    for name in PASSES:
        size = int(np.prod(case.shape(name)))
        room = np.full(size + 64, 12345.0, np.float32)
        out = room[32 : 32 + size].reshape(case.shape(name))
        out[...] = np.nan
        by_engine(name, case, out)
        assert same_bits(out, by_engine(name, case))
        assert (room[:32] == 12345).all()
        assert (room[32 + size :] == 12345).all()


def test_out_may_be_an_input() -> None:
    axis = Axis(9, 9, 3, 1, 1, 1, 1, 0)
    case = example(Geometry(2, 4, 4, 1, (axis,)), "float32")
    forth, back = by_engine("forward", case), by_engine("data_gradient", case)
    for name, side, expected in (("forward", "small", forth), ("data_gradient", "large", back)):
        out = getattr(case, side).copy()
        by_engine(name, replace(case, **{side: out}), out)
        assert same_bits(out, expected)


def test_out_may_overlap_inputs() -> None:
    geometry = SOME[0].geometry
    case = example(geometry, "float32", bias=False)
    sizes = [case.small.size, case.weight.size, case.large.size]
    room = np.zeros(max(sizes) + 10, np.float32)
    for name, inputs in (
        ("forward", "small weight"),
        ("data_gradient", "large weight"),
        ("weight_gradient", "small large"),
    ):
        for side in inputs.split():
            array = getattr(case, side)
            overlapping = room[10 : 10 + array.size].reshape(array.shape)
            overlapping[...] = array
            out = room[: int(np.prod(case.shape(name)))].reshape(case.shape(name))
            by_engine(name, replace(case, **{side: overlapping}), out)
            assert same_bits(out, by_engine(name, case)), (name, side)


def test_equal_inputs_may_share_memory() -> None:
    one = np.broadcast_to(np.float32(1), (2, 3, 4, 5))
    axis = Axis(1, 4, 4, 1, 1, 0, 0, 0), Axis(1, 5, 5, 1, 1, 0, 0, 0)
    out = engine.forward(Geometry(1, 2, 3, 1, axis), one[:1, :2, :1, :1], one, workspace=0)
    assert (out == 2).all()


# What is refused, and who is chosen.


def test_no_backend_says_each_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = CORNERS[0].geometry
    monkeypatch.setattr(engine, "_candidates", lambda: (native,))
    with pytest.raises(
        DTypeError, match=r"no backend computes .* in int32: native: dtype int32; need one of float32"
    ):
        engine.backend_for(problem, np.dtype("int32"))


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


CHOSEN = """
import numpy as np, tconv
from tconv import engine
from tconv.geometry import Axis, Geometry
geometry = Geometry(1, 1, 1, 1, (Axis(2, 3, 2, 1, 1, 0, 0, 0),))
print(engine.backend_for(geometry, np.dtype("float32")).name)
print(tconv.deconvolution(np.ones((1, 1, 2)), np.ones((1, 1, 2))).tolist())
"""


@pytest.mark.parametrize("name", ["native", "reference"])
def test_knob_forces_a_backend(name: str) -> None:
    assert run(CHOSEN, TCONV_BACKEND=name).stdout.split("\n")[:2] == [name, "[[[1.0, 2.0, 1.0]]]"]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TCONV_BACKEND", "fast"),
        ("TCONV_THREADS", "many"),
        ("TCONV_THREADS", "-1"),
        ("TCONV_THREADS", str(2**31)),
        ("TCONV_KEPT_OUTPUTS", str(2**44)),
        ("TCONV_ISA", "sse9"),
        ("TCONV_PLANS", "x"),
    ],
)
def test_knob_of_no_meaning_is_refused(variable: str, text: str) -> None:
    last = run(CHOSEN, **{variable: text}).stderr.strip().split("\n")[-1]
    assert last.startswith("tconv.errors.ParameterError: ")
    assert text in last


@pytest.mark.parametrize("isa", native._core.isas())
def test_knob_forces_an_instruction_set(isa: str) -> None:
    code = (
        CHOSEN
        + """
from tconv.backends import native
print(native.plan_for(geometry, 0, np.dtype("float32"), workspace=2**20).isa)
"""
    )
    assert run(code, TCONV_ISA=isa).stdout.split("\n")[2] == isa
