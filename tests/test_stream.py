"""Streams: any chunking gives the bits of the whole signal."""

from __future__ import annotations

import pickle
import re
import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tconv
from oracles import ROUNDING
from tconv import Stream
from tconv.backends import native
from tconv.dtypes import as_dtype
from tconv.errors import DTypeError, FrameworkError, ParameterError, ShapeError
from tconv.geometry import Axis, Geometry

Array = np.ndarray[Any, Any]

# Kernel, stride, dilation, and whether channels are last.
SHAPES = [
    (16, 8, 1, False),
    (9, 3, 1, True),
    (12, 3, 1, False),
    (3, 1, 2, False),
    (5, 2, 1, True),
    (40, 3, 1, False),
]
LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}


@dataclass(frozen=True)
class Layer:
    """A layer and the axis of its stream."""

    weight: Array
    bias: Array | None
    words: dict[str, Any]
    axis: int
    rank: int
    dimension: int

    def stream(self) -> Stream:
        return Stream(self.weight, self.bias, axis=self.axis, **self.words)

    def signal(self, frames: int, batch: int, seed: int) -> Array:
        shape = [batch, *(2 + i for i in range(self.rank))]
        shape.insert(len(shape) if self.words["layout"] in ("NWC", "NHWC", "NDHWC") else 1, self.weight.shape[0])
        shape[self.dimension] = frames
        return np.random.default_rng(seed).standard_normal(shape).astype(self.weight.dtype)

    def at(self, first: int | None, stop: int | None) -> tuple[slice, ...]:
        return (slice(None),) * self.dimension + (slice(first, stop),)


@st.composite
def layers(draw: st.DrawFn, dtypes: tuple[str, ...] = ("float32", "float64", "float16", "bfloat16")) -> Layer:
    rank = draw(st.sampled_from([1, 1, 1, 2, 3]))
    axis = draw(st.integers(-rank, rank - 1))
    last = draw(st.booleans())
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, maps = groups * draw(st.integers(1, 5)), draw(st.integers(1, 5))
    kernel = [draw(st.integers(1, 9 if i == axis % rank else 3)) for i in range(rank)]
    stride = [draw(st.integers(1, 4 if i == axis % rank else 2)) for i in range(rank)]
    dilation = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
    pad = [
        draw(st.tuples(st.integers(-2, 5), st.integers(-2, 5))) if i == axis % rank else (0, 0) for i in range(rank)
    ]
    adj = [draw(st.integers(0, 5)) if i == axis % rank else 0 for i in range(rank)]
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = as_dtype(draw(st.sampled_from(dtypes)))
    shape = (channels, *kernel, maps) if last else (channels, maps, *kernel)
    words = {
        "stride": stride,
        "dilate": dilation,
        "pad": pad,
        "adj": adj,
        "num_group": groups,
        "layout": LAYOUTS[rank][last],
        "adj_rule": "any",
    }
    bias = generator.standard_normal(maps * groups).astype(dtype) if draw(st.booleans()) else None
    weight = generator.standard_normal(shape).astype(dtype)
    return Layer(weight, bias, words, axis, rank, axis % rank + (1 if last else 2))


def fed(stream: Stream, layer: Layer, x: Array, lengths: list[int]) -> list[Array]:
    """Feed a signal in chunks of these lengths, the rest last; return what came back, the tail last."""
    outputs, done = [], 0
    for length in [*lengths, x.shape[layer.dimension]]:
        chunk = x[layer.at(done, done + length)]
        count = stream.gives(chunk.shape[layer.dimension])
        outputs.append(stream.feed(chunk))
        assert outputs[-1].shape[layer.dimension] == count
        done += chunk.shape[layer.dimension]
    return [*outputs, stream.flush()]


lengths = st.lists(st.integers(0, 7), max_size=8)


@settings(max_examples=250)
@given(layers(), st.integers(1, 40), st.integers(1, 3), lengths, st.integers(0, 99))
def test_any_chunking_gives_the_bits_of_the_whole(
    layer: Layer, frames: int, batch: int, chunks: list[int], seed: int
) -> None:
    x = layer.signal(frames, batch, seed)
    stream = layer.stream()
    whole = stream.whole(x)
    joined = np.concatenate(fed(stream, layer, x, chunks), axis=layer.dimension)
    assert joined.shape == whole.shape
    assert joined.tobytes() == whole.tobytes()
    try:
        plain = tconv.deconvolution(x, layer.weight, layer.bias, **layer.words)
    except ShapeError:
        assert 0 in whole.shape
        return
    # Up to rounding where the engine chooses another algorithm.
    wide = tconv.deconvolution(np.abs(x).astype(np.float64), np.abs(layer.weight).astype(np.float64), **layer.words)
    dtype = x.dtype.name
    allowed = 200 * max(ROUNDING[dtype], 2.0**-24 if dtype != "float64" else 0) * (wide.max(initial=0) + 4)
    assert np.abs(plain.astype(np.float64) - whole.astype(np.float64)).max(initial=0) <= allowed


@st.composite
def wide_layers(draw: st.DrawFn) -> Layer:
    """Draw a layer that is worth Winograd's algorithm along the axis of the stream."""
    rank, last = draw(st.sampled_from([1, 1, 2])), draw(st.booleans())
    axis = draw(st.integers(0, rank - 1))
    stride, taps = draw(st.integers(1, 5)), draw(st.sampled_from([2, 2, 3, 4, 6]))
    kernel = [taps * stride if i == axis else 3 for i in range(rank)]
    span = taps * stride
    pad = [
        (draw(st.integers(-1, span)), draw(st.integers(0, span - 1))) if i == axis else (1, 1) for i in range(rank)
    ]
    channels, maps = draw(st.integers(16, 40)), draw(st.integers(16, 40))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    shape = (channels, *kernel, maps) if last else (channels, maps, *kernel)
    words = {"stride": [stride if i == axis else 1 for i in range(rank)], "pad": pad, "layout": LAYOUTS[rank][last]}
    weight = generator.standard_normal(shape).astype(draw(st.sampled_from(["float32", "float64"])))
    return Layer(weight, None, words, axis, rank, axis + (1 if last else 2))


@settings(max_examples=100)
@given(wide_layers(), st.integers(1, 60), st.lists(st.integers(0, 13), max_size=8), st.integers(0, 99))
def test_wide_layers_keep_their_bits_too(layer: Layer, frames: int, chunks: list[int], seed: int) -> None:
    x = layer.signal(frames, 2, seed)
    stream = layer.stream()
    whole = stream.whole(x)
    joined = np.concatenate(fed(stream, layer, x, chunks), axis=layer.dimension)
    assert joined.tobytes() == whole.tobytes()


def test_wide_layers_run_winograd() -> None:
    stream = Stream(np.ones((64, 64, 8), np.float32), stride=4)
    stream.feed(np.ones((1, 64, 3), np.float32))
    assert stream.algorithms == ("winograd",)


def test_wide_streams_of_a_batch_begin_by_themselves() -> None:
    generator = np.random.default_rng(8)
    w, x = (generator.standard_normal(shape).astype(np.float32) for shape in ((64, 64, 8), (3, 64, 40)))
    stream = Stream(w, stride=4, pad=2)
    done, begun = 0, [0, 0, 0]
    results: list[list[Array]] = [[], [], []]
    for length in (3, 5, 4, 1, 2, 25):
        for one in (done % 2, 2) if done in (3, 8, 13) else ():
            stream.reset([one])
            begun[one], results[one] = done, []
        y = stream.feed(x[..., done : done + length])
        done += length
        for one in range(3):
            results[one].append(y[one : one + 1])
    tail = stream.flush()
    for one, first in enumerate(begun):
        assert first
        got = np.concatenate([*results[one], tail[one : one + 1]], axis=2)
        expected = Stream(w, stride=4, pad=2).whole(x[one : one + 1, :, first:])
        assert got[..., got.shape[2] - expected.shape[2] :].tobytes() == expected.tobytes()


def test_winograd_with_values_that_are_not_finite() -> None:
    generator = np.random.default_rng(9)
    w, x = (generator.standard_normal(shape).astype(np.float32) for shape in ((64, 64, 8), (1, 64, 40)))
    x[0, 3, 17] = np.inf
    stream = Stream(w, stride=4)
    whole = stream.whole(x)
    joined = np.concatenate(
        [*(stream.feed(x[..., first : first + 6]) for first in range(0, 40, 6)), stream.flush()], 2
    )
    np.testing.assert_allclose(joined, whole, rtol=1e-3, atol=1e-3)
    assert np.isfinite(whole).sum() == whole.size - 64 * 8


@settings(max_examples=60)
@given(layers(), lengths, st.integers(0, 99), st.integers(0, 6))
def test_state_goes_on_elsewhere(layer: Layer, chunks: list[int], seed: int, done: int) -> None:
    x = layer.signal(20, 2, seed)
    stream = layer.stream()
    first = stream.feed(x[layer.at(0, done)])
    state = pickle.loads(pickle.dumps(stream.state()))
    assert all(type(array) is np.ndarray for array in state.values())
    other = layer.stream()
    other.restore(state)
    rest = x[layer.at(done, None)]
    joined = np.concatenate([first, *fed(other, layer, rest, chunks)], axis=layer.dimension)
    assert joined.tobytes() == stream.whole(x).tobytes()
    # What was taken is a copy: the first one goes on as well.
    again = np.concatenate([first, *fed(stream, layer, rest, [])], axis=layer.dimension)
    assert again.tobytes() == joined.tobytes()


@settings(max_examples=80)
@given(layers(), st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 2))), max_size=6), st.integers(0, 9))
def test_streams_of_a_batch_begin_by_themselves(layer: Layer, plan: list[tuple[int, set[int]]], seed: int) -> None:
    stream = layer.stream()
    if stream.delay < 0:
        stream.feed(layer.signal(1, 3, seed))
        with pytest.raises(ParameterError, match="negative pad puts outputs in front"):
            stream.reset([0])
        return
    signals: list[list[Array]] = [[], [], []]
    results: list[list[Array]] = [[], [], []]
    stream.feed(layer.signal(0, 3, seed))
    for number, (frames, begun) in enumerate(plan):
        for one in begun:
            signals[one], results[one] = [], []
        stream.reset(sorted(begun))
        x = layer.signal(frames, 3, seed + number)
        y = stream.feed(x)
        for one in range(3):
            signals[one].append(x[one : one + 1])
            results[one].append(y[one : one + 1])
    tail = stream.flush()
    for one in range(3):
        if not signals[one]:
            continue
        x = np.concatenate(signals[one], axis=layer.dimension)
        if not x.shape[layer.dimension]:
            continue
        got = np.concatenate([*results[one], tail[one : one + 1]], axis=layer.dimension)
        expected = layer.stream().whole(x)
        length = expected.shape[layer.dimension]
        got_length = got.shape[layer.dimension]
        assert got[layer.at(got_length - length, None)].tobytes() == expected.tobytes()
        assert not got[layer.at(0, got_length - length)].astype(np.float64).any()


def causal(**rest: Any) -> tuple[Stream, Array]:
    generator = np.random.default_rng(3)
    w = generator.standard_normal((24, 20, 8)).astype(np.float32)
    x = generator.standard_normal((2, 24, 60)).astype(np.float32)
    return Stream(w, generator.standard_normal(20).astype(np.float32), stride=4, pad=((0, 4),), **rest), x


def test_causal_streams_give_stride_outputs_a_frame() -> None:
    stream, x = causal()
    assert (stream.delay, stream.history) == (0, 1)
    for frame in range(5):
        assert stream.feed(x[..., frame : frame + 1]).shape == (2, 20, 4)
    assert stream.flush().shape == (2, 20, 0)


def test_centred_streams_lag_and_flush() -> None:
    stream = Stream(np.ones((1, 1, 16), np.float32), stride=8, pad=4)
    assert stream.delay == 4
    assert stream.feed(np.ones((1, 1, 3), np.float32)).shape == (1, 1, 20)
    assert stream.flush().shape == (1, 1, 4)


def test_threads_change_no_bit() -> None:
    one, x = causal(threads=1)
    two, _ = causal(threads=2)
    assert one.whole(x).tobytes() == two.whole(x).tobytes()
    assert one.feed(x).tobytes() == two.feed(x).tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    generator = np.random.default_rng(4)
    w, x = generator.standard_normal((16, 16, 6)), generator.standard_normal((1, 16, 30))
    for weight, signal in ((w, x), (w.copy(), x.copy())):
        if weight is not w:
            weight[3, 2, 1] = value
        else:
            signal = x.copy()
            signal[0, 5, 11] = value
        # No two taps of a phase are neighbours, which Winograd's algorithm refuses: it gives way in bits.
        stream = Stream(weight, stride=3, dilate=2)
        whole = stream.whole(signal)
        parts = [stream.feed(signal[..., first : first + 4]) for first in range(0, 30, 4)]
        np.testing.assert_array_equal(np.concatenate([*parts, stream.flush()], axis=2), whole)
        assert np.isfinite(whole).any()
        assert not np.isfinite(whole).all()


def test_nothing_is_allocated_after_the_first_chunk_of_a_size() -> None:
    stream, x = causal()
    chunk = np.ascontiguousarray(x[..., :20])
    out = np.empty((2, 20, 80), np.float32)
    for _ in range(3):
        assert stream.feed(chunk, out=out) is out
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(20):
            stream.feed(chunk, out=out)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Python's own small objects, well below a chunk of 3,840 bytes or an output of 12,800.
    assert now - before < 1000
    assert peak - before < 3000


def test_out_may_lie_anywhere() -> None:
    stream, x = causal()
    expected = stream.whole(x)
    strided = np.empty((2, 20, 80), np.float32)[..., ::2]
    stream.feed(x[..., :10], out=strided)
    np.testing.assert_array_equal(strided, expected[..., :40])
    memory = np.zeros(2 * 24 * 60, np.float32)
    chunk = memory[: 2 * 24 * 5].reshape(2, 24, 5)
    chunk[...] = x[..., 10:15]
    stream.feed(chunk, out=memory[: 2 * 20 * 20].reshape(2, 20, 20))
    np.testing.assert_array_equal(memory[: 2 * 20 * 20].reshape(2, 20, 20), expected[..., 40:60])
    np.testing.assert_array_equal(stream.feed(x[..., 15:]), expected[..., 60:])


def test_tensors_come_back_as_tensors() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    stream, x = causal()
    y = stream.feed(torch.from_numpy(x))
    assert isinstance(y, torch.Tensor)
    assert y.numpy().tobytes() == stream.whole(x).tobytes()


def test_refuses_and_stays_as_it_was() -> None:
    stream, x = causal()
    for feed, kind, sentence in (
        (lambda: stream.feed(x.astype(float)), DTypeError, "Stream: x: got float64; need float32"),
        (lambda: stream.feed(x[0]), ShapeError, "Stream: x: got shape (24, 60); need 3 dimensions"),
        (lambda: stream.feed(x[:, :5]), ShapeError, "Stream: x: got 5 channels; need 24"),
        (lambda: stream.feed(x[:0]), ShapeError, "only the frames may be 0"),
        (lambda: stream.feed(None), FrameworkError, "Stream: x: got NoneType"),
        (lambda: stream.feed(x, out=x), ShapeError, "Stream: out: got float32 of shape (2, 24, 60); need float32"),
        (lambda: stream.flush(), ParameterError, "Stream: flush: got no chunk yet"),
        (lambda: stream.reset([0]), ParameterError, "Stream: streams: got [0]; need numbers below 0"),
        (lambda: stream.restore({}), ParameterError, "Stream: state: got no arrays"),
        (lambda: causal(axis=1), ParameterError, "Stream: axis: got 1; need one of 1 spatial axes"),
        (lambda: causal(adj=4), ShapeError, "each adj must be below its stride"),
    ):
        with pytest.raises(kind, match=re.escape(sentence)):
            feed()
        assert stream.state()["history"].size == 0
    first = stream.feed(x[..., :7])
    read_only = np.zeros((2, 20, 4), np.float32)
    read_only.flags.writeable = False
    state = stream.state()
    for feed, kind, sentence in (
        (lambda: stream.feed(x[:1]), ShapeError, "need (2, 24) beside the frames, as before"),
        (lambda: stream.feed(x[..., :1], out=read_only), ParameterError, "Stream: out: got a read-only array"),
        (lambda: stream.restore({**state, "ages": np.array([1])}), ShapeError, "Stream: state: got history"),
        (lambda: stream.restore({**state, "ages": np.array([1, -2])}), ParameterError, "Stream: state: got ages"),
        (lambda: stream.reset([2]), ParameterError, "streams: got [2]; need numbers below 2"),
    ):
        with pytest.raises(kind, match=re.escape(sentence)):
            feed()
    assert np.concatenate([first, stream.feed(x[..., 7:])], axis=2).tobytes() == stream.whole(x).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("algorithms", "period"), native._STEADY.items(), ids=str)
def test_steady_algorithms_keep_their_word(algorithms: tuple[str, ...], period: int, dtype: str) -> None:
    """Each output has the same bits in every part of the axis, and by every algorithm of its set."""
    generator = np.random.default_rng(6)
    tried = 0
    depthwise = algorithms == ("depthwise", "depthwise_turned")
    maps = ((6, 4), (3, 3), (6, 9)) if depthwise else ((70, 40), (33, 3), (600, 2))
    for channels, filters in maps:
        for kernel, stride, dilation, last in SHAPES:
            groups = 3 if channels % 3 == 0 and filters % 3 == 0 else 1
            axis = Axis(30, 30 * stride, kernel, stride, dilation, 0, (kernel - 1) * dilation + 1 - stride, 0, 1)
            whole = Geometry(2, channels, filters, groups, (axis,), last)
            if depthwise and last:
                whole = Geometry(2, 6, 6, 6, (axis,), last)
            try:
                native.plan_for(
                    whole, native.FORWARD, as_dtype(dtype), workspace=1 << 30, algorithm=algorithms[0], packed=True
                )
            except ParameterError:
                continue
            tried += 1
            x = generator.standard_normal(whole.small_shape).astype(as_dtype(dtype))
            w = generator.standard_normal(whole.weight_shape).astype(as_dtype(dtype))
            expected = None
            # The other one takes maps that lie apart.
            for algorithm in algorithms[:1] if depthwise and last else algorithms:
                limits: dict[str, Any] = {"workspace": 1 << 30, "algorithm": algorithm, "packed": True}
                for first, stop in ((0, 30), (0, 1), (7, 8), (11, 28), (3, 30), (29, 30)):
                    reads, line = axis.part(first * stride, stop * stride)
                    line = line._replace(grid=1 + (reads.start + line.pad_lo // stride) % period)
                    part = Geometry(2, whole.channels, whole.filters, whole.groups, (line,), last)
                    plan = native.plan_for(part, native.FORWARD, x.dtype, **limits)
                    source = np.ascontiguousarray(x[:, reads] if last else x[..., reads])
                    out = np.empty(part.large_shape, x.dtype)
                    plan.run(source, plan.pack(w), None, out)
                    if expected is None:
                        expected = out
                    at = slice(first * stride, stop * stride)
                    wanted = expected[:, at] if last else expected[..., at]
                    assert out.tobytes() == np.ascontiguousarray(wanted).tobytes(), (algorithm, part)
    assert tried
