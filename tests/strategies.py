"""Random geometries, small enough for the reference."""

from __future__ import annotations

from math import prod

from hypothesis import strategies as st

from oracles import DTYPES, Example, example
from tconv.geometry import Axis, Geometry

_MOST_PAIRS = 250


@st.composite
def axes(draw: st.DrawFn, rank: int) -> Axis:
    """Draw one axis; its output may be empty, its pads negative or beyond the kernel."""
    most = {1: 12, 2: 5, 3: 3}[rank]
    size, kernel = draw(st.integers(1, most)), draw(st.integers(1, most))
    stride, dilation = draw(st.integers(1, 5 if rank < 3 else 3)), draw(st.integers(1, 3))
    full = (size - 1) * stride + (kernel - 1) * dilation + 1
    adj = draw(st.integers(0, stride - 1))
    pad_lo = draw(st.integers(-2, min(4, full)))
    pad_hi = draw(st.integers(-2, min(4, full + adj - max(pad_lo, 0))))
    return Axis(size, full - pad_lo - pad_hi + adj, kernel, stride, dilation, pad_lo, pad_hi, adj)


@st.composite
def geometries(draw: st.DrawFn, rank: int | None = None, least_out: int = 0) -> Geometry:
    """Draw a geometry of any rank, layout and grouping."""
    rank = draw(st.integers(1, 3)) if rank is None else rank
    drawn = tuple(draw(axes(rank)) for _ in range(rank))
    groups = draw(st.sampled_from([1, 1, 2, 3, 4]))
    return Geometry(
        batch=draw(st.sampled_from([1, 2, 3, 0])),
        channels=groups * draw(st.integers(1, 5)),
        filters=groups * draw(st.integers(1, 5)),
        groups=groups,
        axes=drawn,
        channels_last=draw(st.booleans()),
    )


@st.composite
def examples(draw: st.DrawFn, dtypes: tuple[str, ...] = DTYPES, whole: int = 0) -> Example:
    """Draw a geometry the reference is quick for, with arrays."""
    geometry = draw(
        geometries().filter(lambda g: prod(axis.size * axis.kernel for axis in g.axes) * g.groups <= _MOST_PAIRS)
    )
    return example(
        geometry,
        draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 2**16)),
        bias=draw(st.booleans()),
        whole=whole,
    )
