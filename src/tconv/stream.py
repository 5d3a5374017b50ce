"""Transposed convolution of a signal that comes in chunks, to the bit what the whole signal gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from tconv import engine
from tconv.api import Pads, PerAxis, Prepared, prepare
from tconv.dtypes import DType
from tconv.errors import DTypeError, ParameterError, ShapeError
from tconv.frameworks import from_numpy, to_numpy
from tconv.geometry import Axis, Geometry, Shape, split

Array = np.ndarray[Any, Any]
State = dict[str, Array]

_USUAL_FRAMES = 64
_STEPS_KEPT = 256
_FEED, _FLUSH, _WHOLE = range(3)


class Stream:
    """A deconvolution along one axis whose input arrives in chunks.

    Feeding chunks of any length and joining what comes back gives, bit for bit, `whole` of the joined chunks: every
    output is computed by one sum in one order wherever on the axis it lies, Winograd's algorithm included, whose
    tiles stay where they are in the signal. Where `prepare` chooses the same algorithm and tiles, its bits are the
    same too, and else they agree up to rounding. Only an infinity or NaN in the signal may change the last bits of
    its chunk, as Winograd's algorithm then gives way to another.

    A stream keeps the last frames it still needs and computes every output once. It is no thread's but one's.

    Parameters
    ----------
    w, bias, stride, pad, dilate, adj, num_group, layout, adj_rule, workspace, threads
        As for `tconv.deconvolution`. Along the axis of the stream, a causal layer cuts only at the high end,
        `pad=((0, kernel - stride),)`, and every chunk of n frames gives n * stride outputs; a centred one cuts
        both ends, gives `delay` outputs less at first, and the rest at the end, by `flush`.
    axis : int
        Which of the spatial axes the chunks follow each other on; the last one by default.

    Attributes
    ----------
    history : int
        Frames kept.
    delay : int
        Outputs by which a stream lags behind n * stride; below 0 where a negative pad puts some in front.

    Raises
    ------
    ShapeError, DTypeError, ParameterError, FrameworkError
        As `tconv.prepare` does.

    Examples
    --------
    >>> import numpy as np, tconv
    >>> stream = tconv.Stream(np.array([[[1.0, 10.0, 100.0]]]), stride=2)
    >>> stream.feed(np.array([[[1.0]]])), stream.feed(np.array([[[2.0, 3.0]]])), stream.flush()
    (array([[[ 1., 10.]]]), array([[[102.,  20., 203.,  30.]]]), array([[[300.]]]))
    """

    def __init__(
        self,
        w: Any,
        bias: Any = None,
        *,
        stride: PerAxis = 1,
        pad: Pads = 0,
        dilate: PerAxis = 1,
        adj: PerAxis = 0,
        num_group: int = 1,
        layout: str | None = None,
        adj_rule: str = "below_stride",
        axis: int = -1,
        workspace: int = 512,
        threads: int | None = None,
    ) -> None:
        self._prepared: Prepared = prepare(
            w,
            bias,
            stride=stride,
            pad=pad,
            dilate=dilate,
            adj=adj,
            num_group=num_group,
            layout=layout,
            adj_rule=adj_rule,
            workspace=workspace,
            threads=threads,
        )
        window = self._prepared.window
        if not isinstance(axis, int) or not -window.rank <= axis < window.rank:
            raise ParameterError(f"Stream: axis: got {axis!r}; need one of {window.rank} spatial axes")
        self._axis = axis % window.rank
        self._dimension = self._axis + (1 if window.channels_last else 2)
        kernel, self._stride = window.kernel[self._axis], window.stride[self._axis]
        (self._low, self._high), self._adj = window.pad[self._axis], window.adj[self._axis]
        self._line = Axis(0, 0, kernel, self._stride, window.dilation[self._axis], 0, 0, 0, grid=1)
        span = self._line.span
        # Outputs that would not be there if the signal ended now wait for the next frame.
        held = max(0, self._stride - span + self._high - self._adj)
        self.delay = held + self._low
        self.history = (span - 1 + held) // self._stride
        # From so many frames on, all chunks of one length are alike.
        self._settled = max(1, self.history, -(-self.delay // self._stride) + 1)
        self._dtype: DType = self._prepared.weights.plain.dtype
        self._steps: dict[Any, _Step] = {}
        self._works: dict[Shape, Array] = {}
        self._algorithms: tuple[str, ...] = ()
        self._period = 1
        self.reset()

    def gives(self, frames: int) -> int:
        """Return how many outputs `feed` gives for a chunk of so many frames."""
        oldest = max(self._ages, default=0)
        return self._final(oldest + frames) - self._final(oldest)

    def feed(self, x: Any, *, out: Any = None) -> Any:
        """Take a chunk, and return every output that no later frame can change.

        Parameters
        ----------
        x : array, shape (N, C, spatial...)
            The next frames of N independent streams, of the type of the weights; 0 or more along the axis of the
            stream. The first chunk decides N and the other sizes.
        out : array, optional
            Array to write to. With one, nothing is allocated once chunks of this length have been fed before.

        Returns
        -------
        array
            `out` if given, else a new array of the kind of `x`, `gives(frames)` long along the axis.

        Raises
        ------
        ShapeError, DTypeError, ParameterError, FrameworkError, OutOfMemoryError
            All of them `MXNetError`; the stream is as it was.
        """
        chunk = to_numpy("Stream: x", x)
        room = None if out is None else to_numpy("Stream: out", out)
        if room is not None and np.may_share_memory(room, chunk):
            chunk = chunk.copy()
        result = self._taken(chunk, room)
        return from_numpy(result, x) if out is None else out

    def flush(self, *, out: Any = None) -> Any:
        """End the signal: return what is left of it, and begin anew.

        Parameters
        ----------
        out : array, optional
            Array to write to.

        Returns
        -------
        array
            `out`, or a NumPy array; of no length where nothing is left.

        Raises
        ------
        ParameterError
            If nothing has been fed, so that no shape is known.
        """
        if self._kept is None:
            raise ParameterError("Stream: flush: got no chunk yet; need one, if only of 0 frames")
        room = None if out is None else to_numpy("Stream: out", out)
        result = self._computed(self._kept[self._at(0, 0)], room, _FLUSH)
        self.reset()
        return result if out is None else out

    def whole(self, x: Any) -> Any:
        """Return at once what feeding `x` in any chunks and flushing gives, bit for bit; the stream stays as is."""
        signal = to_numpy("Stream: x", x)
        other = object.__new__(Stream)
        other.__dict__.update(self.__dict__)
        other._steps, other._works = {}, {}
        other.reset()
        other._check(signal)
        other._begin(signal.shape)
        return from_numpy(other._computed(signal, None, _WHOLE), x)

    def reset(self, streams: Iterable[int] | None = None) -> None:
        """Forget what was fed.

        Parameters
        ----------
        streams : iterable of int, optional
            Which streams of the batch begin a new signal with the next chunk; by default all, and then the next
            chunk may be of any batch and size. A stream that begins while others go on gives as many outputs as
            they do: the first `delay` of them lie before its signal, and are 0. Streams that began an odd number of
            frames apart may have to be computed one after the other.

        Raises
        ------
        ParameterError
            If there is no such stream, or `delay` is below 0.
        """
        if streams is None:
            self._kept: Array | None = None
            self._spare: Array | None = None
            self._ages: list[int] = []
            self._together = True
            return
        chosen = list(streams)
        if not all(isinstance(one, (int, np.integer)) and 0 <= one < len(self._ages) for one in chosen):
            raise ParameterError(f"Stream: streams: got {chosen}; need numbers below {len(self._ages)}")
        if self.delay < 0:
            raise ParameterError("Stream: streams: got some; need all, as a negative pad puts outputs in front")
        for one in chosen:
            self._ages[one] = 0
        self._together = len(set(self._ages)) == 1

    def state(self) -> State:
        """Return what the stream remembers, as plain arrays of its own.

        Returns
        -------
        dict of str to ndarray
            `history`, the last frames (N, C, spatial...), and `ages`, the frames each stream has been fed, as far
            as they matter; empty arrays where nothing has been fed.
        """
        history = np.zeros(0, self._dtype) if self._kept is None else self._kept.copy()
        return {"history": history, "ages": np.array(self._ages, np.int64)}

    def restore(self, state: State) -> None:
        """Go on from what `state` of a stream of the same layer has returned.

        Raises
        ------
        ParameterError, ShapeError, DTypeError
            If it is of another layer; the stream is as it was.
        """
        try:
            history, ages = np.asarray(state["history"]), np.asarray(state["ages"])
        except (KeyError, TypeError, IndexError, ValueError):
            raise ParameterError("Stream: state: got no arrays history and ages; need what state returns") from None
        if not history.size and not ages.size:
            self.reset()
            return
        self._check(history, anew=True)
        if history.shape[self._dimension] != self.history or history.shape[:1] != ages.shape:
            got = f"history of shape {history.shape} and {len(ages.ravel())} ages"
            raise ShapeError(f"Stream: state: got {got}; need {self.history} frames of each stream")
        if ages.dtype.kind not in "iu" or (ages < 0).any():
            raise ParameterError(f"Stream: state: got ages {ages}; need whole numbers from 0")
        self._begin(history.shape)
        assert self._kept is not None
        self._kept[...] = history
        self._ages = [self._told_apart(int(age)) for age in ages]
        self._together = len(set(self._ages)) == 1

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Algorithms the stream chooses from, one for every length; known once it has been fed."""
        return self._algorithms

    # `_ages` count the frames of each stream; from `_settled` on chunks are alike, but for their place in the grid
    # of the algorithms, which repeats after `_period` frames. Of a stream of age T, outputs to before `_final(T)`
    # are known; what a feed computes follows from the ages before and after it, and is solved once for each.

    def _told_apart(self, age: int) -> int:
        """Return the least age at which a stream goes on as at this one."""
        return min(age, self._settled + (age - self._settled) % self._period)

    def _final(self, frames: int) -> int:
        """Return how many outputs are final once so many frames are known."""
        return max(0, frames * self._stride - self.delay) if frames else 0

    def _end(self, frames: int) -> int:
        """Return how many outputs a signal of so many frames has."""
        reach = (frames - 1) * self._stride + self._line.span
        return max(0, reach - self._low - self._high + self._adj) if frames else 0

    def _check(self, chunk: Array, *, anew: bool = False) -> None:
        """Check a chunk against the weights and, unless the stream begins anew, against those before."""
        weight = self._prepared.weights.plain
        if chunk.dtype != self._dtype:
            raise DTypeError(f"Stream: x: got {chunk.dtype}; need {self._dtype}, as w has")
        if chunk.ndim != weight.ndim:
            raise ShapeError(f"Stream: x: got shape {chunk.shape}; need {weight.ndim} dimensions")
        channels = split(chunk.shape, self._prepared.window.channels_last)[1]
        if channels != weight.shape[0]:
            raise ShapeError(f"Stream: x: got {channels} channels; need {weight.shape[0]}, as w has")
        if self._kept is not None and not anew:
            wanted, got = _without(self._kept.shape, self._dimension), _without(chunk.shape, self._dimension)
            if wanted != got:
                raise ShapeError(f"Stream: x: got shape {chunk.shape}; need {wanted} beside the frames, as before")
        elif 0 in _without(chunk.shape, self._dimension):
            raise ShapeError(f"Stream: x: got shape {chunk.shape}; only the frames may be 0")

    def _begin(self, shape: Shape) -> None:
        """Make room for the history of chunks of a shape, and choose how to compute them."""
        line = self._line._replace(size=_USUAL_FRAMES).part(0, _USUAL_FRAMES * self._stride)[1]
        one = replace(self._geometry(shape, line), batch=1)
        workspace: int = self._prepared.limits["workspace"]
        self._algorithms, self._period = engine.steady(one, self._dtype, workspace=workspace)
        kept = list(shape)
        kept[self._dimension] = self.history
        self._kept, self._spare = np.zeros(kept, self._dtype), np.zeros(kept, self._dtype)
        self._ages, self._together = [0] * shape[0], True
        self._steps.clear()
        self._works.clear()

    def _geometry(self, shape: Shape, line: Axis) -> Geometry:
        """Return the problem of a chunk of `shape` whose axis of the stream is `line`."""
        window = self._prepared.window
        batch, channels, spatial = split(shape, window.channels_last)
        axes = tuple(
            line if axis == self._axis else window.large_axis("Stream", axis, size)
            for axis, size in enumerate(spatial)
        )
        return Geometry(batch, channels, window.filters, window.groups, axes, window.channels_last)

    def _at(self, first: int, stop: int) -> tuple[slice, ...]:
        """Return the index of positions along the axis of the stream."""
        return (*(slice(None),) * self._dimension, slice(first, stop))

    def _taken(self, chunk: Array, out: Array | None) -> Array:
        """Compute what a chunk makes final, and remember its last frames."""
        self._check(chunk)
        fresh = self._kept is None
        try:
            if fresh:
                self._begin(chunk.shape)
            result = self._computed(chunk, out, _FEED)
        except BaseException:
            if fresh:
                self.reset()
            raise
        if frames := chunk.shape[self._dimension]:
            self._remember(chunk, frames)
            self._ages = [self._told_apart(age + frames) for age in self._ages]
            self._together = self._together or len(set(self._ages)) == 1
        return result

    def _computed(self, chunk: Array, out: Array | None, what: int) -> Array:
        """Return the outputs that a chunk makes final, or that the end of the signal does, or all of them."""
        oldest = self._step(chunk.shape, max(self._ages), what)
        result = self._room(out, oldest.shape)
        if not result.size:
            return result
        if self._together:
            oldest.run(self, chunk, 0, result)
            return result
        # Runs of streams of one age, each behind zeros where it is not so far.
        result[...] = 0
        begin = 0
        for end in range(1, len(chunk) + 1):
            if end < len(chunk) and self._ages[end] == self._ages[begin]:
                continue
            part = chunk[begin:end]
            step = self._step(part.shape, self._ages[begin], what)
            if step.count:
                made = engine.allocate(step.shape, self._dtype)
                step.run(self, part, begin, made)
                result[begin:end][self._at(oldest.count - step.count, oldest.count)] = made
            begin = end
        return result

    def _room(self, out: Array | None, shape: Shape) -> Array:
        if out is None:
            return engine.allocate(shape, self._dtype)
        if out.shape != shape or out.dtype != self._dtype:
            got = f"{out.dtype} of shape {out.shape}"
            raise ShapeError(f"Stream: out: got {got}; need {self._dtype} of shape {shape}")
        if not out.flags.writeable:
            raise ParameterError("Stream: out: got a read-only array; need one that can be written")
        return out

    def _step(self, shape: Shape, age: int, what: int) -> _Step:
        key = (shape, age, what)
        step = self._steps.get(key)
        if step is None:
            if len(self._steps) >= _STEPS_KEPT:
                self._steps.clear()
                self._works.clear()
            step = self._steps[key] = _Step(self, shape, age, what)
            if age >= self._settled and what == _FEED:
                # What the next chunk of this shape will need.
                self._step(shape, self._told_apart(age + shape[self._dimension]), what)
        return step

    def _remember(self, chunk: Array, frames: int) -> None:
        """Move the history on by a chunk."""
        assert self._kept is not None
        assert self._spare is not None
        if frames < self.history:
            # From one array to another, as moving within one would allocate a third.
            self._spare[self._at(0, self.history - frames)] = self._kept[self._at(frames, self.history)]
            self._spare[self._at(self.history - frames, self.history)] = chunk
            self._kept, self._spare = self._spare, self._kept
        elif self.history:
            self._kept[...] = chunk[self._at(frames - self.history, frames)]


def _without(shape: Shape, dimension: int) -> Shape:
    return shape[:dimension] + shape[dimension + 1 :]


class _Step:
    """What a chunk of one shape computes for streams of one age, solved and bound once."""

    def __init__(self, stream: Stream, shape: Shape, age: int, what: int) -> None:
        frames = shape[stream._dimension]
        behind = min(age, stream.history)
        first = 0 if what == _WHOLE else stream._final(age)
        stop = stream._final(age + frames) if what == _FEED else stream._end(age + frames)
        self.count = max(0, stop - first)
        # Positions of the full output, counted from the first frame that is at hand.
        start = first + stream._low - (age - behind) * stream._stride
        self._reads, line = stream._line._replace(size=behind + frames).part(start, start + self.count)
        self._history = behind
        # Frames from the first output of the signal to the first one here, which is where a grid may begin.
        ahead = age - behind + self._reads.start + line.pad_lo // line.stride - stream._low // line.stride
        line = line._replace(grid=1 + ahead % stream._period)
        sizes = list(shape)
        sizes[stream._dimension] = line.size
        self._geometry = stream._geometry(tuple(sizes), line)
        self.shape = self._geometry.large_shape
        self._work: Array | None = None
        self._bound: engine.Bound | None = None
        if 0 in self.shape or not line.size:
            return
        if self._reads != slice(behind, behind + frames):
            self._work = stream._works.setdefault(tuple(sizes), np.empty(sizes, stream._dtype))
        prepared = stream._prepared
        self._bound = engine.bind(
            self._geometry,
            "forward",
            stream._dtype,
            prepared.weights,
            algorithms=stream._algorithms,
            **prepared.limits,
        )

    def run(self, stream: Stream, chunk: Array, begin: int, out: Array) -> None:
        """Compute into `out`; the streams of `chunk` are those of the batch from `begin` on."""
        prepared = stream._prepared
        if self._reads.start == self._reads.stop:
            # No frame reaches these outputs.
            spread = (1,) * (0 if prepared.window.channels_last else prepared.window.rank)
            out[...] = 0 if prepared.bias is None else prepared.bias.reshape(-1, *spread)
            return
        source = chunk if self._work is None else self._gathered(stream, chunk, begin, self._work)
        if self._bound is not None:
            if self._bound(source, None, prepared.bias, out) is not None:
                return
            source = np.require(source, stream._dtype, ("C_CONTIGUOUS", "ALIGNED"))
            made = self._bound(source, None, prepared.bias, None)
            assert made is not None
            out[...] = made
            return
        engine.forward(self._geometry, source, prepared.weights, prepared.bias, out, **prepared.limits)

    def _gathered(self, stream: Stream, chunk: Array, begin: int, work: Array) -> Array:
        """Put the frames that are read together: some of the history, some of the chunk."""
        assert stream._kept is not None
        first, stop = self._reads.start, self._reads.stop
        kept = max(0, min(stop, self._history) - first)
        if kept:
            at = stream.history - self._history + first
            work[stream._at(0, kept)] = stream._kept[begin : begin + len(chunk)][stream._at(at, at + kept)]
        if stop > self._history:
            work[stream._at(kept, stop - first)] = chunk[
                stream._at(first + kept - self._history, stop - self._history)
            ]
        return work
