"""The compiled engine: hands solved geometries and plain arrays to `tconv._core`.

Arrays are what `tconv.engine` makes of a caller's: NumPy, C-contiguous, aligned, native, of the geometry's shapes
and one dtype, not empty, `out` apart from the inputs. A weight may also be a `KeptWeights`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import inf, prod
from time import perf_counter
from typing import Any

import numpy as np

from tconv import _core, knobs, tuning
from tconv.activations import NONE, Activation
from tconv.dtypes import COMPUTABLE, DType, is_computable, to_code
from tconv.errors import ParameterError
from tconv.geometry import Geometry, Shape

Array = np.ndarray[Any, Any]

name = "native"

PASSES = ("forward", "data_gradient", "weight_gradient")
"""The passes, in the order `_core` numbers them."""
FORWARD, DATA_GRADIENT, WEIGHT_GRADIENT = range(len(PASSES))

_STEADY = {
    ("depthwise", "depthwise_turned"): 1,
    ("overlap_rows",): 1,
    ("winograd",): 2,
    ("phase_gemm",): 1,
    ("position_lanes",): 1,
    ("direct",): 1,
}
"""Algorithms that compute an output alike wherever it lies on an axis with a grid; and positions of that grid."""

_PLANS_KEPT_BY_A_GEOMETRY = 16
_MOST_BYTES = 1 << 63
_HOPELESS = 20
_NO_CEILING = 1 << 62
_SECONDS_OF_TIMING = 0.02

_isa: str = knobs.read("isa")
_threads: int = knobs.read("threads")
_winograd_points: int = knobs.read("winograd_points")
_core.limit_cache(knobs.read("plans"))
_core.limit_kept_outputs(knobs.read("kept_outputs") << 20)


def empty(shape: Shape, dtype: DType) -> Array:
    """Return an array of undefined content.

    Fresh pages of memory cost more than most calls compute, so large arrays lie in huge pages, and memory of those
    that were freed is kept for the next, up to the knob `kept_outputs`. Where memory cannot be had, this raises
    MemoryError or ValueError.
    """
    nbytes = prod(shape) * dtype.itemsize
    if not _core.LEAST_MEMORY <= nbytes < _MOST_BYTES:
        return np.empty(shape, dtype)
    memory: Any = _core.Memory(nbytes)
    array: Array = np.ndarray(shape, dtype, memory)
    return array


def use_team(address: int) -> None:
    """Take the threads of the library whose `GOMP_parallel` lies at an address from now on; 0 for one's own."""
    _core.use_team(address)


def fingerprint(array: Array, *, threads: int | None = None) -> int:
    """Return a number of 64 bits that tells whether the bytes of a contiguous array have changed."""
    return _core.fingerprint(array, array.size, to_code(array.dtype), _threads if threads is None else threads)


KeptWeights = _core.KeptWeights
Weight = Array | KeptWeights


def refusal(geometry: Geometry, dtype: DType) -> str | None:
    """Say why this backend cannot compute, or return None."""
    if len(geometry.axes) > 3:
        return f"{len(geometry.axes)} spatial axes; need 1 to 3"
    if not is_computable(dtype):
        return f"dtype {dtype.name}; need one of {', '.join(COMPUTABLE)}"
    return None


def _solved(geometry: Geometry) -> _core.Geometry:
    return _core.Geometry(
        geometry.batch,
        geometry.channels,
        geometry.filters,
        geometry.groups,
        geometry.channels_last,
        geometry.axes,
    )


def plan_for(
    geometry: Geometry,
    pass_: int,
    dtype: DType,
    *,
    workspace: int,
    threads: int | None = None,
    isa: str | None = None,
    algorithm: str = "",
    packed: bool = False,
    tune: str | None = None,
    activation: Activation = NONE,
) -> _core.Plan:
    """Return the plan of a problem.

    Parameters
    ----------
    geometry : Geometry
        The problem.
    pass_ : int
        `FORWARD`, `DATA_GRADIENT` or `WEIGHT_GRADIENT`.
    dtype : dtype
        Of all arrays.
    workspace : int
        Ceiling of temporary memory in bytes.
    threads : int, optional
        Threads to use; by default the knob's, which by default means every core.
    isa : str, optional
        Instruction set to use; by default the knob's, which by default means the best.
    algorithm : str
        Algorithm to use; empty for the cheapest.
    packed : bool
        Whether the weights come packed.
    tune : str, optional
        `limited_workspace` for the algorithm that is fastest when timed, `fastest` to heed no ceiling at that.
    activation : Activation
        What is done to outputs at last; the weight gradient takes none.

    Raises
    ------
    ParameterError
        If the instruction set or the algorithm is unknown, or the algorithm refuses.
    """
    key = (pass_, dtype.num, workspace, threads, isa, algorithm, packed, tune, activation)
    # Kept with the geometry, which is solved once a shape: hashing one on each call costs more than a small layer.
    plans: dict[Any, _core.Plan] = geometry.__dict__.setdefault("_native_plans", {})
    plan = plans.get(key)
    if plan is None:
        if tune in ("fastest", "limited_workspace"):
            workspace = _NO_CEILING if tune == "fastest" else workspace
            algorithm = _fastest(geometry, pass_, dtype, workspace, packed)
        plan = _core.plan(
            _solved(geometry),
            pass_,
            to_code(dtype),
            workspace,
            _threads if threads is None else threads,
            _isa if isa is None else isa,
            algorithm,
            packed,
            activation,
            _winograd_points,
        )
        if len(plans) >= _PLANS_KEPT_BY_A_GEOMETRY:
            plans.clear()
        plans[key] = plan
    return plan


def bind(
    geometry: Geometry,
    pass_name: str,
    dtype: DType,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
    activation: Activation = NONE,
    weight: KeptWeights | None = None,
    algorithms: tuple[str, ...] = (),
    any_size: bool = False,
    known: _core.Bound | None = None,
) -> _core.Bound:
    """Do what `tconv.engine.bind` does; or add this geometry to the way that is `known`."""
    pass_ = PASSES.index(pass_name)
    limits: dict[str, Any] = {
        "workspace": workspace,
        "threads": threads,
        "packed": weight is not None,
        "activation": activation,
    }
    if algorithms:
        plan = _cheapest(geometry, pass_, dtype, algorithms, **limits)
    else:
        plan = plan_for(geometry, pass_, dtype, tune=tune, **limits)
    bound = known
    if bound is None:
        by_model = not algorithms and tune in (None, "off")
        bound = _core.Bound(dtype, weight, any_size and by_model)
    small, large = geometry.small_shape, geometry.large_shape
    source, result = {
        FORWARD: (small, large),
        DATA_GRADIENT: (large, small),
        WEIGHT_GRADIENT: (small, geometry.weight_shape),
    }[pass_]
    bound.add(plan, source, result)
    return bound


def _cheapest(
    geometry: Geometry, pass_: int, dtype: DType, algorithms: tuple[str, ...], **limits: Any
) -> _core.Plan:
    """Return the plan of the cheapest of `algorithms`; raise ParameterError if all refuse."""
    best, refused = None, None
    for algorithm in algorithms:
        try:
            plan = plan_for(geometry, pass_, dtype, algorithm=algorithm, **limits)
        except ParameterError as error:
            refused = error
            continue
        if best is None or plan.seconds < best.seconds:
            best = plan
    if best is None:
        assert refused is not None
        raise refused
    return best


def steady(geometry: Geometry, dtype: DType, *, workspace: int) -> tuple[tuple[str, ...], int]:
    """Return algorithms whose bits are the same wherever on an axis with a grid an output lies, and that grid.

    Of those that take the problem, the cheapest with packed weights on one thread, and its equals.
    """

    def seconds(algorithms: tuple[str, ...]) -> float:
        try:
            return _cheapest(
                geometry, FORWARD, dtype, algorithms, workspace=workspace, threads=1, packed=True
            ).seconds
        except ParameterError:
            return inf

    algorithms = min(_STEADY, key=seconds)
    return algorithms, _STEADY[algorithms]


def _weighted(
    geometry: Geometry,
    pass_: int,
    source: Array,
    weight: Weight,
    bias: Array | None,
    out: Array,
    **limits: Any,
) -> None:
    if isinstance(weight, KeptWeights):
        plan = plan_for(geometry, pass_, source.dtype, packed=True, **limits)
        plan.run(source, weight.operand_for(plan), bias, out)
    else:
        plan = plan_for(geometry, pass_, source.dtype, **limits)
        plan.run(source, weight, bias, out)


def forward(
    geometry: Geometry,
    data: Array,
    weight: Weight,
    bias: Array | None,
    out: Array,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
    activation: Activation = NONE,
) -> None:
    """Write the large side: `large[f, y] = bias[f] + sum of small[c, i] * weight[c, f, k]`."""
    limits = {"workspace": workspace, "threads": threads, "tune": tune, "activation": activation}
    _weighted(geometry, FORWARD, data, weight, bias, out, **limits)


def data_gradient(
    geometry: Geometry,
    out_grad: Array,
    weight: Weight,
    bias: Array | None,
    out: Array,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
    activation: Activation = NONE,
) -> None:
    """Write the small side: `small[c, i] = bias[c] + sum of large[f, y] * weight[c, f, k]`."""
    limits = {"workspace": workspace, "threads": threads, "tune": tune, "activation": activation}
    _weighted(geometry, DATA_GRADIENT, out_grad, weight, bias, out, **limits)


def weight_gradient(
    geometry: Geometry,
    data: Array,
    out_grad: Array,
    out: Array,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
) -> None:
    """Write the weight's gradient: `weight[c, f, k] = sum of small[c, i] * large[f, y]`."""
    plan = plan_for(geometry, WEIGHT_GRADIENT, data.dtype, workspace=workspace, threads=threads, tune=tune)
    plan.run(data, out_grad, None, out)


def bias_gradient(grad: Array, channel_axis: int, out: Array, *, threads: int | None = None) -> None:
    """Write the sums of `grad` over every axis but `channel_axis`."""
    bind_bias_gradient(grad.shape, channel_axis, grad.dtype, threads=threads)(grad, out)


def bind_bias_gradient(
    shape: Shape, channel_axis: int, dtype: DType, *, threads: int | None = None
) -> Callable[[Array, Array], None]:
    """Return a short way to repeat `bias_gradient` for arrays `grad` and `out`, `grad` of this shape and type."""
    outer, maps, inner = prod(shape[:channel_axis]), shape[channel_axis], prod(shape[channel_axis + 1 :])
    code = to_code(dtype)
    count = _threads if threads is None else threads

    def run(grad: Array, out: Array) -> None:
        _core.bias_gradient(grad, outer, maps, inner, code, out, _isa, count)

    return run


def time_algorithms(
    geometry: Geometry,
    pass_: int,
    dtype: DType,
    *,
    workspace: int,
    threads: int | None = None,
    packed: bool = False,
    chosen: str = "",
) -> dict[str, float]:
    """Return the seconds that algorithms take, on arrays of their own.

    Left out are those that refuse, and, but for `chosen`, those expected to take more than twenty times as long as
    the best.
    """
    limits: dict[str, Any] = {"workspace": workspace, "threads": threads, "packed": packed}
    expected = dict(plan_for(geometry, pass_, dtype, **limits).costs)
    random = np.random.default_rng(0)
    small, weight, large = (
        random.standard_normal(shape, np.float32).astype(dtype)
        for shape in (geometry.small_shape, geometry.weight_shape, geometry.large_shape)
    )
    source, second, out = {
        FORWARD: (small, weight, np.empty_like(large)),
        DATA_GRADIENT: (large, weight, np.empty_like(small)),
        WEIGHT_GRADIENT: (small, large, np.empty_like(weight)),
    }[pass_]
    found = {}
    for algorithm, seconds in expected.items():
        if seconds > _HOPELESS * min(expected.values()) and algorithm != chosen:
            continue
        plan = plan_for(geometry, pass_, dtype, algorithm=algorithm, **limits)
        operand = plan.pack(weight) if packed else second
        found[algorithm] = _time(lambda: plan.run(source, operand, None, out))  # noqa: B023 - called at once
    return found


def _fastest(geometry: Geometry, pass_: int, dtype: DType, workspace: int, packed: bool) -> str:
    """Return the algorithm that was fastest for a problem when first asked for, timing them if nobody has yet.

    As where the cost model chooses, neither the batch nor the threads of a call may decide, lest they change bits.
    """
    g = replace(geometry, batch=_core.usual_batch(_solved(geometry)))
    isa = _isa or _core.isas()[0]
    axes = " ".join(",".join(map(str, axis)) for axis in g.axes)
    problem = f"{PASSES[pass_]} {dtype.name} {isa} {g.batch},{g.channels},{g.filters},{g.groups} {axes}"
    problem += f" last={g.channels_last:d} packed={packed:d} workspace={workspace}"
    algorithm = tuning.recall(problem)
    if algorithm is None:
        try:
            seconds = time_algorithms(g, pass_, dtype, workspace=workspace, threads=1, packed=packed)
        except MemoryError:
            return ""
        algorithm = tuning.remember(problem, min(seconds, key=seconds.__getitem__))
    refused = dict(plan_for(geometry, pass_, dtype, workspace=workspace, packed=packed).refusals)
    return algorithm if algorithm in _core.algorithms() and algorithm not in refused else ""


def _time(run: Callable[[], None]) -> float:
    """Return the least seconds of a call."""
    run()
    least = inf
    started = now = perf_counter()
    while now - started < _SECONDS_OF_TIMING:
        before = now
        run()
        now = perf_counter()
        least = min(least, now - before)
    return least


@cache
def peak(code: int, isa: str) -> float:
    """Return the operations a second that one thread's product kernels reach, measured once."""
    return _core.peak(code, isa)


def explain(
    geometry: Geometry,
    pass_name: str,
    dtype: DType,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
    packed: bool = False,
    measure: bool = False,
) -> dict[str, Any]:
    """Return what would run and what it would cost, under the names of `_core.Plan`'s properties.

    With `measure`, also the seconds that it and its competitors take, and what share of the peak that makes.
    """
    pass_ = PASSES.index(pass_name)
    plan = plan_for(geometry, pass_, dtype, workspace=workspace, threads=threads, packed=packed, tune=tune)
    told: dict[str, Any] = {
        "algorithm": plan.algorithm,
        "kernel": plan.kernel,
        "isa": plan.isa,
        "threads": plan.threads,
        "seconds": plan.seconds,
        "flops": plan.flops,
        "array_bytes": plan.array_bytes,
        "workspace_bytes": plan.workspace_bytes,
        "packed_bytes": plan.packed_bytes,
        "expected": dict(plan.costs),
        "refusals": dict(plan.refusals),
    }
    if measure:
        limits: dict[str, Any] = {"workspace": workspace, "threads": threads, "packed": packed}
        told["measured"] = time_algorithms(geometry, pass_, dtype, chosen=plan.algorithm, **limits)
        rate = plan.flops / told["measured"][plan.algorithm]
        told["share_of_peak"] = rate / (plan.threads * peak(to_code(dtype), plan.isa))
    return told


BENDS = ("none", "leaky", "sigmoid", "tanh")
"""What `pointwise` does to every element at last, in the order `_core` numbers them."""

ByRow = tuple[Array | None, int]


def pointwise(
    x: Array,
    z: Array | None,
    scale: ByRow,
    shift: ByRow,
    slope: ByRow,
    bend: str,
    rows: int,
    inner: int,
    out: Array,
) -> None:
    """Write `bend(x * scale + shift + z)`, all float32; `out` may be `x` or `z`.

    `scale`, `shift` and `slope` are numbers by row and how many there are before they begin anew, or (None, 1).
    """
    _core.pointwise(x, z, scale, shift, slope, BENDS.index(bend), rows, inner, out, _isa, _threads)


def pool(x: Array, maps: int, axes: list[list[int]], factors: tuple[Array, Array] | None, out: Array) -> None:
    """Write the largest element of every window of float32 maps, or sums times factors by row and by column.

    Each of the two axes is (size, out, kernel, stride, pad).
    """
    rows, columns = factors or (None, None)
    _core.pool(x, maps, axes, rows, columns, out, _isa, _threads)
