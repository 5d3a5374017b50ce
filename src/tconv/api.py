"""The operator on any array: `deconvolution`, its gradients, `convolution`, `prepare` and `explain`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import is_
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tconv import engine, knobs
from tconv.activations import NONE, Activation
from tconv.activations import parse as parse_activation
from tconv.dtypes import COMPUTABLE_IN_WORDS, DType, is_computable
from tconv.errors import DTypeError, ParameterError, ShapeError
from tconv.frameworks import from_numpy, to_numpy
from tconv.geometry import PAD_MODES, Geometry, Shape, Window, solve_convolution, solve_deconvolution
from tconv.params import check_choice, check_layout, pads_per_axis, per_axis, workspace_bytes

Array = np.ndarray[Any, Any]
PerAxis = int | Iterable[int]
Pads = int | Iterable[int | Iterable[int]]

ADJ_RULES = ("below_stride", "any")
"""Which adj are let through: MXNet's below the stride, or all."""

TUNINGS = ("off", "limited_workspace", "fastest")
"""Who chooses an algorithm: the cost model, or a clock within a workspace or without."""

_WORKSPACE = 512
_SHAPES_KEPT = 64
_PASSES = {None: "forward", "data": "data_gradient", "weight": "weight_gradient"}
_CALLS_KEPT = 1024
_WAYS_KEPT = 256
_WORDS = 12


class Gradients(NamedTuple):
    """Gradients of a deconvolution; one that was not wanted is None."""

    data: Any
    weight: Any
    bias: Any


def _window(
    operator: str,
    data: Array | None,
    weight: Array,
    stride: PerAxis,
    pad: Pads,
    dilate: PerAxis,
    adj: PerAxis,
    target_shape: PerAxis | None,
    num_group: int,
    layout: str | None,
    pad_mode: str,
    adj_rule: str,
) -> Window:
    rank = weight.ndim - 2
    if rank not in (1, 2, 3):
        raise ShapeError(f"{operator}: w: got shape {weight.shape}; need 3, 4 or 5 dimensions")
    if weight.size == 0:
        raise ShapeError(f"{operator}: w: got shape {weight.shape}; need a size of at least 1 everywhere")
    if data is not None and data.ndim != weight.ndim:
        raise ShapeError(f"{operator}: x: got shape {data.shape}; need {weight.ndim} dimensions, as w has")
    (groups,) = per_axis(operator, "num_group", num_group, 1)
    if groups < 1:
        raise ShapeError(f"{operator}: num_group: got {groups}; need at least 1")
    channels_last = check_layout(operator, layout, rank)
    check_choice(operator, "pad_mode", pad_mode, PAD_MODES)
    check_choice(operator, "adj_rule", adj_rule, ADJ_RULES)
    kernel = weight.shape[1:-1] if channels_last else weight.shape[2:]
    maps = weight.shape[-1] if channels_last else weight.shape[1]
    return Window(
        kernel=kernel,
        stride=per_axis(operator, "stride", stride, rank),
        dilation=per_axis(operator, "dilate", dilate, rank),
        pad=pads_per_axis(operator, pad, rank),
        adj=per_axis(operator, "adj", adj, rank),
        filters=maps * groups,
        groups=groups,
        target=None if target_shape is None else per_axis(operator, "target_shape", target_shape, rank),
        channels_last=channels_last,
        pad_mode=pad_mode,
        any_adj=adj_rule == "any",
    )


def _check(operator: str, arrays: dict[str, Array | None], shapes: dict[str, Shape]) -> None:
    """Check that the arrays have the shapes of a geometry and share one floating type."""
    first: DType | None = None
    for name, array in arrays.items():
        if array is None:
            continue
        dtype: DType = array.dtype
        if dtype is not first:
            dtype = dtype.newbyteorder("=")
            if first is None:
                first = dtype
                if not is_computable(dtype):
                    raise DTypeError(f"{operator}: {name}: got {dtype}; need {COMPUTABLE_IN_WORDS}")
            if dtype != first:
                raise DTypeError(f"{operator}: {name}: got {dtype}; need {first}, as the first array has")
        if array.shape != shapes[name]:
            raise ShapeError(f"{operator}: {name}: got shape {array.shape}; need {shapes[name]}")
    out = arrays.get("out")
    if out is not None and not out.flags.writeable:
        raise ParameterError(f"{operator}: out: got a read-only array; need one that can be written")


def _workspace(operator: str, megabytes: int) -> int:
    return workspace_bytes(per_axis(operator, "workspace", megabytes, 1)[0])


def _threads(operator: str, threads: int | None) -> int | None:
    if threads is None:
        return None
    (count,) = per_axis(operator, "threads", threads, 1)
    if not 1 <= count <= knobs.MOST_THREADS:
        raise ParameterError(f"{operator}: threads: got {count}; need 1 to {knobs.MOST_THREADS}")
    return count


@dataclass(slots=True)
class _Call:
    """What the words of a call mean, and the short way of its gradients once they were computed."""

    said: tuple[Any, ...]
    geometry: Geometry
    shapes: dict[str, Shape]
    limits: dict[str, Any]
    gradients: engine.BoundGradients | None = None


@dataclass(slots=True)
class _Way:
    """The short way of an operator with weights of one shape, for data of any."""

    said: tuple[Any, ...]
    maps: int
    bound: engine.Bound


_calls: dict[Any, _Call] = {}
_ways: dict[Any, _Way] = {}
_Known = TypeVar("_Known", _Call, _Way)


def _fixed(word: Any) -> Any:
    """Return a word as one that cannot change."""
    if isinstance(word, np.ndarray):
        word = word.tolist()
    return tuple(map(_fixed, word)) if isinstance(word, (list, tuple)) else word


def _plain(word: Any) -> bool:
    """Return whether a word can neither change nor be taken for another."""
    if type(word) is tuple:
        return all(map(_plain, word))
    return word is None or isinstance(word, (int, float, str, np.number))


def _alike(one: Any, other: Any) -> bool:
    """Return whether equal words are of the same types: 1, 1.0 and True are not."""
    return type(one) is type(other) and (type(one) is not tuple or all(map(_alike, one, other)))


def _recall(memory: dict[Any, _Known], arrays: tuple[Any, ...], words: tuple[Any, ...]) -> _Known | None:
    """Return what the same words meant in an earlier call for such arrays, if there was one.

    Understanding them takes longer than a small layer computes.
    """
    said = words
    try:
        known = memory.get((*arrays, said))
    except TypeError:  # a list among the words
        said = _fixed(words)
        if not _plain(said):
            return None
        known = memory.get((*arrays, said))
    if known is None:
        return None
    if not all(map(is_, said, known.said)) and not _alike(said, known.said):
        return None
    return known


def _keep(memory: dict[Any, _Known], most: int, arrays: tuple[Any, ...], known: _Known) -> None:
    """Remember what `_recall` shall find, if its words cannot be taken for others."""
    if _plain(known.said):
        if len(memory) >= most:
            memory.clear()
        key = (*arrays, known.said)
        memory[key] = known


def _understand(x: Array, w: Array, words: tuple[Any, ...]) -> _Call:
    """Translate the words of a call: the operator, the options of `_window`, workspace and threads.

    What they mean is remembered. A word after them only tells calls apart.
    """
    arrays = x.dtype, x.shape, w.shape
    known = _recall(_calls, arrays, words)
    if known is not None:
        return known
    operator, *options, workspace, threads = words[:_WORDS]
    window = _window(operator, x, w, *options)
    if operator == "convolution":
        # The weight's first axis is the filters here, its maps the channels of one group.
        geometry = solve_convolution(operator, replace(window, filters=w.shape[0]), x.shape)
        shapes = {
            "x": geometry.large_shape,
            "w": geometry.weight_shape,
            "bias": (geometry.channels,),
            "out": geometry.small_shape,
        }
    else:
        geometry = solve_deconvolution(operator, window, x.shape)
        shapes = _forward_shapes(geometry)
    limits = {"workspace": _workspace(operator, workspace), "threads": _threads(operator, threads)}
    said = words if _plain(words) else _fixed(words)
    call = _Call(said, geometry, shapes, limits)
    _keep(_calls, _CALLS_KEPT, arrays, call)
    return call


def _repeated(x: Array, w: Array, bias: Any, out: Any, said: tuple[Any, ...]) -> Array | None:
    """Compute as before with the same words and weights of this shape, if no array needs care; else return None."""
    known = _recall(_ways, (x.dtype, w.shape), said)
    if known is None:
        return None
    if bias is not None and (type(bias) is not np.ndarray or bias.dtype != x.dtype or bias.shape != (known.maps,)):
        return None
    if out is not None and type(out) is not np.ndarray:
        return None
    return known.bound(x, w, bias, out)


def _meet(x: Array, w: Array, call: _Call, pass_name: str, *, any_size: bool) -> None:
    """Let an operator that was computed be repeated; with `any_size` for data of another size as well."""
    arrays = x.dtype, w.shape
    known = _recall(_ways, arrays, call.said)
    if known is not None and known.bound.knows(x.shape):
        return
    bound = engine.bind(
        call.geometry,
        pass_name,
        x.dtype,
        any_size=any_size,
        known=None if known is None else known.bound,
        **call.limits,
    )
    if bound is not None and known is None:
        _keep(_ways, _WAYS_KEPT, arrays, _Way(call.said, call.shapes["bias"][0], bound))


def _forward_shapes(geometry: Geometry) -> dict[str, Shape]:
    return {
        "x": geometry.small_shape,
        "w": geometry.weight_shape,
        "bias": (geometry.filters,),
        "out": geometry.large_shape,
    }


def _optional(where: str, array: Any) -> Array | None:
    return None if array is None else to_numpy(where, array)


def deconvolution(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    stride: PerAxis = 1,
    pad: Pads = 0,
    dilate: PerAxis = 1,
    adj: PerAxis = 0,
    target_shape: PerAxis | None = None,
    num_group: int = 1,
    layout: str | None = None,
    pad_mode: str = "zero",
    adj_rule: str = ADJ_RULES[0],
    workspace: int = _WORKSPACE,
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Compute a transposed convolution over 1, 2 or 3 spatial axes.

    Along each axis `out = (size - 1) * stride + (kernel - 1) * dilate + 1 - pad_low - pad_high + adj`, and

        y[n, f, j] = bias[f] + sum over c, i, k with j = i * stride + k * dilate - pad_low of
                     x[n, c, i] * w[c, f', k]

    for the channels c of the group of filter f, f' being the filter's number within its group.

    This is the adjoint of a convolution that reads a signal of length `out`, continued at its ends by `pad_low` and
    `pad_high` positions; `pad_mode` tells with what: zeros, or the signal itself. So what lands on a cut position
    is dropped with zeros, and otherwise added to the position that is repeated there, before the bias is.

    Parameters
    ----------
    x : array, shape (N, C, spatial...)
        Data of float32, float64, float16 or bfloat16: a NumPy array, an `mx.nd.NDArray`, a PyTorch tensor, or a CPU
        array with `__dlpack__` (if its package has no `from_dlpack`, the result is a NumPy array).
    w : array, shape (C, F / num_group, kernel...)
        Weight, of the type of `x`; it decides kernel size and number of filters.
    bias : array, shape (F,), optional
        Added to every position.
    stride, dilate, adj : int or one int an axis
        Step, distance between taps, positions added at the high end.
    pad : int, or one int or pair (low, high) an axis
        Positions cut off at both ends, or at each; a negative number adds as many instead.
    target_shape : int or one int an axis, optional
        Wanted spatial size of the output; pad and adj are then derived from it.
    num_group : int
        Groups; they divide C and F.
    layout : str, optional
        NCW, NCHW, NCDHW (the default by rank), or NWC, NHWC, NDHWC: then x is (N, spatial..., C), w is
        (C, kernel..., F / num_group) and the output (N, spatial..., F).
    pad_mode : {"zero", "circular", "reflect", "replicate"}
        What the convolution whose adjoint this is reads where pad cuts: zeros, or what `numpy.pad` puts there in
        its modes wrap, reflect and edge. Negative pads and adj add positions that nothing is read from.
        float16 and bfloat16 round once more for each fold of a border.
    adj_rule : {"below_stride", "any"}
        Whether adj must be below its stride, as in MXNet, or may be any number from 0; "any" also lets target_shape
        be of any size.
    workspace : int
        Ceiling in MB of temporary memory: packed weights, panels, partial sums; not inputs, output and the copies
        of arrays that are strided, misaligned or of another byte order. Negative means no ceiling.
    threads : int, optional
        Threads to use; by default all cores the process may use.
    out : array, optional
        Array to write to; it may overlap the inputs.

    Returns
    -------
    array
        `out` if given, else a new array of the kind of `x`.

    Raises
    ------
    ShapeError, DTypeError, ParameterError, FrameworkError, OutOfMemoryError
        All of them `MXNetError`; no array is changed.

    Examples
    --------
    >>> import numpy as np, tconv
    >>> x = np.array([[[1.0, 2.0, 3.0]]])
    >>> w = np.array([[[1.0, 10.0, 100.0]]])
    >>> tconv.deconvolution(x, w, stride=2)
    array([[[  1.,  10., 102.,  20., 203.,  30., 300.]]])
    >>> tconv.deconvolution(x, w, stride=2, pad=((0, 1),), pad_mode="circular")
    array([[[301.,  10., 102.,  20., 203.,  30.]]])
    """
    operator = "deconvolution"
    plain = type(x) is np.ndarray and type(w) is np.ndarray and x.dtype == w.dtype
    said = (
        operator,
        stride,
        pad,
        dilate,
        adj,
        target_shape,
        num_group,
        layout,
        pad_mode,
        adj_rule,
        workspace,
        threads,
    )
    if plain:
        quick = _repeated(x, w, bias, out, said)
        if quick is not None:
            return quick
    data, weight = to_numpy(f"{operator}: x", x), to_numpy(f"{operator}: w", w)
    offset, result = _optional(f"{operator}: bias", bias), _optional(f"{operator}: out", out)
    call = _understand(data, weight, said)
    _check(operator, {"x": data, "w": weight, "bias": offset, "out": result}, call.shapes)
    y = engine.forward(call.geometry, data, weight, offset, result, **call.limits)
    if plain:
        # A target decides about pads anew for every size.
        _meet(data, weight, call, "forward", any_size=target_shape is None)
    return from_numpy(y, x) if out is None else out


def deconvolution_gradients(
    x: Any,
    w: Any,
    dy: Any,
    *,
    stride: PerAxis = 1,
    pad: Pads = 0,
    dilate: PerAxis = 1,
    adj: PerAxis = 0,
    target_shape: PerAxis | None = None,
    num_group: int = 1,
    layout: str | None = None,
    pad_mode: str = "zero",
    adj_rule: str = ADJ_RULES[0],
    workspace: int = _WORKSPACE,
    threads: int | None = None,
    want: Iterable[str] = ("data", "weight", "bias"),
) -> Gradients:
    """Compute the gradients of `deconvolution` for the output gradient `dy`.

    Parameters
    ----------
    x, w, stride, pad, dilate, adj, target_shape, num_group, layout, pad_mode, adj_rule, workspace, threads
        As given to `deconvolution`.
    dy : array, shape of the output
        Gradient of the output, of the type of `x`.
    want : iterable of str
        Which of data, weight and bias to compute.

    Returns
    -------
    Gradients
        `data`, `weight`, `bias`, arrays of the kind of `x` in the shapes of x, w and bias.

    Raises
    ------
    ShapeError, DTypeError, ParameterError, FrameworkError, OutOfMemoryError
        All of them `MXNetError`.

    Examples
    --------
    >>> import numpy as np, tconv
    >>> x, w = np.ones((1, 1, 3)), np.ones((1, 1, 2))
    >>> g = tconv.deconvolution_gradients(x, w, np.arange(6.0).reshape(1, 1, 6), stride=2)
    >>> g.data, g.weight, g.bias
    (array([[[1., 5., 9.]]]), array([[[6., 9.]]]), array([15.]))
    """
    operator = "deconvolution_gradients"
    options = stride, pad, dilate, adj, target_shape, num_group, layout, pad_mode, adj_rule
    plain = type(x) is np.ndarray and type(w) is np.ndarray and type(dy) is np.ndarray and x.dtype == w.dtype
    said = (operator, *options, workspace, threads, want)
    if plain:
        known = _recall(_calls, (x.dtype, x.shape, w.shape), said)
        if known is not None and known.gradients is not None and dy.shape == known.shapes["out"]:
            quick = known.gradients(x, w, dy)
            if quick is not None:
                return Gradients(*quick)
    wanted = tuple(want) if isinstance(want, Iterable) else (want,)
    if unknown := [name for name in wanted if name not in Gradients._fields]:
        raise ParameterError(f"{operator}: want: got {unknown}; need some of {Gradients._fields}")
    data, weight = to_numpy(f"{operator}: x", x), to_numpy(f"{operator}: w", w)
    grad = to_numpy(f"{operator}: dy", dy)
    call = _understand(data, weight, (*said[:_WORDS], wanted))
    _check(operator, {"x": data, "w": weight, "dy": grad}, {**call.shapes, "dy": call.shapes["out"]})
    if plain and call.gradients is None:
        choice = "data" in wanted, "weight" in wanted, "bias" in wanted
        call.gradients = engine.bind_gradients(call.geometry, data.dtype, choice, **call.limits)
        if call.gradients is not None and (quick := call.gradients(data, weight, grad)) is not None:
            return Gradients(*quick)
    found: dict[str, Array] = {}
    if "data" in wanted:
        found["data"] = engine.data_gradient(call.geometry, grad, weight, **call.limits)
    if "weight" in wanted:
        found["weight"] = engine.weight_gradient(call.geometry, data, grad, **call.limits)
    if "bias" in wanted:
        found["bias"] = engine.bias_gradient(call.geometry, grad, threads=call.limits["threads"])
    return Gradients(*(from_numpy(found[name], x) if name in found else None for name in Gradients._fields))


def convolution(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    stride: PerAxis = 1,
    pad: Pads = 0,
    dilate: PerAxis = 1,
    num_group: int = 1,
    layout: str | None = None,
    pad_mode: str = "zero",
    workspace: int = _WORKSPACE,
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Compute a convolution (cross-correlation), the adjoint of `deconvolution`.

    Along each axis `out = (size + pad_low + pad_high - dilate * (kernel - 1) - 1) // stride + 1`; `pad_mode` tells
    what is read beyond the ends, and negative pads leave out what is there.

    Parameters
    ----------
    x : array, shape (N, C, spatial...)
        Data, as for `deconvolution`.
    w : array, shape (F, C / num_group, kernel...)
        Weight, of the type of `x`; channel-last (F, kernel..., C / num_group).
    bias : array, shape (F,), optional
        Added to every position.
    stride, pad, dilate, num_group, layout, pad_mode, workspace, threads, out
        As for `deconvolution`.

    Returns
    -------
    array
        `out` if given, else a new array of the kind of `x`.

    Raises
    ------
    ShapeError, DTypeError, ParameterError, FrameworkError, OutOfMemoryError
        All of them `MXNetError`; no array is changed.

    Examples
    --------
    >>> import numpy as np, tconv
    >>> x = np.arange(6.0).reshape(1, 1, 6)
    >>> tconv.convolution(x, np.array([[[1.0, 10.0]]]), stride=2)
    array([[[10., 32., 54.]]])
    """
    operator = "convolution"
    plain = type(x) is np.ndarray and type(w) is np.ndarray and x.dtype == w.dtype
    options = stride, pad, dilate, 0, None, num_group, layout, pad_mode, ADJ_RULES[0]
    said = (operator, *options, workspace, threads)
    if plain:
        quick = _repeated(x, w, bias, out, said)
        if quick is not None:
            return quick
    data, weight = to_numpy(f"{operator}: x", x), to_numpy(f"{operator}: w", w)
    offset, result = _optional(f"{operator}: bias", bias), _optional(f"{operator}: out", out)
    call = _understand(data, weight, said)
    _check(operator, {"x": data, "w": weight, "bias": offset, "out": result}, call.shapes)
    y = engine.data_gradient(call.geometry, data, weight, offset, result, **call.limits)
    if plain:
        _meet(data, weight, call, "data_gradient", any_size=False)
    return from_numpy(y, x) if out is None else out


class Prepared:
    """A deconvolution whose weights are packed once; made by `prepare`.

    Calling it with data computes; see `prepare`. It may be called from many threads at a time.

    Attributes
    ----------
    nbytes : int
        Bytes held: the weights, plain and in every order that calls have asked for.
    window, weights, bias, activation, limits
        What was prepared, as `tconv.engine` takes it.
    """

    def __init__(
        self,
        window: Window,
        weight: Array,
        bias: Array | None,
        workspace: int,
        threads: int | None,
        tune: str = TUNINGS[0],
        activation: Activation = NONE,
    ) -> None:
        self.window = window
        self.weights = engine.Weights(weight)
        self.bias = None if bias is None else np.array(bias, weight.dtype.newbyteorder("="))
        self.limits: dict[str, Any] = {"workspace": workspace, "threads": threads, "tune": tune}
        self.activation = activation
        self._shapes: dict[Shape, tuple[Geometry, dict[str, Shape]]] = {}
        self._bound: engine.Bound | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held by the weights in all their orders."""
        return self.weights.nbytes

    def _solved(self, shape: Shape) -> tuple[Geometry, dict[str, Shape]]:
        found = self._shapes.get(shape)
        if found is None:
            geometry = solve_deconvolution("prepared deconvolution", self.window, shape)
            if len(self._shapes) >= _SHAPES_KEPT:
                self._shapes.clear()
            found = self._shapes[shape] = geometry, _forward_shapes(geometry)
        return found

    def _meet(self, shape: Shape) -> engine.Bound | None:
        """Return the short way if a shape is new to it and could be added."""
        plain = self.weights.plain
        if self._bound is not None and self._bound.knows(shape):
            return None
        geometry, _ = self._solved(shape)
        if geometry.weight_shape != plain.shape:
            return None
        # A target decides about pads anew for every size.
        any_size = self.window.target is None
        bound = engine.bind(
            geometry,
            "forward",
            plain.dtype,
            self.weights,
            activation=self.activation,
            any_size=any_size,
            known=self._bound,
            **self.limits,
        )
        if bound is not None:
            self._bound = bound
        return bound

    def __call__(self, x: Any, *, out: Any = None) -> Any:
        """Compute the deconvolution of `x`.

        Parameters
        ----------
        x : array, shape (N, C, spatial...)
            Data of the type of the weights; any batch and spatial size.
        out : array, optional
            Array to write to.

        Returns
        -------
        array
            `out` if given, else a new array of the kind of `x`.

        Raises
        ------
        ShapeError, DTypeError, ParameterError, FrameworkError, OutOfMemoryError
            All of them `MXNetError`; no array is changed.
        """
        if type(x) is np.ndarray and (out is None or type(out) is np.ndarray):
            bound = self._bound
            quick = None if bound is None else bound(x, None, self.bias, out)
            if quick is None and (bound := self._meet(x.shape)) is not None:
                quick = bound(x, None, self.bias, out)
            if quick is not None:
                return quick
        operator = "prepared deconvolution"
        data = to_numpy(f"{operator}: x", x)
        result = None if out is None else to_numpy(f"{operator}: out", out)
        geometry, shapes = self._solved(data.shape)
        _check(operator, {"w": self.weights.plain, "x": data, "out": result}, shapes)
        y = engine.forward(
            geometry, data, self.weights, self.bias, result, activation=self.activation, **self.limits
        )
        return from_numpy(y, x) if out is None else out

    def explain(self, shape: Iterable[int], *, measure: bool = False) -> Explanation:
        """Tell what a call with data of that shape runs, and what else was considered.

        Parameters
        ----------
        shape : iterable of int
            Shape of the data.
        measure : bool
            Whether to time the algorithms, on arrays of their own.
        """
        geometry, _ = self._solved(tuple(shape))
        dtype = self.weights.plain.dtype
        return _explanation(geometry, "forward", dtype, self.limits, packed=True, measure=measure)


def prepare(
    w: Any,
    bias: Any = None,
    *,
    stride: PerAxis = 1,
    pad: Pads = 0,
    dilate: PerAxis = 1,
    adj: PerAxis = 0,
    target_shape: PerAxis | None = None,
    num_group: int = 1,
    layout: str | None = None,
    pad_mode: str = "zero",
    adj_rule: str = ADJ_RULES[0],
    workspace: int = _WORKSPACE,
    threads: int | None = None,
    tune: str = TUNINGS[0],
    activation: str | tuple[Any, ...] | None = None,
) -> Prepared:
    """Return `deconvolution` with these weights as a callable that packs them once.

    Parameters
    ----------
    w, bias, stride, pad, dilate, adj, target_shape, num_group, layout, pad_mode, adj_rule, workspace, threads
        As for `deconvolution`. The weights are copied: changing `w` later changes nothing.
    tune : str
        Who chooses the algorithm for data of a new shape: `off` the cost model; `limited_workspace` a clock, among
        those that keep to `workspace`; `fastest` among all. What was found is kept, see the knob `tuned`.
    activation : None, "relu", ("leaky", slope) or ("clip", low, high)
        What is done to every output before it is stored, bias added. A NaN stays one.

    Returns
    -------
    Prepared
        `up(x)` and `up(x, out=buffer)` compute; `up.explain(x.shape)` tells how.

    Raises
    ------
    ShapeError, DTypeError, ParameterError, FrameworkError
        All of them `MXNetError`.

    Examples
    --------
    >>> import numpy as np, tconv
    >>> up = tconv.prepare(np.ones((1, 1, 2, 2), "float32"), stride=2)
    >>> up(np.array([[[[1.0, 2.0]]]], "float32"))
    array([[[[1., 1., 2., 2.],
             [1., 1., 2., 2.]]]], dtype=float32)
    >>> clipped = tconv.prepare(np.ones((1, 1, 2), "float32"), stride=2, activation=("clip", 0, 1.5))
    >>> clipped(np.array([[[-1.0, 1.0, 2.0]]], "float32"))
    array([[[0. , 0. , 1. , 1. , 1.5, 1.5]]], dtype=float32)
    """
    operator = "prepare"
    weight, offset = to_numpy(f"{operator}: w", w), _optional(f"{operator}: bias", bias)
    window = _window(
        operator, None, weight, stride, pad, dilate, adj, target_shape, num_group, layout, pad_mode, adj_rule
    )
    window.check(operator)
    _check(operator, {"w": weight, "bias": offset}, {"w": weight.shape, "bias": (window.filters,)})
    check_choice(operator, "tune", tune, TUNINGS)
    limits = _workspace(operator, workspace), _threads(operator, threads)
    return Prepared(window, weight, offset, *limits, tune, parse_activation(operator, activation))


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.3f} µs"


@dataclass(frozen=True)
class Explanation:
    """What runs for a problem and why; `print` it to read it.

    Attributes
    ----------
    backend, algorithm, kernel : str
        Who computes, by which algorithm, in which inner loop.
    geometry : Geometry
        The problem, solved.
    dtype : dtype
        Type of the arrays.
    flops : int
        Operations of the direct method, two for each multiply-add.
    details : dict
        What else the backend tells: instruction set, threads, expected seconds, bytes of arrays, workspace and
        packed weights; `share_of_peak`, if measured: direct operations a second over those that the product kernels
        reach on these threads with all data near the core, above 1 where an algorithm saves operations.
    expected : dict of str to float
        The seconds that the cost model gives each algorithm that could run.
    measured : dict of str to float
        The least seconds that algorithms took, if measured; those without prospect are left out.
    refusals : dict of str to str
        Algorithms that cannot solve the problem, and why.
    """

    backend: str
    algorithm: str
    kernel: str
    geometry: Geometry
    dtype: DType
    flops: int
    details: dict[str, Any]
    expected: dict[str, float]
    measured: dict[str, float]
    refusals: dict[str, str]

    def __str__(self) -> str:
        g, told = self.geometry, self.details
        lines = [
            f"{g.small_shape} <-> {g.large_shape}, weight {g.weight_shape}, {self.dtype}",
            f"{self.algorithm} by {self.backend}, kernel {self.kernel}",
            f"  {self.flops:,} operations of the direct method",
        ]
        if told:
            sizes = (f"{name} {told[f'{name}_bytes']:,}" for name in ("array", "workspace", "packed"))
            lines += [f"  threads {told['threads']}, {told['isa']}", f"  bytes: {', '.join(sizes)}"]
        if "share_of_peak" in told:
            rate = self.flops / self.measured[self.algorithm] / 1e9
            lines.append(f"  {rate:.1f} GFLOP/s, {told['share_of_peak']:.2f} of the measured peak")
        for name, seconds in sorted(self.expected.items(), key=lambda pair: pair[1]):
            took = f", measured {_duration(self.measured[name])}" if name in self.measured else ""
            lines.append(f"{name}: expected {_duration(seconds)}{took}")
        lines += (f"not {name}: {reason}" for name, reason in self.refusals.items())
        return "\n".join(lines)


def _explanation(
    geometry: Geometry, pass_name: str, dtype: DType, limits: dict[str, Any], *, packed: bool, measure: bool
) -> Explanation:
    found = engine.explain(geometry, pass_name, dtype.newbyteorder("="), packed=packed, measure=measure, **limits)
    named = {key: found.pop(key) for key in ("backend", "algorithm", "kernel", "refusals")}
    times = {key: found.pop(key, {}) for key in ("expected", "measured")}
    return Explanation(
        geometry=geometry, dtype=dtype, flops=int(found.pop("flops")), details=found, **named, **times
    )


def explain(
    x: Any,
    w: Any,
    *,
    stride: PerAxis = 1,
    pad: Pads = 0,
    dilate: PerAxis = 1,
    adj: PerAxis = 0,
    target_shape: PerAxis | None = None,
    num_group: int = 1,
    layout: str | None = None,
    pad_mode: str = "zero",
    adj_rule: str = ADJ_RULES[0],
    workspace: int = _WORKSPACE,
    threads: int | None = None,
    gradient: str | None = None,
    measure: bool = False,
) -> Explanation:
    """Tell what `deconvolution` runs for these arguments, without computing.

    Parameters
    ----------
    x, w, stride, pad, dilate, adj, target_shape, num_group, layout, pad_mode, adj_rule, workspace, threads
        As for `deconvolution`.
    gradient : str, optional
        Tell about the gradient of `data` or `weight` instead.
    measure : bool
        Whether to time the algorithms, on arrays of their own.

    Returns
    -------
    Explanation
        Algorithm, kernel, costs, and every refusal with its reason.

    Raises
    ------
    ShapeError, DTypeError, ParameterError, FrameworkError, OutOfMemoryError
        All of them `MXNetError`.

    Examples
    --------
    >>> import numpy as np, tconv
    >>> x, w = np.ones((1, 8, 8, 8), "float32"), np.ones((8, 8, 4, 4), "float32")
    >>> tconv.explain(x, w, stride=2, pad=1).flops
    131072
    """
    operator = "explain"
    data, weight = to_numpy(f"{operator}: x", x), to_numpy(f"{operator}: w", w)
    options = stride, pad, dilate, adj, target_shape, num_group, layout, pad_mode, adj_rule
    call = _understand(data, weight, (operator, *options, workspace, threads))
    _check(operator, {"x": data, "w": weight}, call.shapes)
    if gradient not in _PASSES:
        raise ParameterError(f"{operator}: gradient: got {gradient!r}; need None, 'data' or 'weight'")
    return _explanation(call.geometry, _PASSES[gradient], data.dtype, call.limits, packed=False, measure=measure)
