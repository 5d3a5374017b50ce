"""Loops between convolutions: against NumPy in float64, for every instruction set, with any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from tconv import _core, loops
from tconv.backends import native
from tconv.errors import ParameterError, ShapeError

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(params=_core.isas())
def _isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_isa", request.param)


BENDS = {
    "none": lambda y, slope: y,
    "leaky": lambda y, slope: np.where(y > 0, y, y * slope),
    "sigmoid": lambda y, slope: 1 / (1 + np.exp(-y)),
    "tanh": lambda y, slope: np.tanh(y),
}


@pytest.mark.usefixtures("_isa")
@pytest.mark.parametrize("bend", BENDS)
@pytest.mark.parametrize("shape", [(2, 3), (1, 5, 7), (3, 2, 40000), (2, 70, 3, 3)])
def test_pointwise(shape: tuple[int, ...], bend: str) -> None:
    x, z = normal(*shape), normal(*shape)
    along = (1, shape[1], *[1] * (len(shape) - 2))
    each = (*shape[:2], *[1] * (len(shape) - 2))
    for scale, shift, slope in (
        (None, None, np.zeros(1, np.float32)),
        (normal(shape[1]), normal(1), normal(1)),
        (normal(shape[0] * shape[1]), normal(shape[1]), normal(shape[1])),
    ):

        def spread(row: np.ndarray | None, neutral: float) -> np.ndarray:
            if row is None or row.size == 1:
                return np.float64(neutral if row is None else row[0])
            return row.reshape(along if row.size == shape[1] else each).astype(np.float64)

        for other in (None, z):
            y = x * spread(scale, 1) + spread(shift, 0) + (0 if other is None else other.astype(np.float64))
            expected = BENDS[bend](y, spread(slope, 0))
            own = x.copy()
            for source, out in ((x, np.empty_like(x)), (own, own)):
                assert loops.pointwise(source, out, z=other, scale=scale, shift=shift, bend=bend, slope=slope)
                np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.usefixtures("_isa")
@pytest.mark.filterwarnings("ignore:overflow")
def test_pointwise_at_the_ends_of_the_range() -> None:
    x = np.array([[[np.nan, np.inf, -np.inf, 0.0, 1e-30, -1e-30, 100, -100, 0.6249, -0.6251]]], np.float32)
    for bend, expected in (
        ("leaky", [np.nan, np.inf, 0, 0, 1e-30, 0, 100, 0, 0.6249, 0]),
        ("tanh", np.tanh(x[0, 0].astype(np.float64))),
        ("sigmoid", 1 / (1 + np.exp(-x[0, 0].astype(np.float64)))),
    ):
        out = np.empty_like(x)
        assert loops.pointwise(x, out, bend=bend)
        np.testing.assert_allclose(out[0, 0], expected, rtol=1e-6, atol=1e-37)


@pytest.mark.usefixtures("_isa")
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2), (1, 1, 0)])
def test_pool(kernel: int, stride: int, pad: int) -> None:
    x = normal(2, 3, 11, 37)
    sizes = [(n + 2 * pad - kernel) // stride + 1 for n in x.shape[2:]]
    axes = [[n, out, kernel, stride, pad] for n, out in zip(x.shape[2:], sizes)]
    margins = [(0, 0), (0, 0), (pad, kernel), (pad, kernel)]
    out = np.empty((2, 3, *sizes), np.float32)

    def windows(fill: float) -> np.ndarray:
        wide = np.pad(x.astype(np.float64), margins, constant_values=fill)
        views = np.lib.stride_tricks.sliding_window_view(wide, (kernel, kernel), (2, 3))
        return views[:, :, ::stride, ::stride][:, :, : sizes[0], : sizes[1]]

    assert loops.pool(x, out, axes)
    assert (out == windows(-np.inf).max(axis=(4, 5))).all()
    factors = (np.full(sizes[0], 0.5, np.float32), np.full(sizes[1], 0.25, np.float32))
    assert loops.pool(x, out, axes, factors)
    np.testing.assert_allclose(out, windows(0).sum(axis=(4, 5)) / 8, rtol=1e-5, atol=1e-5)
    x[0, 1, 5, 5] = np.nan
    assert loops.pool(x, out, axes)
    assert np.array_equal(np.isnan(out), np.isnan(windows(-np.inf).max(axis=(4, 5))))


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(3, 5, 200, 211)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(native, "_threads", threads)
        out, pooled = np.empty_like(x), np.empty((3, 5, 100, 105), np.float32)
        assert loops.pointwise(x, out, bend="tanh")
        assert loops.pool(x, pooled, [[200, 100, 2, 2, 0], [211, 105, 2, 2, 0]])
        found.append((out.tobytes(), pooled.tobytes()))
    assert len(set(found)) == 1


def test_odd_arrays_are_left_to_the_caller() -> None:
    x = normal(2, 3, 8)
    for odd in (
        x.astype(np.float64),
        x[:, :, ::2],
        x[:0],
        np.zeros(97, np.uint8)[1:].view(np.float32).reshape(2, 3, 4),
    ):
        out = np.full(odd.shape, 7, odd.dtype)
        assert not loops.pointwise(odd, out, bend="tanh")
        assert (out == 7).all()
    assert not loops.pointwise(x[0, 0], x[0, 0].copy())


def test_the_compiled_loops_check_what_they_get() -> None:
    x = normal(1, 2, 4, 4)
    none = (None, 1)
    with pytest.raises(ShapeError, match="z: got 4 bytes; need 128"):
        _core.pointwise(x, x[0, 0, 0, :1].copy(), none, none, none, 0, 2, 16, x, "", 1)
    with pytest.raises(ShapeError, match="scale: got period 0"):
        _core.pointwise(x, None, (x, 0), none, none, 0, 2, 16, x, "", 1)
    with pytest.raises(ParameterError, match="bend: got 9"):
        _core.pointwise(x, None, none, none, none, 9, 2, 16, x, "", 1)
    with pytest.raises(ShapeError, match="axes: got other"):
        _core.pool(x, 2, [[4, 4, 1, 1, 0]], None, None, x, "", 1)
    with pytest.raises(ShapeError, match="out of range"):
        _core.pool(x, 2, [[4, 4, 1, 0, 0]] * 2, None, None, x, "", 1)
    with pytest.raises(ShapeError, match="out: got 128 bytes; need 72"):
        _core.pool(x, 2, [[4, 3, 2, 1, 0]] * 2, None, None, x, "", 1)
