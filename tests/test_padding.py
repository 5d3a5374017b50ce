"""Pad modes, pads of two ends, and adj of any size: against the definition, the reference, and each other."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tconv
from oracles import ROUNDING, Example, by_backend, by_engine, example, terms
from strategies import geometries
from tconv import convolution, deconvolution, deconvolution_gradients, padding
from tconv.backends import reference
from tconv.errors import ParameterError, ShapeError
from tconv.geometry import PAD_MODES, Axis, Geometry, Window, solve_deconvolution

Array = np.ndarray[Any, Any]

NUMPY_MODES = {"zero": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}
CONTINUED = PAD_MODES[1:]


@st.composite
def cases(draw: st.DrawFn, dtype: str = "float64") -> Example:
    """Draw a problem with a pad mode, its pads up to several times its size, and small enough for the reference."""
    geometry = draw(geometries())
    assume(prod(axis.size * axis.kernel for axis in geometry.axes) * geometry.groups <= 200)
    assume(all(axis.out > 0 for axis in geometry.axes))
    geometry = replace(geometry, pad_mode=draw(st.sampled_from(CONTINUED)))
    return example(geometry, dtype, draw(st.integers(0, 99)), bias=draw(st.booleans()))


def words(geometry: Geometry) -> dict[str, Any]:
    layout = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}[len(geometry.axes)]
    return {
        "stride": [axis.stride for axis in geometry.axes],
        "pad": [(axis.pad_lo, axis.pad_hi) for axis in geometry.axes],
        "dilate": [axis.dilation for axis in geometry.axes],
        "num_group": geometry.groups,
        "layout": layout[geometry.channels_last],
        "pad_mode": geometry.pad_mode,
    }


@settings(max_examples=150)
@given(cases())
def test_engine_agrees_with_the_reference(case: Example) -> None:
    for name in ("forward", "data_gradient", "weight_gradient"):
        expected = by_backend(reference, name, case)
        got = by_engine(name, case)
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max(initial=1))


@settings(max_examples=80)
@given(cases())
def test_public_functions_take_every_pad(case: Example) -> None:
    geometry = case.geometry
    said, adj = words(geometry), [axis.adj for axis in geometry.axes]
    expected = by_backend(reference, "forward", case)
    tolerance = {"rtol": 1e-11, "atol": 1e-11 * np.abs(expected).max(initial=1)}
    y = deconvolution(case.small, case.weight, case.large_bias, adj=adj, **said)
    np.testing.assert_allclose(y, expected, **tolerance)
    prepared = tconv.prepare(case.weight, case.large_bias, adj=adj, **said)
    for _ in range(2):
        np.testing.assert_allclose(prepared(case.small, out=np.empty_like(y)), expected, **tolerance)
    gradients = deconvolution_gradients(case.small, case.weight, case.large, adj=adj, **said)
    plain = replace(case, small_bias=None)
    np.testing.assert_allclose(gradients.data, by_backend(reference, "data_gradient", plain), atol=1e-10)
    np.testing.assert_allclose(gradients.weight, by_backend(reference, "weight_gradient", case), atol=1e-10)
    x = convolution(case.large, case.weight, case.small_bias, **said)
    np.testing.assert_allclose(x, by_backend(reference, "data_gradient", case), atol=1e-10)


@given(cases())
def test_passes_are_adjoint(case: Example) -> None:
    plain = replace(case, small_bias=None, large_bias=None)
    forward = np.vdot(by_engine("forward", plain), case.large)
    assert np.vdot(case.small, by_engine("data_gradient", plain)) == pytest.approx(forward, rel=1e-9, abs=1e-9)
    assert np.vdot(case.weight, by_engine("weight_gradient", plain)) == pytest.approx(forward, rel=1e-9, abs=1e-9)


@settings(max_examples=60)
@given(cases())
def test_convolution_reads_what_numpy_pads(case: Example) -> None:
    said = words(case.geometry)
    said["pad"] = [(max(low, 0), max(high, 0)) for low, high in said["pad"]]
    around: list[tuple[int, int]] = [(0, 0)]
    spread = [*around, *said["pad"], *around] if case.geometry.channels_last else [*around * 2, *said["pad"]]
    padded = np.pad(case.large, spread, NUMPY_MODES[said["pad_mode"]])  # type: ignore[call-overload]
    expected = convolution(padded, case.weight, case.small_bias, **{**said, "pad": 0})
    got = convolution(case.large, case.weight, case.small_bias, **said)
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", CONTINUED)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_fill_continues_as_numpy_does(mode: str, size: int) -> None:
    axis = Axis(size, size, 1, 1, 1, 9, 4, 13)
    geometry = Geometry(1, 1, 1, 1, (axis,), pad_mode=mode)
    large = np.arange(size, dtype=float).reshape(1, 1, size)
    wide = np.empty(padding.widened(geometry).large_shape)
    padding.fill(geometry, large, wide)
    np.testing.assert_array_equal(wide[0, 0], np.pad(large[0, 0], (9, 4), NUMPY_MODES[mode]))  # type: ignore[call-overload]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("mode", CONTINUED)
def test_shorter_types(dtype: str, mode: str) -> None:
    axis = Axis(6, 11, 4, 2, 1, 2, 2, 1)
    case = example(Geometry(2, 3, 4, 1, (axis, axis), pad_mode=mode), dtype)
    expected = by_backend(reference, "forward", case.map(lambda array: array.astype(np.float64)))
    got = by_engine("forward", case)
    assert got.dtype == case.small.dtype
    # Up to four borders meet in a corner.
    allowed = 8 * ROUNDING[dtype] * terms(case.geometry, "forward") * np.abs(expected).max()
    assert np.abs(got.astype(np.float64) - expected).max() <= allowed


def test_pads_that_cut_nothing_need_no_mode() -> None:
    window = Window((3,), (2,), (1,), ((-1, 0),), (0,), filters=1, pad_mode="circular")
    assert solve_deconvolution("test", window, (1, 1, 5)).pad_mode == "zero"


def test_threads_and_batch_change_no_bit() -> None:
    generator = np.random.default_rng(5)
    x = generator.standard_normal((5, 16, 9, 8)).astype(np.float32)
    w = generator.standard_normal((16, 12, 4, 4)).astype(np.float32)
    said: dict[str, Any] = {"stride": 2, "pad": ((2, 1), (3, 0)), "pad_mode": "reflect"}
    whole = deconvolution(x, w, threads=1, **said)
    assert deconvolution(x, w, threads=3, **said).tobytes() == whole.tobytes()
    assert deconvolution(x[1:3], w, **said).tobytes() == whole[1:3].tobytes()


def test_two_ends_and_negative_pads() -> None:
    x, w = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1.0, 10.0, 100.0]]])
    full = deconvolution(x, w, stride=2)
    np.testing.assert_array_equal(deconvolution(x, w, stride=2, pad=((2, 1),)), full[..., 2:-1])
    extended = deconvolution(x, w, np.array([5.0]), stride=2, pad=((-2, 0),))
    np.testing.assert_array_equal(extended, np.concatenate([[[[5.0, 5.0]]], full + 5], axis=2))
    two = np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))
    assert deconvolution(*two, pad=(1, (0, -2))).shape == (1, 1, 4, 8)
    assert convolution(np.ones((1, 1, 9)), np.ones((1, 1, 3)), pad=((-2, 1),)).shape == (1, 1, 6)


def test_any_adj_and_any_target() -> None:
    x, w = np.array([[[1.0, 2.0]]]), np.array([[[1.0, 10.0]]])
    np.testing.assert_array_equal(
        deconvolution(x, w, stride=2, adj=3, adj_rule="any"), [[[1.0, 10.0, 2.0, 20.0, 0.0, 0.0, 0.0]]]
    )
    np.testing.assert_array_equal(deconvolution(x, w, adj=1, adj_rule="any"), [[[1.0, 12.0, 20.0, 0.0]]])
    for target in range(1, 9):
        y = deconvolution(x, w, target_shape=target, adj_rule="any")
        assert y.shape == (1, 1, target)
        gradients = deconvolution_gradients(x, w, y, target_shape=target, adj_rule="any")
        assert gradients.data.shape == x.shape
    with pytest.raises(ShapeError, match=r"adj: got \(2,\) with stride \(2,\); each adj must be below its stride"):
        deconvolution(x, w, stride=2, adj=2)


def test_refuses() -> None:
    x, w = np.ones((1, 1, 3)), np.ones((1, 1, 2))
    for said, sentence in (
        ({"pad_mode": "mirror"}, "pad_mode: got 'mirror'; need one of zero, circular, reflect, replicate"),
        ({"pad_mode": None}, "pad_mode: got None; need one of"),
        ({"adj_rule": "all"}, "adj_rule: got 'all'; need one of below_stride, any"),
        ({"pad": (0, 1)}, r"pad: got \(0, 1\); need a 64-bit int, or for each of 1 axes one or a pair"),
        ({"pad": ((0, 1, 2),)}, "pad: got"),
        ({"pad": ((0, 0.5),)}, "pad: got"),
    ):
        with pytest.raises(ParameterError, match=rf"^deconvolution: {sentence}"):
            deconvolution(x, w, **said)
    with pytest.raises(ShapeError, match="pad_mode circular needs an output on axis 0"):
        deconvolution(x, w, pad=2, pad_mode="circular")
