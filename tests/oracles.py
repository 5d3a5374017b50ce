"""What results are held against: the reference, and a quicker float64 sum over taps for larger problems.

A pass is named as in `tconv.engine`: `forward` (small to large side), `data_gradient` (large to small) and
`weight_gradient`. An `Example` holds arrays for all three.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import gcd, prod
from types import ModuleType
from typing import Any

import numpy as np

from tconv import engine
from tconv.dtypes import as_dtype
from tconv.geometry import Geometry

Array = np.ndarray[Any, Any]

PASSES = ("forward", "data_gradient", "weight_gradient")
DTYPES = ("float32", "float64", "float16", "bfloat16")
# Half the distance from 1 to the next number: of the result; of the sums, which are float32 for the short types.
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SUMMING = {**dict.fromkeys(DTYPES, ROUNDING["float32"]), "float64": ROUNDING["float64"]}
TINIEST = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
AMPLE = 2**40


@dataclass(frozen=True)
class Example:
    """A geometry and arrays for each side of it; a pass reads two of them and, but for the weight's, a bias."""

    geometry: Geometry
    small: Array
    weight: Array
    large: Array
    small_bias: Array | None
    large_bias: Array | None

    def inputs(self, name: str) -> tuple[Array, ...]:
        """Return the arrays a pass reads; the bias, where it has one, last."""
        read = {
            "forward": (self.small, self.weight, self.large_bias),
            "data_gradient": (self.large, self.weight, self.small_bias),
            "weight_gradient": (self.small, self.large),
        }[name]
        return tuple(array for array in read if array is not None)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape a pass gives."""
        geometry = self.geometry
        shapes = {"forward": geometry.large_shape, "data_gradient": geometry.small_shape}
        return shapes.get(name, geometry.weight_shape)

    def map(self, change: Any) -> Example:
        """Return the example with every array changed."""
        names = ("small", "weight", "large", "small_bias", "large_bias")
        changed = {name: change(array) for name in names if (array := getattr(self, name)) is not None}
        return replace(self, **changed)


def example(
    geometry: Geometry, dtype: str = "float64", seed: int = 0, bias: bool = True, whole: int = 0
) -> Example:
    """Fill arrays with normal numbers, or with whole numbers from -`whole` to `whole`."""
    generator = np.random.default_rng(seed)

    def fill(*shape: int) -> Array:
        if whole:
            return generator.integers(-whole, whole + 1, shape).astype(as_dtype(dtype))
        return generator.standard_normal(shape).astype(as_dtype(dtype))

    return Example(
        geometry,
        fill(*geometry.small_shape),
        fill(*geometry.weight_shape),
        fill(*geometry.large_shape),
        fill(geometry.channels) if bias else None,
        fill(geometry.filters) if bias else None,
    )


def by_engine(name: str, case: Example, out: Array | None = None, workspace: int = AMPLE, **rest: Any) -> Array:
    """Run a pass through the engine."""
    result: Array = getattr(engine, name)(case.geometry, *case.inputs(name), out=out, workspace=workspace, **rest)
    return result


def by_backend(backend: ModuleType, name: str, case: Example, out: Array | None = None) -> Array:
    """Run a pass of a backend."""
    inputs = case.inputs(name)
    if name != "weight_gradient" and len(inputs) == 2:
        inputs = (*inputs, None)  # type: ignore[assignment]
    result = np.empty(case.shape(name), case.small.dtype) if out is None else out
    getattr(backend, name)(case.geometry, *inputs, result, workspace=AMPLE)
    return result


def by_taps(name: str, case: Example) -> Array:
    """Sum a pass in float64, one matrix product for each tap of the kernel."""
    geometry, groups = case.geometry, case.geometry.groups
    rank = len(geometry.axes)

    def open_up(array: Array, maps: int, sizes: list[int]) -> Array:
        wide = array.astype(np.float64)
        first = np.moveaxis(wide, -1, 1) if geometry.channels_last else wide
        return first.reshape(geometry.batch, groups, maps // groups, *sizes)

    small = open_up(case.small, geometry.channels, [axis.size for axis in geometry.axes])
    large = open_up(case.large, geometry.filters, [axis.out for axis in geometry.axes])
    weight = case.weight.astype(np.float64)
    if geometry.channels_last:
        weight = np.moveaxis(weight, -1, 1)
    weight = weight.reshape(groups, geometry.channels // groups, *weight.shape[1:])
    result = np.zeros_like({"forward": large, "data_gradient": small, "weight_gradient": weight}[name])
    for tap in product(*(range(axis.kernel) for axis in geometry.axes)):
        here, there = _met(geometry, tap)
        values = weight[(..., *tap)]
        pixels, grads = small[(..., *here)], large[(..., *there)]
        met = pixels.shape[3:]
        columns = pixels.reshape(*pixels.shape[:3], prod(met))
        rows = grads.reshape(*grads.shape[:3], prod(met))
        if name == "forward":
            result[(..., *there)] += (values.swapaxes(1, 2) @ columns).reshape(*rows.shape[:3], *met)
        elif name == "data_gradient":
            result[(..., *here)] += (values @ rows).reshape(*columns.shape[:3], *met)
        else:
            result[(..., *tap)] += (columns @ rows.swapaxes(2, 3)).sum(axis=0)
    if name == "weight_gradient":
        result = result.reshape(geometry.channels, *result.shape[2:])
    else:
        result = result.reshape(geometry.batch, groups * result.shape[2], *result.shape[3:])
        if len(bias := case.inputs(name)[2:]):
            result += bias[0].astype(np.float64).reshape(-1, *(1,) * rank)
    return np.moveaxis(result, 1, -1) if geometry.channels_last else result


def _met(geometry: Geometry, tap: tuple[int, ...]) -> tuple[list[slice], list[slice]]:
    """Return which small positions a tap carries onto the large side, and where to."""
    here, there = [], []
    for axis, k in zip(geometry.axes, tap):
        offset = k * axis.dilation - axis.pad_lo
        first = max(0, -(offset // axis.stride))
        last = min(axis.size, (axis.out - 1 - offset) // axis.stride + 1)
        count = max(0, last - first)
        start = first * axis.stride + offset if count else 0
        here.append(slice(first, first + count))
        there.append(slice(start, start + count * axis.stride, axis.stride) if count else slice(0, 0))
    return here, there


def terms(geometry: Geometry, name: str) -> int:
    """Bound the number of terms of one sum of a pass, its bias included."""
    per_position = prod(
        min(axis.size, -(-axis.kernel * gcd(axis.stride, axis.dilation) // axis.stride)) for axis in geometry.axes
    )
    return (
        1
        + {
            "forward": geometry.channels // geometry.groups * per_position,
            "data_gradient": geometry.filters // geometry.groups * prod(axis.kernel for axis in geometry.axes),
            "weight_gradient": geometry.batch * prod(axis.size for axis in geometry.axes),
        }[name]
    )


def allowance(name: str, case: Example) -> float:
    """Return how far sums may be off: one rounding for each term, relative to the largest sum of absolute terms."""
    magnitude = float(by_taps(name, case.map(np.abs)).max(initial=0.0))
    return SUMMING[case.small.dtype.name] * (terms(case.geometry, name) + 2) * magnitude


@cache
def solved(geometry: Geometry, dtype: str) -> tuple[Example, dict[str, tuple[Array, float]]]:
    """Return an example, and for each pass its result and what it may be off."""
    case = example(geometry, dtype)
    return case, {name: (by_taps(name, case), allowance(name, case)) for name in PASSES}


def assert_close(name: str, got: Array, case: Example, expected: Array, allowed: float | None = None) -> None:
    """Check a pass against its float64 result; one rounding of the result is allowed beside `allowance`."""
    dtype = case.small.dtype.name
    if allowed is None:
        allowed = allowance(name, case)
    assert got.dtype == case.small.dtype.newbyteorder("=")
    assert got.shape == case.shape(name)
    difference = np.abs(got.astype(np.float64) - expected)
    # A NaN in here is no excess and would pass any comparison but this one.
    assert not np.isnan(difference).any(), f"{name} of {case.geometry} in {dtype}: NaN"
    excess = difference - ROUNDING[dtype] * np.abs(expected) - TINIEST[dtype]
    worst = excess.max(initial=-1.0)
    assert worst <= allowed, f"{name} of {case.geometry} in {dtype}: off by {worst}, allowed {allowed}"
