"""The compiled engine by itself: its objects, plans and their cache, packed weights, interruption."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles import AMPLE, DTYPES, PASSES, Example, assert_close, by_taps, example
from problem_list import Problem, load
from tconv import _core
from tconv.backends import native
from tconv.dtypes import as_dtype, to_code
from tconv.errors import ParameterError, ShapeError
from tconv.geometry import Axis, Geometry

ROOT = Path(__file__).parent.parent
LAYERS = load("layers")
WEIGHTED = PASSES[:2]


def plan(geometry: Geometry, name: str = "forward", dtype: Any = np.float32, **rest: Any) -> _core.Plan:
    options = {"workspace": AMPLE, "threads": 1, **rest}
    return native.plan_for(geometry, PASSES.index(name), np.dtype(dtype), **options)


def run(made: _core.Plan, case: Example, name: str, weight: Any = None) -> np.ndarray:
    source, second, *bias = case.inputs(name)
    out = np.full(case.shape(name), np.nan, case.small.dtype)
    made.run(source, second if weight is None else weight, bias[0] if bias else None, out)
    return out


def kernel_objects() -> list[Path]:
    folders = (ROOT / "build" / name for name in ("dev", "editable"))
    return sorted(path for folder in folders for path in folder.rglob("CMakeFiles/*.dir/csrc/kernels/*.o"))


@pytest.mark.skipif(
    not kernel_objects() or not shutil.which("nm"), reason="needs the build folder of this checkout, and nm"
)
def test_a_kernel_lends_no_code() -> None:
    for path in kernel_objects():
        printed = subprocess.run(["nm", "--extern-only", "--defined-only", path], capture_output=True, check=True)
        symbols = [line.split()[-2:] for line in printed.stdout.decode().splitlines()]
        assert [kind for kind, _ in symbols] == ["T"], f"{path.name} exports {symbols}"


def of_usual_size(axis: Axis) -> Axis:
    more = axis.size - _core.usual_size(axis.size)
    return axis._replace(size=axis.size - more, out=axis.out - more * axis.stride)


@pytest.mark.parametrize("problem", LAYERS + load("corners"), ids=str)
def test_the_cheapest_algorithm_is_chosen(problem: Problem) -> None:
    """Not all are asked; those that are not could not win."""
    for last in (False, True):
        geometry = replace(problem.geometry, channels_last=last)
        if 0 in geometry.small_shape or 0 in geometry.large_shape:
            continue
        for name in PASSES:
            usual = geometry
            if name == "forward":
                usual = replace(usual, axes=tuple(of_usual_size(axis) for axis in usual.axes))
            if name != "weight_gradient":
                usual = replace(usual, batch=_core.usual_batch(native._solved(usual)))
            for isa in _core.isas():
                for dtype in DTYPES:
                    made = plan(usual, name, as_dtype(dtype), isa=isa)
                    seconds = dict(made.costs)
                    assert made.algorithm == min(seconds, key=seconds.__getitem__), (name, isa, dtype, last)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("last", [False, True])
def test_axes_that_lie_as_one_are_one(name: str, last: bool) -> None:
    def made(*axes: Axis) -> tuple[Any, ...]:
        found = plan(Geometry(2, 12, 9, 3, axes, channels_last=last), name)
        return found.algorithm, found.kernel, found.workspace_bytes, found.packing_key, found.seconds

    def plain(size: int) -> Axis:
        return Axis(size, size, 1, 1, 1, 0, 0, 0)

    line = Axis(9, 18, 4, 2, 1, 1, 1, 0)
    alone = Axis(1, 1, 1, 5, 3, 0, 0, 0)
    assert made(plain(7), plain(9)) == made(plain(63))
    assert made(plain(3), plain(4), plain(5)) == made(plain(60))
    assert made(line, alone) == made(alone, line, alone) == made(line)
    assert made(line, plain(3), plain(4)) == made(line, plain(12))
    # Of small maps the order of axes may not matter.
    assert made(line, plain(1200)) != made(plain(1200), line)


def test_a_first_call_of_many_threads_has_the_bits_of_one() -> None:
    """What a call goes by is listed by the first one, whichever thread makes it."""
    cases = {
        Geometry(1, 5, 3, 1, (Axis(9, 37, 8, 4, 1, 2, 1, 0),) * 2): (
            "phase_gemm",
            "position_lanes",
            "weight_windows",
        ),
        Geometry(1, 19, 19, 19, (Axis(9, 37, 8, 4, 1, 2, 1, 0),) * 2): ("depthwise", "depthwise_turned"),
    }
    for geometry, algorithms in cases.items():
        case = example(geometry, "float32")
        for algorithm in algorithms:
            name = "weight_gradient" if algorithm.startswith("weight") else "forward"
            expected = run(plan(geometry, name, algorithm=algorithm), case, name)
            _core.clear_cache()
            fresh = plan(replace(geometry), name, algorithm=algorithm)
            start = threading.Barrier(4)

            def compute(_: int, fresh: Any = fresh, name: str = name, start: Any = start) -> np.ndarray:
                start.wait()
                return run(fresh, case, name)  # noqa: B023 - joined before the next case

            with ThreadPoolExecutor(4) as pool:
                for found in pool.map(compute, range(4)):
                    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_maps_that_are_turned_have_the_bits_of_rows(dtype: str) -> None:
    """A stream reads few positions at a time, and its whole many."""

    def geometry(size: int) -> Geometry:
        return Geometry(1, 37, 37, 37, (Axis(size, 2 * size + 3, 5, 2, 1, 0, 0, 0),))

    few = plan(geometry(6), dtype=as_dtype(dtype), algorithm="depthwise_turned")
    many = plan(geometry(300), dtype=as_dtype(dtype), algorithm="depthwise")
    whole = example(geometry(300), dtype)
    part = replace(whole, geometry=geometry(6), small=whole.small[..., :6].copy())
    out = run(few, part, "forward")[..., : 2 * 6]
    np.testing.assert_array_equal(out, run(many, whole, "forward")[..., : 2 * 6])


@pytest.mark.parametrize(
    ("channels", "filters", "kernel", "stride"), [(16, 16, 4, 2), (16, 1, 16, 8), (3, 40, 2, 2), (5, 3, 3, 1)]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_plan_made_from_another_is_that_made_alone(
    channels: int, filters: int, kernel: int, stride: int, packed: bool
) -> None:
    def of_size(size: int) -> Geometry:
        return Geometry(
            1, channels, filters, 1, (Axis(size, (size - 1) * stride + kernel - 2, kernel, stride, 1, 1, 1, 0),)
        )

    weight = np.ones((channels, filters, kernel), np.float32)
    kept = native.KeptWeights(weight) if packed else None
    bound = native.bind(
        of_size(30), "forward", weight.dtype, workspace=AMPLE, threads=1, weight=kept, any_size=True
    )
    _core.clear_cache()
    sizes = [*range(31, 80), 640, 641, 660, 200, 90, 88]
    for size in sizes:
        bound(np.ones((1, channels, size), np.float32), weight, None, None)
    hits = _core.cache_counters()[0]
    found = {size: plan(of_size(size), packed=packed) for size in sizes}
    assert _core.cache_counters()[0] == hits + len(found)
    _core.clear_cache()
    for size, made in found.items():
        alone = plan(of_size(size), packed=packed)
        assert (made.algorithm, made.packing_key) == (alone.algorithm, alone.packing_key)


def test_every_instruction_set_has_product_kernels() -> None:
    for isa in _core.isas():
        found = {
            name.partition("_")[0] for name in _core.kernels() if "_gemm_" in name and name.endswith(f"__{isa}")
        }
        assert found in ({"f32", "f64"}, {"bf16"})


@pytest.mark.parametrize("problem", LAYERS, ids=str)
@pytest.mark.parametrize("name", PASSES)
def test_no_layer_is_left_to_the_loops(problem: Problem, name: str) -> None:
    made = plan(problem.geometry, name)
    per_group = (problem.geometry.channels // problem.geometry.groups, name)
    assert made.algorithm != "direct" or per_group == (1, "weight_gradient")
    assert made.workspace_bytes <= AMPLE
    assert made.seconds > 0


def test_plans_are_remembered_and_bounded() -> None:
    limit = _core.cache_counters()[3]
    axis = Axis(5, 10, 4, 2, 1, 1, 1, 0)
    try:
        _core.clear_cache()
        first = plan(Geometry(1, 3, 4, 1, (axis,)))
        hits, misses, size, _ = _core.cache_counters()
        assert (hits, misses, size) == (0, 1, 1)
        # Another geometry object of the same numbers has no plan with it, but the cache does.
        again = plan(Geometry(1, 3, 4, 1, (axis,)))
        assert _core.cache_counters()[0] == 1
        assert again.kernel == first.kernel
        _core.limit_cache(4)
        for channels in range(1, 20):
            plan(Geometry(1, channels, 4, 1, (axis,)))
        assert _core.cache_counters()[2] == 4
    finally:
        _core.limit_cache(limit)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("algorithm", ["phase_gemm", "position_lanes"])
def test_packed_weights_serve_other_batches_sizes_and_pads(algorithm: str, name: str) -> None:
    def sized(batch: int, size: int, pad: int) -> Geometry:
        axis = Axis(size, (size - 1) * 2 + 4 - 2 * pad, 4, 2, 1, pad, pad, 0)
        return Geometry(batch, 24, 17, 1, (axis, axis))

    first = sized(1, 6, 1)
    packed = plan(first, name, algorithm=algorithm, packed=True).pack(example(first, "float32").weight)
    assert packed.nbytes > 0
    for other in (first, sized(3, 6, 1), sized(1, 11, 1), sized(2, 7, 0)):
        case = replace(example(other, "float32", seed=1), weight=example(first, "float32").weight)
        out = run(plan(other, name, algorithm=algorithm, packed=True), case, name, packed)
        np.testing.assert_array_equal(out, run(plan(other, name, algorithm=algorithm), case, name))
        assert_close(name, out, case, by_taps(name, case))


def test_plans_for_packed_weights_take_plain_ones_for_the_same_bits() -> None:
    isas = _core.isas()
    ways = {("float32", isa) for isa in isas} | {(dtype, isas[0]) for dtype in DTYPES}
    taken = set()
    for problem in load("corners"):
        for last in (False, True):
            geometry = replace(problem.geometry, channels_last=last)
            if 0 in geometry.small_shape or 0 in geometry.large_shape:
                continue
            for name, (dtype, isa) in product(WEIGHTED, ways):
                try:
                    made = plan(geometry, name, as_dtype(dtype), algorithm="winograd", packed=True, isa=isa)
                except ParameterError:
                    continue
                if not made.takes_plain:
                    continue
                taken.add((name, (dtype, isa)))
                case = example(geometry, dtype)
                packed = run(made, case, name, made.pack(case.weight))
                np.testing.assert_array_equal(run(made, case, name), packed)
                if dtype != "float32":
                    continue
                case.weight.flat[0] = np.inf
                with np.errstate(invalid="ignore"):
                    packed = run(made, case, name, made.pack(case.weight))
                    np.testing.assert_array_equal(run(made, case, name), packed)
    assert taken == set(product(WEIGHTED, ways))


def orders_of_one_weight() -> list[tuple[Geometry, _core.Plan]]:
    """Problems of one weight whose plans take plain ones too, each with an order of its own."""
    found = {}
    for size in range(2, 20):
        axis = Axis(size, size * 2, 4, 2, 1, 1, 1, 0)
        geometry = Geometry(1, 64, 40, 1, (axis, axis))
        made = plan(geometry, packed=True, algorithm="winograd")
        if made.takes_plain:
            found[made.packing_key] = geometry, made
    return list(found.values())


def until_packed(kept: native.KeptWeights, made: _core.Plan) -> _core.PackedWeights:
    while not isinstance(operand := kept.operand_for(made), _core.PackedWeights):
        pass
    return operand


def test_another_order_is_packed_by_and_by() -> None:
    (_, first), *others = orders_of_one_weight()
    assert others
    weight = np.ones((64, 40, 4, 4), np.float32)
    kept = native.KeptWeights(weight)

    def asks(made: _core.Plan) -> str:
        operand = kept.operand_for(made)
        assert operand is weight or isinstance(operand, _core.PackedWeights)
        return "plain" if operand is weight else "packed"

    assert asks(first) == "packed"
    # The plain weights are not copied.
    assert kept.nbytes == first.packed_bytes
    for orders, (_, other) in enumerate(others, start=1):
        held = kept.nbytes
        assert asks(other) == "plain"
        assert kept.nbytes == held
        found = [asks(other) for _ in range(2000)]
        if orders < 4:
            assert (found[0], found[-1]) == ("plain", "packed")
            assert found == sorted(found, reverse=True)
            assert kept.nbytes == held + other.packed_bytes
        else:
            # No more are kept.
            assert set(found) == {"plain"}
            assert kept.nbytes == held
    assert asks(first) == "packed"


@pytest.mark.parametrize("finite", [True, False])
def test_what_is_packed_by_and_by_is_what_is_packed_at_once(finite: bool) -> None:
    (_, first), (geometry, other), *_ = orders_of_one_weight()
    case = example(geometry, "float32")
    if not finite:
        case.weight[-1, -1, 0, 0] = np.inf
    kept = native.KeptWeights(case.weight)
    kept.operand_for(first)
    found: list[_core.PackedWeights] = []
    threads = [threading.Thread(target=lambda: found.append(until_packed(kept, other))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(packed is found[0] for packed in found)
    assert found[0].finite == finite
    with np.errstate(invalid="ignore"):
        expected = run(other, case, "forward", other.pack(case.weight))
        np.testing.assert_array_equal(run(other, case, "forward", found[0]), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_goes_on_packing() -> None:
    (_, first), (geometry, other), *_ = orders_of_one_weight()
    case = example(geometry, "float32")
    kept = native.KeptWeights(case.weight)
    expected = run(other, case, "forward", other.pack(case.weight))
    for made in (first, other, other, other):
        kept.operand_for(made)
    child = os.fork()
    if child == 0:
        right = run(other, case, "forward", until_packed(kept, other)).tobytes() == expected.tobytes()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(run(other, case, "forward", until_packed(kept, other)), expected)


def test_packed_weights_of_another_problem_are_refused() -> None:
    axis = Axis(6, 12, 4, 2, 1, 1, 1, 0)
    packed = plan(Geometry(1, 8, 32, 1, (axis,)), packed=True, algorithm="phase_gemm").pack(
        np.zeros((8, 32, 4), np.float32)
    )
    other = Geometry(1, 8, 40, 1, (axis,))
    case = example(other, "float32")
    with pytest.raises(ParameterError, match="packed for another plan"):
        run(plan(other, packed=True, algorithm="phase_gemm"), case, "forward", packed)


def test_packed_weights_may_hold_infinities() -> None:
    axis = Axis(6, 12, 4, 2, 1, 1, 1, 0)
    geometry = Geometry(1, 3, 4, 1, (axis, axis))
    case = example(geometry, "float32")
    case.weight[1, 2, 0, 0] = np.inf
    made = plan(geometry, packed=True, algorithm="phase_gemm")
    packed = made.pack(case.weight)
    assert not packed.finite
    with np.errstate(invalid="ignore"):
        expected = by_taps("forward", case)
    np.testing.assert_array_equal(np.isfinite(run(made, case, "forward", packed)), np.isfinite(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PASSES)
def test_a_bound_pass_takes_arrays_that_need_no_care(name: str, dtype: str) -> None:
    axis = Axis(6, 12, 4, 2, 1, 1, 1, 0)
    case = example(Geometry(2, 3, 4, 1, (axis,)), dtype)
    source, second, *rest = case.inputs(name)
    bias = rest[0] if rest else None
    bound = native.bind(case.geometry, name, source.dtype, workspace=AMPLE)
    found = bound(source, second, bias, None)
    assert_close(name, found, case, by_taps(name, case))
    assert found.dtype is source.dtype
    out = np.zeros_like(found)
    assert bound(source, second, bias, out) is out
    assert out.tobytes() == found.tobytes()
    assert bound.knows(source.shape)
    # Another object that means the same type.
    same = source.astype(source.dtype.newbyteorder("="))
    assert bound(same, second, bias, None).tobytes() == found.tobytes()
    # What follows needs care, and nothing is done.
    out[...] = 0
    strided = np.repeat(source, 2, axis=-1)[..., ::2]
    other = np.dtype(np.float64 if dtype == "float32" else np.float32)
    misaligned = np.frombuffer(bytes(1) + source.tobytes(), np.uint8)[1:].view(source.dtype).reshape(source.shape)
    for given in (strided, source.astype(other), misaligned, source[:1], source[0]):
        assert bound(given, second, bias, out) is None
    both = np.empty(source.size + out.size, source.dtype)
    over = both[: source.size].reshape(source.shape)
    over[...] = source
    assert bound(over, second, bias, both[1 : 1 + out.size].reshape(out.shape)) is None
    for wrong in (out.ravel(), out.astype(other), np.zeros(out.size + 1, out.dtype)):
        assert bound(source, second, bias, wrong) is None
    out.flags.writeable = False
    assert bound(source, second, bias, out) is None
    assert not out.any()


def test_memory_of_a_freed_output_is_the_next_ones() -> None:
    _core.trim_memory()
    shape = (1 << 20,)
    first = native.empty(shape, np.dtype(np.float32))
    place = first.ctypes.data
    assert first.flags.writeable
    view = first[1:]
    del first
    second = native.empty(shape, np.dtype(np.float32))
    assert second.ctypes.data != place
    del view
    assert native.empty(shape, np.dtype(np.float32)).ctypes.data == place


def test_buffers_of_a_wrong_size_are_refused() -> None:
    axis = Axis(6, 12, 4, 2, 1, 1, 1, 0)
    geometry = Geometry(1, 3, 4, 1, (axis,))
    made = plan(geometry)
    case = example(geometry, "float32")
    out = np.empty(geometry.large_shape, np.float32)
    with pytest.raises(ShapeError, match="source: got 68 bytes; need 72"):
        made.run(case.small.ravel()[1:], case.weight, None, out)
    with pytest.raises(ShapeError, match="out: got 384 bytes; need 192"):
        made.run(case.small, case.weight, None, np.empty(geometry.large_shape, np.float64))
    out.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        made.run(case.small, case.weight, None, out)


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 1, 1, 1, False, [[1] * 5 + [0, 0, 0]]),
        (1, 3, 4, 2, False, [[1] * 5 + [0, 0, 0]]),
        (1, 1, 1, 1, False, [[2, 2, 1, 2, 1, 0, 0, 0]]),
        (1, 1, 1, 1, False, [[1] * 7]),
        (1, 1, 1, 1, False, []),
        (1, 1, 1, 1, False, [[1] * 5 + [0, 0, 0]] * 4),
        (2**40, 2**40, 1, 1, False, [[1] * 5 + [0, 0, 0]]),
    ],
)
def test_numbers_that_are_no_geometry_are_refused(numbers: Any) -> None:
    with pytest.raises(RuntimeError, match="geometry: "):
        _core.Geometry(*numbers)


def test_unknown_choices_are_refused() -> None:
    geometry = LAYERS[0].geometry
    with pytest.raises(ParameterError, match=r"isa: got .mmx.; this processor has .*portable"):
        plan(geometry, isa="mmx")
    with pytest.raises(ParameterError, match="algorithm: got 'guess'"):
        plan(geometry, algorithm="guess")
    with pytest.raises(ParameterError, match="weight_gemm: refuses: the pass is forward"):
        plan(geometry, algorithm="weight_gemm")
    with pytest.raises(ParameterError, match="threads: got -1"):
        plan(geometry, threads=-1)


def _line(size: int, kernel: int, stride: int, pad: int = 0) -> Axis:
    return Axis(size, (size - 1) * stride + kernel - 2 * pad, kernel, stride, 1, pad, pad, 0)


# Seconds of work each, in units as large as the algorithm makes.
LONG = {
    "direct forward": Geometry(1, 512, 512, 1, (_line(512, 3, 1, 1),) * 2),
    "winograd forward": Geometry(1, 1024, 1024, 1, (_line(128, 4, 2, 1),) * 2),
    "winograd forward packed": Geometry(1, 1024, 1024, 1, (_line(128, 4, 2, 1),) * 2),
    "winograd data_gradient": Geometry(1, 1024, 1024, 1, (_line(128, 4, 2, 1),) * 2),
    "no_overlap forward": Geometry(1, 4096, 512, 1, (_line(128, 2, 2),) * 2),
    "strassen forward": Geometry(1, 4096, 512, 1, (_line(128, 2, 2),) * 2),
    "strassen data_gradient": Geometry(1, 512, 4096, 1, (_line(128, 2, 2),) * 2),
    "strassen_rows forward": Geometry(1, 2048, 2048, 1, (_line(128, 2, 2),) * 2, channels_last=True),
    "position_rows forward": Geometry(1, 2048, 2048, 1, (_line(128, 2, 2),) * 2, channels_last=True),
    "overlap_rows forward": Geometry(1, 2048, 4, 1, (_line(512, 5, 2, 2),) * 2, channels_last=True),
    "overlap_add forward": Geometry(1, 512, 512, 1, (_line(64, 16, 2),) * 2),
    "winograd_rows forward": Geometry(1, 1024, 8, 1, (_line(512, 9, 3, 4),) * 2),
    "winograd_rows data_gradient": Geometry(8, 1024, 8, 1, (_line(512, 9, 3, 4),) * 2),
    "phase_gemm forward": Geometry(1, 1024, 1024, 1, (_line(128, 4, 2, 1),) * 2),
    "phase_gemm data_gradient": Geometry(1, 4, 256, 1, (_line(8, 32, 1),) * 3),
    "position_lanes forward": Geometry(1, 1024, 64, 1, (_line(256, 4, 2, 1),) * 2),
    "phase_lanes forward": Geometry(1, 256, 64, 1, (_line(64, 64, 32),) * 2),
    "data_windows data_gradient": Geometry(1, 1024, 1024, 1, (_line(128, 4, 2, 1),) * 2),
    "window_dots data_gradient": Geometry(1, 1024, 1024, 1, (_line(16, 32, 16),) * 2),
    "copied_windows data_gradient": Geometry(1, 1024, 1024, 1, (_line(16, 32, 16),) * 2),
    "subpixel forward": Geometry(4, 2050, 1, 1, (_line(60000, 1024, 256),)),
    "depthwise forward": Geometry(4, 256, 256, 256, (_line(512, 4, 2, 1),) * 2),
    "single_position forward": Geometry(256, 8192, 2048, 1, (_line(1, 8, 1),) * 2),
    "weight_winograd weight_gradient": Geometry(2, 1024, 1024, 1, (_line(128, 4, 2, 1),) * 2),
    "weight_winograd_rows weight_gradient": Geometry(64, 64, 8, 1, (_line(256, 9, 3, 4),) * 2),
    "weight_dots weight_gradient": Geometry(64, 64, 8, 1, (_line(256, 9, 2, 4),) * 2),
    "weight_maps weight_gradient": Geometry(64, 8, 8, 8, (_line(512, 16, 2, 1),) * 2, channels_last=True),
    "weight_turned weight_gradient": Geometry(128, 16, 16, 16, (_line(256, 10, 2, 4),) * 2),
    "weight_windows weight_gradient": Geometry(2, 1024, 1024, 1, (_line(128, 4, 2, 1),) * 2),
    "weight_strassen weight_gradient": Geometry(2, 1024, 1024, 1, (_line(128, 4, 2, 1),) * 2),
    "weight_gemm weight_gradient": Geometry(2, 1024, 1024, 1, (_line(128, 4, 2, 1),) * 2),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("long", LONG)
def test_interrupt_stops_a_long_call(long: str, threads: int) -> None:
    geometry = LONG[long]
    algorithm, name, *packed = long.split()
    made = plan(geometry, name, algorithm=algorithm, threads=threads, packed=bool(packed), workspace=8 << 30)
    # Zeros that nobody has touched take no memory.
    small, weight, large = (
        np.zeros(shape, np.float32) for shape in (geometry.small_shape, geometry.weight_shape, geometry.large_shape)
    )
    source, second, out, bias = {
        "forward": (small, weight, large, np.ones(geometry.filters, np.float32)),
        "data_gradient": (large, weight, small, np.ones(geometry.channels, np.float32)),
        "weight_gradient": (small, large, weight, None),
    }[name]
    if bias is None:
        small[-1, :, -1] = large[-1] = 1
    operand = made.pack(second) if packed else second

    def interrupt() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=interrupt)
    # Whoever starts tests in the background may have the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            made.run(source, operand, bias, out)
        sender.join()
    finally:
        signal.signal(signal.SIGINT, before)
    # The last output has not got its bias, or not all sums the last position.
    if bias is None:
        tap, count = (
            (out[:, 1, 1], small.shape[1]) if geometry.channels_last else (out[:, :, 1, 1], small.shape[-1])
        )
        assert not (tap == count).all()
    else:
        assert not out[-1, -1].all()
    # The pool has survived.
    case = example(LAYERS[0].shrunk(1_000_000), "float32")
    assert_close(
        "forward", run(plan(case.geometry, threads=threads), case, "forward"), case, by_taps("forward", case)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("maps", [1, 2, 3, 5, 8, 21, 32, 33, 100])
def test_bias_gradient_on_every_instruction_set(maps: int, dtype: str) -> None:
    """Whole numbers add up exactly, and others alike whatever the width of a vector."""
    generator = np.random.default_rng(maps)
    kind = as_dtype(dtype)
    for rows in (1, 7, 130, 5000):
        whole = generator.integers(-3, 4, (2, rows, maps))
        for grad in (whole.astype(kind), generator.standard_normal(whole.shape).astype(kind)):
            apart = grad.swapaxes(1, 2).copy()
            short = grad.transpose(1, 2, 0).copy()
            for array, sizes in (
                (grad, (2 * rows, maps, 1)),
                (apart, (2, maps, rows)),
                (short, (rows, maps, 2)),
            ):
                found = []
                for isa in _core.isas():
                    out = np.full(maps, np.nan, kind)
                    _core.bias_gradient(array, *sizes, to_code(kind), out, isa, 2)
                    found.append(out)
                assert len({out.tobytes() for out in found}) == 1
                if (grad == whole).all():
                    np.testing.assert_array_equal(found[0], whole.sum(axis=(0, 1)).astype(kind))
