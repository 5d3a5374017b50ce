"""Geometry against enumeration of the definition, partial knowledge, and every sentence it refuses with."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tconv.errors import OutOfMemoryError, ShapeError
from tconv.geometry import (
    Geometry,
    Window,
    infer_convolution,
    infer_deconvolution,
    solve_convolution,
    solve_deconvolution,
)

OP = "Deconvolution"
PLAIN = Window((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)), (0, 0), filters=4)


def window_1d(
    kernel: int = 3, stride: int = 1, dilation: int = 1, pad: tuple[int, int] = (0, 0), **rest: Any
) -> Window:
    return Window((kernel,), (stride,), (dilation,), (pad,), (rest.pop("adj", 0),), filters=1, **rest)


def reached(size: int, kernel: int, stride: int, dilation: int) -> list[int]:
    """Enumerate the positions all pairs of a small position and a tap reach, before any is cut off."""
    return [i * stride + k * dilation for i in range(size) for k in range(kernel)]


axes_1d = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))


@given(axes_1d, st.integers(-3, 6), st.integers(-3, 6), st.data())
def test_large_size_is_what_enumeration_leaves(
    axis: tuple[int, int, int, int], low: int, high: int, data: st.DataObject
) -> None:
    size, kernel, stride, dilation = axis
    adj = data.draw(st.integers(0, stride - 1))
    full = range(max(reached(*axis)) + 1)
    left = range(full.start + low, full.stop - high + adj)
    window = window_1d(kernel, stride, dilation, (low, high), adj=adj)
    if left.stop < left.start:
        with pytest.raises(ShapeError, match=rf"pad: got \(\({low}, {high}\),\); the output on axis 0 would have"):
            solve_deconvolution(OP, window, (1, 1, size))
        return
    (solved,) = solve_deconvolution(OP, window, (1, 1, size)).axes
    assert (solved.out, solved.pad_lo, solved.pad_hi, solved.adj) == (len(left), low, high, adj)
    assert (solved.size, solved.kernel, solved.stride, solved.dilation) == axis


@given(axes_1d, st.integers(-2, 4), st.integers(-2, 4))
def test_small_size_counts_the_positions_whose_taps_all_fit(
    axis: tuple[int, int, int, int], low: int, high: int
) -> None:
    out, kernel, stride, dilation = axis
    padded = range(-low, out + high)
    fitting = [
        start
        for start in range(-low, out + high, stride)
        if all(start + k * dilation in padded for k in range(kernel))
    ]
    window = window_1d(kernel, stride, dilation, (low, high))
    if not fitting:
        with pytest.raises(ShapeError, match=rf"Convolution: data: got size {out} on spatial axis 0; with pad"):
            solve_convolution("Convolution", window, (1, 1, out))
        return
    (solved,) = solve_convolution("Convolution", window, (1, 1, out)).axes
    assert (solved.size, solved.out) == (len(fitting), out)
    # What is left over at the high end is the adj that leads back.
    assert solved.adj == padded.stop - 1 - (fitting[-1] + (kernel - 1) * dilation)


@st.composite
def windows(draw: st.DrawFn) -> tuple[Window, tuple[int, ...]]:
    rank = draw(st.integers(1, 3))

    def per_axis(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(values) for _ in range(rank))

    stride = per_axis(st.integers(1, 4))
    groups = draw(st.integers(1, 3))
    window = Window(
        kernel=per_axis(st.integers(1, 4)),
        stride=stride,
        dilation=per_axis(st.integers(1, 3)),
        pad=per_axis(st.tuples(st.integers(-2, 2), st.integers(-2, 2))),
        adj=tuple(draw(st.integers(0, s - 1)) for s in stride),
        filters=groups * draw(st.integers(1, 3)),
        groups=groups,
        channels_last=draw(st.booleans()),
    )
    batch, channels = draw(st.integers(0, 3)), groups * draw(st.integers(1, 3))
    spatial = per_axis(st.integers(3, 7))
    shape = (batch, *spatial, channels) if window.channels_last else (batch, channels, *spatial)
    return window, shape


def solved_or_none(window: Window, shape: tuple[int, ...]) -> Geometry | None:
    try:
        return solve_deconvolution(OP, window, shape)
    except ShapeError:
        return None


@given(windows())
def test_convolution_is_the_inverse_direction(case: tuple[Window, tuple[int, ...]]) -> None:
    window, shape = case
    forth = solved_or_none(window, shape)
    if forth is None or 0 in forth.large_shape[1:]:
        return
    assert forth.small_shape == shape
    back = solve_convolution(OP, replace(window, filters=forth.channels), forth.large_shape)
    assert back == forth


@given(windows())
def test_inference_agrees_with_the_solution_whatever_is_unknown(case: tuple[Window, tuple[int, ...]]) -> None:
    window, shape = case
    geometry = solved_or_none(window, shape)
    if geometry is None:
        return
    for mask in product((False, True), repeat=len(shape)):
        partial = tuple(None if unknown else size for size, unknown in zip(shape, mask))
        weight, out = infer_deconvolution(OP, window, partial)
        assert weight is not None
        assert out is not None
        where_channels = -1 if window.channels_last else 1
        assert weight == (None if mask[where_channels] else geometry.weight_shape[0], *geometry.weight_shape[1:])
        unknown = [*mask]
        unknown[where_channels] = False
        assert out == tuple(None if lost else size for size, lost in zip(geometry.large_shape, unknown))


@given(windows())
def test_convolution_infers_what_it_solves(case: tuple[Window, tuple[int, ...]]) -> None:
    window, shape = case
    try:
        geometry = solve_convolution(OP, window, shape)
    except ShapeError:
        return
    for mask in product((False, True), repeat=len(shape)):
        partial = tuple(None if unknown else size for size, unknown in zip(shape, mask))
        weight, out = infer_convolution(OP, window, partial)
        assert weight is not None
        assert out is not None
        last = window.channels_last
        maps = -1 if last else 1
        full = list(geometry.weight_shape)
        full_or_unknown = [*full]
        if mask[maps]:
            full_or_unknown[maps] = None  # type: ignore[call-overload]
        assert list(weight) == full_or_unknown
        unknown = [*mask]
        unknown[maps] = False
        assert out == tuple(None if lost else size for size, lost in zip(geometry.small_shape, unknown))


def test_shape_of_unknown_rank_tells_nothing() -> None:
    assert infer_deconvolution(OP, PLAIN, None) == (None, None)
    assert infer_convolution(OP, PLAIN, None) == (None, None)


@given(axes_1d, st.integers(0, 30), st.integers(0, 5), st.integers(0, 3))
def test_target_decides_pad_and_adj(axis: tuple[int, int, int, int], target: int, pad: int, adj: int) -> None:
    size, kernel, stride, dilation = axis
    full = max(reached(*axis)) + 1
    window = window_1d(kernel, stride, dilation, (pad, pad), adj=adj, target=(target,))
    total = full - target
    if total < 0:
        with pytest.raises(
            ShapeError, match=rf"target_shape: got \({target},\) \(too big target shape\); axis 0 r"
        ):
            solve_deconvolution(OP, window, (1, 1, size))
    elif stride == 1 and total % 2:
        with pytest.raises(ShapeError, match=rf"target_shape: got \({target},\); at stride 1, axis 0 of full size"):
            solve_deconvolution(OP, window, (1, 1, size))
    else:
        (solved,) = solve_deconvolution(OP, window, (1, 1, size)).axes
        assert solved.out == target
        assert (solved.adj, solved.pad_lo, solved.pad_hi) == (total % 2, (total + 1) // 2, (total + 1) // 2)


def test_target_leaves_adj_unchecked() -> None:
    window = replace(PLAIN, adj=(5, 0), target=(8, 9))
    assert solve_deconvolution(OP, window, (1, 4, 4, 4)).large_shape == (1, 4, 8, 9)


def test_flops_count_two_for_each_multiply_add() -> None:
    geometry = solve_deconvolution(OP, replace(PLAIN, groups=2), (2, 6, 5, 7))
    # Each of 2*6*5*7 inputs meets 9 taps of each of the 2 filters in its group.
    assert geometry.flops == 2 * (2 * 6 * 5 * 7) * 2 * 9


REFUSED = [
    (replace(PLAIN, kernel=(0, 3)), (1, 4, 5, 5), "kernel: got (0, 3); each entry must be at least 1"),
    (replace(PLAIN, kernel=(3, -2)), (1, 4, 5, 5), "kernel: got (3, -2); each entry must be at least 1"),
    (replace(PLAIN, stride=(0, 2)), (1, 4, 5, 5), "stride: got (0, 2); each entry must be at least 1"),
    (replace(PLAIN, dilation=(1, 0)), (1, 4, 5, 5), "dilate: got (1, 0); each entry must be at least 1"),
    (replace(PLAIN, adj=(-1, 0)), (1, 4, 5, 5), "adj: got (-1, 0); no entry may be negative"),
    (
        replace(PLAIN, adj=(2, 0)),
        (1, 4, 5, 5),
        "adj: got (2, 0) with stride (2, 2); each adj must be below its stride",
    ),
    (replace(PLAIN, filters=0), (1, 4, 5, 5), "num_filter: got 0; need at least 1"),
    (replace(PLAIN, filters=-4), (1, 4, 5, 5), "num_filter: got -4; need at least 1"),
    (replace(PLAIN, groups=0), (1, 4, 5, 5), "num_group: got 0; need at least 1"),
    (replace(PLAIN, groups=-2), (1, 4, 5, 5), "num_group: got -2; need at least 1"),
    (replace(PLAIN, groups=3), (1, 6, 5, 5), "num_filter: got 4; it must divide by num_group 3"),
    (replace(PLAIN, groups=2), (1, 3, 5, 5), "data: got 3 channels; need a multiple of num_group 2"),
    (PLAIN, (1, 0, 5, 5), "data: got 0 channels; need a multiple of num_group 1"),
    (PLAIN, (1, 4, 5), "data: got shape (1, 4, 5); kernel (3, 3) needs 4 dimensions"),
    (PLAIN, (), "data: got shape (); kernel (3, 3) needs 4 dimensions"),
    (PLAIN, (1, 4, 5, 5, 5), "data: got shape (1, 4, 5, 5, 5); kernel (3, 3) needs 4 dimensions"),
    (PLAIN, (1, 4, 0, 5), "data: got size 0 on spatial axis 0; need at least 1"),
    (PLAIN, (1, 4, 5, 0), "data: got size 0 on spatial axis 1; need at least 1"),
    (
        replace(PLAIN, pad=((0, 0), (5, 5))),
        (1, 4, 1, 1),
        "pad: got ((0, 0), (5, 5)); the output on axis 1 would have size -7",
    ),
    (
        replace(PLAIN, target=(4,)),
        (1, 4, 5, 5),
        "target_shape: got (4,); need 2 sizes, none of them negative",
    ),
    (
        replace(PLAIN, target=(4, -1)),
        (1, 4, 5, 5),
        "target_shape: got (4, -1); need 2 sizes, none of them negative",
    ),
    (
        replace(PLAIN, target=(4, 20)),
        (1, 4, 5, 5),
        "target_shape: got (4, 20) (too big target shape); axis 1 reaches 11 at most",
    ),
    (
        replace(PLAIN, stride=(1, 2), target=(6, 8)),
        (1, 4, 5, 5),
        "target_shape: got (6, 8); at stride 1, axis 0 of full size 7 reaches only sizes of the same parity",
    ),
]


@pytest.mark.parametrize(("window", "data", "sentence"), REFUSED, ids=[row[2] for row in REFUSED])
def test_refusal(window: Window, data: tuple[int, ...], sentence: str) -> None:
    for ask in (solve_deconvolution, infer_deconvolution):
        with pytest.raises(ShapeError) as caught:
            ask(OP, window, data)
        assert str(caught.value) == f"Deconvolution: {sentence}"


def test_target_needs_every_spatial_size() -> None:
    window = replace(PLAIN, target=(8, 8))
    with pytest.raises(
        ShapeError, match=re.escape("data: got shape (1, 4, None, 5); target_shape needs every spatial")
    ):
        infer_deconvolution(OP, window, (1, 4, None, 5))
    assert infer_deconvolution(OP, window, (None, None, 5, 5)) == ((None, 4, 3, 3), (None, 4, 8, 8))


def test_rank_is_refused_before_the_window() -> None:
    with pytest.raises(ShapeError, match="data: got shape"):
        infer_deconvolution(OP, replace(PLAIN, stride=(0, 0)), (1, 4, 5))


def test_window_is_refused_with_unknown_sizes_too() -> None:
    with pytest.raises(ShapeError, match="adj: got"):
        infer_deconvolution(OP, replace(PLAIN, adj=(2, 0)), (None, None, None, None))


def test_empty_output_is_a_geometry() -> None:
    geometry = solve_deconvolution(OP, replace(PLAIN, pad=((1, 1), (3, 4))), (2, 4, 3, 3))
    assert geometry.large_shape == (2, 4, 5, 0)


HUGE = 2**40
OVERFLOWING = [
    (window_1d(stride=2**62), (1, 1, 3), "output"),
    (window_1d(kernel=2**31), (HUGE, 1, 1), "output"),
    (window_1d(pad=(-(2**62), 0)), (1, 1, 1), "output"),
    (replace(window_1d(), filters=2**40), (1, 2**30, 1), "weight"),
    (replace(window_1d(pad=(1, 1)), filters=1), (2**30, 2**31, 1), "output"),
]


@pytest.mark.parametrize(("window", "data", "what"), OVERFLOWING)
def test_size_beyond_64_bits(window: Window, data: tuple[int, ...], what: str) -> None:
    with pytest.raises(
        OutOfMemoryError, match=rf"^Deconvolution: {what}: shape \(.*\) has more elements than memory"
    ):
        solve_deconvolution(OP, window, data)
    # Inference allocates nothing, and its integers do not wrap.
    _, out = infer_deconvolution(OP, window, data)
    assert out is not None
    assert all(size is not None and size >= 0 for size in out)


def test_largest_size_that_64_bits_hold() -> None:
    window = window_1d(kernel=1, stride=2**60 - 2)
    assert solve_deconvolution(OP, window, (1, 1, 2)).large_shape == (1, 1, 2**60 - 1)
    with pytest.raises(OutOfMemoryError):
        solve_deconvolution(OP, replace(window, stride=(2**60 - 1,)), (1, 1, 2))


def test_huge_target_is_too_big() -> None:
    with pytest.raises(ShapeError, match="too big target shape"):
        solve_deconvolution(OP, window_1d(target=(2**62,)), (1, 1, 3))


def test_convolution_beyond_64_bits() -> None:
    window = replace(window_1d(kernel=1, pad=(2**62, 2**62)), filters=1)
    with pytest.raises(OutOfMemoryError, match=r"^Convolution: output: shape"):
        solve_convolution("Convolution", window, (1, 1, 3))
    with pytest.raises(ShapeError, match=r"the kernel 3 dilated by 4611686018427387904 exceeds it"):
        solve_convolution("Convolution", window_1d(dilation=2**62), (1, 1, 3))


def test_layouts_order_the_same_sizes() -> None:
    first = solve_deconvolution(OP, PLAIN, (2, 6, 5, 7))
    last = solve_deconvolution(OP, replace(PLAIN, channels_last=True), (2, 5, 7, 6))
    assert (first.small_shape, first.weight_shape, first.large_shape) == ((2, 6, 5, 7), (6, 4, 3, 3), (2, 4, 9, 13))
    assert (last.small_shape, last.weight_shape, last.large_shape) == ((2, 5, 7, 6), (6, 3, 3, 4), (2, 9, 13, 4))
    assert first.axes == last.axes


def test_geometry_is_a_key() -> None:
    one = solve_deconvolution(OP, PLAIN, (2, 6, 5, 7))
    other = Geometry(2, 6, 4, 1, one.axes)
    assert one == other
    assert hash(one) == hash(other)
    assert one != replace(other, batch=3)
