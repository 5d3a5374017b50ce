"""Sizes against enumeration, against the engine's own geometry, and for every value of a symbol."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tconv.errors import ParameterError, ShapeError
from tconv.geometry import Window, solve_convolution, solve_deconvolution
from tconv.sizes import Length, Option, Step, input_sizes, output_size, reads, receptive_field, solve

small = st.integers(1, 5)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    transposed = draw(st.booleans())
    adj = draw(st.integers(0, 3)) if transposed else 0
    pad = draw(st.tuples(st.integers(-2, 3), st.integers(-2, 3)))
    return Step(draw(small), draw(small), draw(st.integers(1, 3)), pad, adj, transposed)


def joined(step: Step, size: int, out: int) -> set[tuple[int, int]]:
    """Return every pair of an input and an output position that a tap joins, by the definition."""
    found = set()
    for position in range(-40, out + 40) if not step.transposed else range(size):
        for tap in range(step.kernel):
            other = position * step.stride + tap * step.dilation - step.pad[0]
            found.add((position, other) if step.transposed else (other, position))
    return found


@given(steps(), st.integers(1, 12))
def test_output_is_the_geometry_of_the_engine(step: Step, size: int) -> None:
    window = Window(
        (step.kernel,), (step.stride,), (step.dilation,), (step.pad,), (step.adj,), filters=1, any_adj=True
    )
    try:
        if step.transposed:
            expected = solve_deconvolution("test", window, (1, 1, size)).axes[0].out
        else:
            expected = solve_convolution("test", window, (1, 1, size)).axes[0].size
    except ShapeError:
        # A convolution whose kernel exceeds its input by less than a stride has an output of size 0.
        with contextlib.suppress(ShapeError):
            assert step.output(size) == 0
        return
    assert step.output(size) == expected


@given(steps(), st.integers(1, 30))
def test_inputs_are_all_there_are(step: Step, want: int) -> None:
    found = []
    for size in range(1, 200):
        try:
            if step.output(size) == want:
                found.append(size)
        except ShapeError:
            continue
    assert list(step.inputs(want)) == found


@given(steps(), st.integers(1, 8), st.integers(0, 12), st.integers(1, 6))
def test_ranges_hold_what_the_definition_joins(step: Step, size: int, first: int, count: int) -> None:
    pairs = joined(step, 60, 60)
    needed = {source for source, out in pairs if first <= out < first + count and 0 <= source < 60}
    span = step.reads(first, first + count)
    assert needed <= set(span)
    if step.dilation == 1 and needed and count >= step.stride:
        assert min(needed) == max(span.start, 0)
        assert max(needed) == min(span.stop - 1, max(source for source, _ in pairs if source < 60))
    fed = {out for source, out in pairs if first <= source < first + count}
    outs = step.feeds(first, first + count)
    assert {out for out in fed if 0 <= out < 60 or step.transposed} <= set(outs)


@given(st.lists(steps(), min_size=1, max_size=4))
def test_symbols_are_exact_for_every_number(stack: list[Step]) -> None:
    symbolic = output_size("T", *stack)
    assert isinstance(symbolic, Length)
    for size in range(1, 40):
        try:
            expected = output_size(size, *stack)
        except ShapeError:
            continue
        assert symbolic.at(T=size) == expected


@given(st.lists(steps(), min_size=1, max_size=3), st.integers(1, 40))
def test_input_sizes_lead_there(stack: list[Step], want: int) -> None:
    for size in input_sizes(want, *stack):
        assert output_size(size, *stack) == want


@given(steps(), st.integers(0, 5))
def test_reads_of_a_stack_go_through_each(step: Step, first: int) -> None:
    other = Step(3, 2, pad=1)
    once = other.reads(first, first + 2)
    assert reads(first, first + 2, step, other) == step.reads(once.start, once.stop)
    least, most = receptive_field(step, other)
    assert 0 <= least <= most


def test_lengths_have_one_form() -> None:
    t, f = Length.of("T"), Length.of("F")
    assert str(8 * t) == "8*T"
    assert str((8 * t + 5) // 8) == "T"
    assert str(3 - 2 * t) == "-2*T + 3"
    assert str((t + f) // 2 * 3 + 1) == "3*((F + T)//2) + 1"
    assert ((t // 2) // 3) == t // 6
    assert ((t + 1) // 2 + 4) // 3 == (t + 9) // 6
    assert str(t - t) == "0"
    assert (t - t).constant == 0
    assert t.constant is None
    assert {2 * t + 1, 1 + t + t} == {2 * t + 1}
    assert t != f
    assert (t == "T") is False
    assert output_size("T", Step(3, 2, pad=1, transposed=False), Step(4, 2, pad=1)) == 2 * ((t + 1) // 2)
    with pytest.raises(ParameterError, match="F: missing; need its value"):
        (t + f).at(T=3)
    with pytest.raises(ParameterError, match="got '8T'; need a number or the name of a symbol"):
        Length.of("8T")
    with pytest.raises(ParameterError, match="divisor: got 0"):
        t // 0


@given(small, st.integers(1, 30), small, small, st.integers(1, 3), st.booleans())
def test_solve_finds_every_way(size: int, want: int, kernel: int, stride: int, dilation: int, two: bool) -> None:
    found = solve(size, want, kernel=kernel, stride=stride, dilation=dilation, two_ends=two)
    assert len(set(found.options)) == len(found.options)
    for option in found.options:
        assert Step(kernel, stride, dilation, option.pad, option.adj).output(size) == want
    full = Step(kernel, stride, dilation).output(size)
    possible = {
        (low, adj) for adj in range(stride) for low in range(full + stride + 1) if full - 2 * low + adj == want
    }
    if not two:
        assert {(option.pad[0], option.adj) for option in found.options} == possible
    if found.options:
        assert found.recommended == found.options[0]
        assert found.nearest == ()
    else:
        assert found.recommended is None
        for near in found.nearest:
            assert solve(size, near, kernel=kernel, stride=stride, dilation=dilation, two_ends=two).options


def test_solve_recommends_and_says_why() -> None:
    assert solve(7, 14, kernel=4, stride=2).options[0] == Option((1, 1), 0)
    assert solve(7, 14, kernel=4, stride=2).reason == "it cuts both ends alike"
    assert solve(7, 14, kernel=3, stride=2).reason == (
        "it cuts 1 at the low end and 0 at the high end, as evenly as can be; "
        "1 to 2 inputs reach an output, as kernel % stride is not 0"
    )
    assert "only the bias fills" in solve(7, 14, kernel=1, stride=2).reason
    refused = solve(7, 8, kernel=3)
    assert refused.options == ()
    assert refused.nearest == (7, 9)
    assert refused.reason.endswith("so 8 is left out")
    with pytest.raises(ParameterError, match="want: got 0; need at least 1"):
        solve(7, 0, kernel=3)


@given(small, small, st.integers(1, 3))
def test_overlap_counts_inputs(kernel: int, stride: int, dilation: int) -> None:
    step = Step(kernel, stride, dilation)
    assert sum(step.overlap) == kernel
    if dilation == 1:
        assert (len(set(step.overlap)) == 1) == (kernel % stride == 0)
    assert Step(kernel, stride, dilation, transposed=False).overlap == (kernel,)


def test_refuses() -> None:
    for make, sentence in (
        (lambda: Step(0), "kernel: got 0; need at least 1"),
        (lambda: Step(1, 0), "stride: got 0"),
        (lambda: Step(1, adj=-1), "adj: got -1; need at least 0"),
        (lambda: Step(1, adj=1, transposed=False), "adj: got 1; need 0 for a convolution"),
    ):
        with pytest.raises(ParameterError, match=re.escape(sentence)):
            make()
    with pytest.raises(ShapeError, match="gives no output for it"):
        Step(1, pad=2).output(2)
