"""The slow reference, against hand, SciPy, its own adjoints and numeric gradients."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from oracles import DTYPES, PASSES, Example, assert_close, by_backend, by_taps, example
from problem_list import Problem, load
from strategies import examples, geometries
from tconv.backends import reference
from tconv.dtypes import as_dtype
from tconv.geometry import Geometry, Window, solve_deconvolution

Array = np.ndarray[Any, Any]


def solved(kernel: Any, stride: Any, data: Any, filters: int = 1, **rest: Any) -> Geometry:
    rank = len(kernel)
    window = Window(
        kernel,
        stride,
        rest.get("dilation", (1,) * rank),
        rest.get("pad", ((0, 0),) * rank),
        rest.get("adj", (0,) * rank),
        filters,
        rest.get("groups", 1),
        channels_last=rest.get("channels_last", False),
    )
    return solve_deconvolution("Deconvolution", window, data)


def forward(geometry: Geometry, data: Any, weight: Any, bias: Any = None, dtype: str = "float64") -> Array:
    small = np.array(data, dtype).reshape(geometry.small_shape)
    kernel = np.array(weight, dtype).reshape(geometry.weight_shape)
    out = np.full(geometry.large_shape, np.nan, dtype)
    offset = None if bias is None else np.array(bias, dtype)
    reference.forward(geometry, small, kernel, offset, out, workspace=0)
    return out


def test_dilation_meets_stride_by_hand() -> None:
    out = forward(solved((3,), (2,), (1, 1, 3), dilation=(2,)), [1, 2, 3], [1, 10, 100])
    assert out.ravel().tolist() == [1, 0, 12, 0, 123, 0, 230, 0, 300]


def test_pad_cuts_and_adj_adds_by_hand() -> None:
    out = forward(solved((3,), (3,), (1, 1, 3), pad=((1, 0),), adj=(2,)), [1, 2, 3], [1, 10, 100])
    assert out.ravel().tolist() == [10, 100, 2, 20, 200, 3, 30, 300, 0, 0]


def test_two_axes_by_hand() -> None:
    out = forward(solved((2, 2), (1, 2), (1, 1, 2, 2)), [[1, 2], [3, 4]], [[1, 10], [100, 1000]])
    assert out[0, 0].tolist() == [[1, 10, 2, 20], [103, 1030, 204, 2040], [300, 3000, 400, 4000]]


def test_three_axes_by_hand() -> None:
    weight = np.arange(1, 9).reshape(2, 2, 2)
    out = forward(solved((2, 2, 2), (2, 2, 2), (1, 1, 1, 1, 2)), [1, 10], weight)
    assert out[0, 0].tolist() == [[[1, 2, 10, 20], [3, 4, 30, 40]], [[5, 6, 50, 60], [7, 8, 70, 80]]]


def test_groups_and_bias_by_hand() -> None:
    geometry = solved((1,), (1,), (1, 4, 1), filters=4, groups=2)
    weight = [[1, 2], [3, 4], [5, 6], [7, 8]]
    # Filters 0 and 1 see channels 0 and 1, filters 2 and 3 the others.
    out = forward(geometry, [1, 10, 100, 1000], weight, bias=[0.5, 0, 0, -0.5])
    assert out.ravel().tolist() == [31.5, 42, 7500, 8599.5]


def test_channels_last_by_hand() -> None:
    geometry = solved((2,), (2,), (1, 2, 2), filters=3, channels_last=True)
    weight = np.arange(12).reshape(2, 2, 3)
    out = forward(geometry, [[1, 0], [0, 1]], weight)
    # The first position shows channel 0, the second channel 1: (kernel, filters) of each.
    assert out[0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_gradients_by_hand() -> None:
    geometry = solved((3,), (2,), (1, 1, 2))
    data, weight, grad = (
        np.array([[[1.0, 2]]]),
        np.array([[[3.0, 4, 5]]]),
        np.array([[[1.0, 10, 100, 1000, 10000]]]),
    )
    data_grad, weight_grad, bias_grad = np.empty((1, 1, 2)), np.empty((1, 1, 3)), np.empty(1)
    reference.data_gradient(geometry, grad, weight, None, data_grad, workspace=0)
    reference.weight_gradient(geometry, data, grad, weight_grad, workspace=0)
    reference.bias_gradient(grad, 1, bias_grad)
    assert data_grad.ravel().tolist() == [3 + 40 + 500, 300 + 4000 + 50000]
    assert weight_grad.ravel().tolist() == [1 + 200, 10 + 2000, 100 + 20000]
    assert bias_grad.tolist() == [11111]


def by_scipy(case: Example) -> Array:
    """Stuff the data with zeros, dilate the kernel, convolve, cut."""
    geometry, axes = case.geometry, case.geometry.axes
    per_group = geometry.channels // geometry.groups, geometry.filters // geometry.groups
    out = np.zeros(geometry.large_shape)
    for n, c, f in product(range(geometry.batch), range(geometry.channels), range(per_group[1])):
        stuffed = np.zeros([(axis.size - 1) * axis.stride + 1 for axis in axes])
        stuffed[tuple(slice(None, None, axis.stride) for axis in axes)] = case.small[n, c]
        kernel = np.zeros([(axis.kernel - 1) * axis.dilation + 1 for axis in axes])
        kernel[tuple(slice(None, None, axis.dilation) for axis in axes)] = case.weight[c, f]
        full = signal.convolve(stuffed, kernel, method="direct")
        widths = [(max(0, -axis.pad_lo), max(0, axis.adj - axis.pad_hi)) for axis in axes]
        full = np.pad(full, widths)
        starts = [max(0, axis.pad_lo) for axis in axes]
        cut = tuple(slice(start, start + axis.out) for start, axis in zip(starts, axes))
        out[n, c // per_group[0] * per_group[1] + f] += full[cut]
    if case.large_bias is not None:
        out += case.large_bias.reshape(-1, *(1,) * len(axes))
    return out


@settings(max_examples=40)
@given(geometries(), st.integers(0, 99), st.booleans())
def test_forward_is_a_convolution_of_stuffed_data(geometry: Geometry, seed: int, bias: bool) -> None:
    geometry = Geometry(*[getattr(geometry, name) for name in ("batch", "channels", "filters", "groups", "axes")])
    case = example(geometry, seed=seed, bias=bias)
    got = by_backend(reference, "forward", case)
    np.testing.assert_allclose(got, by_scipy(case), rtol=1e-12, atol=1e-12)


@settings(max_examples=60)
@given(geometries(), st.integers(0, 99))
def test_passes_are_adjoint(geometry: Geometry, seed: int) -> None:
    case = example(geometry, seed=seed, bias=False)
    forth = np.vdot(case.large, by_backend(reference, "forward", case))
    back = np.vdot(case.small, by_backend(reference, "data_gradient", case))
    weigh = np.vdot(case.weight, by_backend(reference, "weight_gradient", case))
    assert back == pytest.approx(forth, rel=1e-10, abs=1e-10)
    assert weigh == pytest.approx(forth, rel=1e-10, abs=1e-10)


@settings(max_examples=10)
@given(examples(dtypes=("float64",)))
def test_gradients_are_numeric_gradients(case: Example) -> None:
    def value(**changed: Array) -> float:
        moved = Example(**{**vars(case), **changed})
        return float(np.vdot(case.large, by_backend(reference, "forward", moved)))

    for name, argument in (("data_gradient", "small"), ("weight_gradient", "weight")):
        gradient = by_backend(reference, name, Example(**{**vars(case), "small_bias": None}))
        at = getattr(case, argument)
        for index in list(np.ndindex(at.shape))[:12]:
            step = np.zeros_like(at)
            step[index] = 0.5
            # The operator is linear in each argument, so any step is exact.
            slope = value(**{argument: at + step}) - value(**{argument: at - step})
            assert gradient[index] == pytest.approx(slope, rel=1e-9, abs=1e-9)


@given(examples())
def test_sum_over_taps_agrees(case: Example) -> None:
    for name in PASSES:
        assert_close(name, by_backend(reference, name, case), case, by_taps(name, case))


@pytest.mark.parametrize("problem", load("corners"), ids=str)
@pytest.mark.parametrize("name", PASSES)
def test_corner(problem: Problem, name: str) -> None:
    case = example(problem.shrunk(20_000), whole=3)
    np.testing.assert_array_equal(by_backend(reference, name, case), by_taps(name, case))


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_is_rounded_once(dtype: str) -> None:
    # 1 + 2**-9 + ... needs more bits than the short types have until everything is summed.
    parts = np.array([1.0, *[2.0**-9] * 2**9], dtype=as_dtype(dtype)).reshape(1, -1, 1)
    geometry = solved((1,), (1,), parts.shape)
    case = Example(geometry, parts, np.ones(geometry.weight_shape, parts.dtype), parts[:, :1], None, None)
    assert float(by_backend(reference, "forward", case)[0, 0, 0]) == 2.0


def test_nan_and_infinity_pass_through_zeros() -> None:
    geometry = solved((2,), (1,), (1, 1, 3))
    out = forward(geometry, [np.inf, 0, 1], [0, 1], dtype="float32").ravel()
    np.testing.assert_array_equal(out, np.array([np.nan, np.inf, 0, 1], np.float32))
    out = forward(geometry, [np.nan, 0, 1], [1, 0], dtype="float32").ravel()
    np.testing.assert_array_equal(out, np.array([np.nan, np.nan, 1, 0], np.float32))


def test_overflow_of_a_short_type_is_infinity() -> None:
    out = forward(solved((1,), (1,), (1, 1, 2)), [60000, -60000], [2], dtype="float16").ravel()
    assert out.tolist() == [np.inf, -np.inf]


def test_reference_refuses_nothing() -> None:
    for dtype in DTYPES:
        assert reference.refusal(load("corners")[0].geometry, as_dtype(dtype)) is None
