"""A layer of transposed convolution in the words of other libraries: read from one, written for another.

What every library means along an axis is the full output, `(size - 1) * stride + span`, cut at both ends; they
differ in what they call it, in which cuts they can say, and in the order of the weight. So a `Layer` holds the
cuts, and a `Translation` the words, the order of the weight, and what the words leave over.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tconv.errors import ParameterError
from tconv.sizes import Length, Size, Step, output_size

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layer:
    """A transposed convolution, in no library's words.

    Attributes
    ----------
    kernel, stride, dilation : tuple of int
        One entry an axis.
    cut : tuple of (int, int)
        Positions cut off the low and the high end of the full output of each axis; negative ones are added, and
        hold the bias.
    channels, filters : int or None
        Maps of input and output, where the words told them.
    groups : int
        Groups.
    bias : bool
        Whether there is a bias.
    """

    kernel: Shape
    stride: Shape
    dilation: Shape
    cut: Pairs
    channels: int | None = None
    filters: int | None = None
    groups: int = 1
    bias: bool = True

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The layer along each axis."""
        return tuple(map(Step, self.kernel, self.stride, self.dilation, self.cut))

    @property
    def words(self) -> dict[str, Any]:
        """The arguments `tconv.deconvolution` takes beside its arrays."""
        return {"stride": self.stride, "pad": self.cut, "dilate": self.dilation, "num_group": self.groups}


@dataclass(frozen=True)
class WeightOrder:
    """How a library wants the weight that `tconv` has as (channels, filters / groups, kernel...).

    Attributes
    ----------
    order : str
        Axes from the first to the last: `I` maps of the input, `O` maps of the output, `*` the kernel, `G` groups.
    flipped : bool
        Whether the kernel is reversed along each of its axes.
    filled : bool
        Whether there are no groups, so that what lies between groups is filled with zeros.
    """

    order: str = "IO*"
    flipped: bool = False
    filled: bool = False

    def apply(self, weight: Array, groups: int = 1) -> Array:
        """Return `weight` of (channels, filters / groups, kernel...) in this order."""
        channels, filters, *kernel = weight.shape
        parts = weight.reshape(groups, channels // groups, filters, *kernel)
        if self.flipped:
            parts = np.flip(parts, tuple(range(3, parts.ndim)))
        if self.filled:
            dense = np.zeros((groups, channels // groups, groups, filters, *kernel), weight.dtype)
            for group in range(groups):
                dense[group, :, group] = parts[group]
            parts = dense.reshape(1, channels, groups * filters, *kernel)
        spatial = list(range(3, parts.ndim))
        if "G" not in self.order:
            parts = parts.reshape(1, -1, *parts.shape[2:])
        axes = [axis for letter in self.order for axis in {"G": [0], "I": [1], "O": [2], "*": spatial}[letter]]
        ordered: Array = parts.transpose(axes) if "G" in self.order else parts.transpose([0, *axes])[0]
        return ordered

    def __str__(self) -> str:
        names = {"I": "in", "O": "out", "*": "kernel...", "G": "groups"}
        text = f"({', '.join(names[letter] for letter in self.order)})"
        return text + ", reversed" * self.flipped + ", zeros between groups" * self.filled


@dataclass(frozen=True)
class Translation:
    """A layer in a library's words.

    Attributes
    ----------
    dialect : str
        Which library.
    text : str
        The call.
    arguments : dict
        Its arguments by name.
    weight : WeightOrder
        How the weight is handed over.
    cut : tuple of (int, int)
        What is still to be cut off the result, as in `Layer`; zeros where the words say all.
    differences : tuple of str
        What the library cannot say, and what takes its place.
    """

    dialect: str
    text: str
    arguments: dict[str, Any]
    weight: WeightOrder
    cut: Pairs
    differences: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the words alone say all."""
        return not any(size for pair in self.cut for size in pair)

    def __str__(self) -> str:
        lines = [self.text, f"weight {self.weight}", *self.differences]
        return "\n".join(lines)


def finish(result: Array, cut: Pairs, bias: Array | None = None) -> Array:
    """Cut a channel-first result as a translation asks, or add positions that hold the bias."""
    for axis, (low, high) in enumerate(cut, result.ndim - len(cut)):
        result = np.moveaxis(result, axis, 0)[max(low, 0) : result.shape[axis] - max(high, 0)]
        result = np.moveaxis(result, 0, axis)
    spread = [(0, 0)] * 2 + [(max(-low, 0), max(-high, 0)) for low, high in cut]
    if not any(size for pair in spread for size in pair):
        return result
    base = 0 if bias is None else bias.reshape(1, -1, *(1,) * len(cut))
    padded: Array = np.pad(result - base, spread) + base
    return padded


Arguments = dict[str, Any]
Needed: Any = object()


@dataclass(frozen=True)
class _Dialect:
    """How a library spells a layer: a reader of its arguments, a writer, and their positional names."""

    names: tuple[str, ...]
    positional: tuple[str, ...]
    known: frozenset[str]
    read: Callable[[Arguments, int | None, tuple[Size, ...] | None], Layer]
    write: Callable[[Layer], Translation]
    words: dict[str, str] = field(default_factory=dict)
    """What it calls stride, dilation, pad, adj, size, groups and the weight, for people."""


def _each(name: str, value: Any, rank: int) -> Shape:
    entries = tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank
    if len(entries) != rank or not all(isinstance(entry, int) for entry in entries):
        raise ParameterError(f"dialects: {name}: got {value!r}; need an int or {rank} of them")
    return entries


def _rank(arguments: Arguments, rank: int | None, *names: str) -> int:
    """Return the rank that the name of the call or the first argument that tells it has."""
    if rank is not None:
        return rank
    for name in names:
        value = arguments.get(name)
        if isinstance(value, (tuple, list)):
            return len(value)
    raise ParameterError(f"dialects: {names[0]}: got {arguments.get(names[0])!r}; need one entry an axis")


def _spans(kernel: Shape, dilation: Shape) -> Shape:
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation))


def _sizes(dialect: str, word: str, sizes: tuple[Size, ...] | None, rank: int) -> Shape:
    if sizes is None or len(sizes) != rank or not all(isinstance(size, int) for size in sizes):
        raise ParameterError(
            f"dialects: {word}: {dialect} derives pads from it and the input; need the input's size"
        )
    return tuple(size for size in sizes if isinstance(size, int))


def _totals(size: Shape, kernel: Shape, stride: Shape, dilation: Shape, want: Shape) -> Shape:
    full = ((n - 1) * s + span for n, s, span in zip(size, stride, _spans(kernel, dilation)))
    return tuple(map(lambda whole, wanted: whole - wanted, full, want))


def _leftover(layer: Layer, said: Iterable[tuple[int, int]]) -> Pairs:
    return tuple((low - a, high - b) for (low, high), (a, b) in zip(layer.cut, said))


def _left_sentences(library: str, cut: Pairs) -> tuple[str, ...]:
    if not any(size for pair in cut for size in pair):
        return ()
    ends = ", ".join(f"({low}, {high})" for low, high in cut)
    sign = "cut" if all(size >= 0 for pair in cut for size in pair) else "cut (below 0: add, holding the bias)"
    return (f"{library} cannot say these pads; {sign} {ends} off the ends of its result",)


def _plain(values: Iterable[int]) -> Any:
    """Return one int where all are equal, else a tuple."""
    entries = tuple(values)
    return entries[0] if len(set(entries)) == 1 else entries


def _call(name: str, arguments: Arguments, positional: Iterable[Any] = ()) -> str:
    parts = [str(value) for value in positional]
    parts += [f"{key}={value if isinstance(value, _Verbatim) else repr(value)}" for key, value in arguments.items()]
    return f"{name}({', '.join(parts)})"


class _Verbatim(str):
    """Text that is shown without quotes."""


def _shown(count: int | None, letter: str) -> Any:
    return _Verbatim(letter) if count is None else count


def _symmetric(layer: Layer, limit: Callable[[int, int], int]) -> tuple[Shape, Shape, Pairs]:
    """Split cuts into a pad of both ends and an adj below `limit(stride, dilation)`, and what is left."""
    pads, adjs = [], []
    for (low, high), stride, dilation in zip(layer.cut, layer.stride, layer.dilation):
        if low >= 0 and 0 <= low - high < limit(stride, dilation):
            pads.append(low)
            adjs.append(low - high)
        else:
            pads.append(max(0, min(low, high)))
            adjs.append(0)
    said = [(pad, pad - adj) for pad, adj in zip(pads, adjs)]
    return tuple(pads), tuple(adjs), _leftover(layer, said)


# MXNet


def _read_mxnet(a: Arguments, rank: int | None, sizes: tuple[Size, ...] | None) -> Layer:
    rank = _rank(a, rank, "kernel", "kernel_size", "strides", "stride")
    kernel = _each("kernel", a.get("kernel", a.get("kernel_size")), rank)
    stride = _each("stride", a.get("stride", a.get("strides", 1)), rank)
    dilation = _each("dilate", a.get("dilate", a.get("dilation", 1)), rank)
    pad = _each("pad", a.get("pad", a.get("padding", 0)), rank)
    adj = _each("adj", a.get("adj", a.get("output_padding", 0)), rank)
    target = a.get("target_shape")
    if target is not None and any(wanted := _each("target_shape", target, rank)):
        size = _sizes("MXNet", "target_shape", sizes, rank)
        totals = _totals(size, kernel, stride, dilation, wanted)
        pad, adj = tuple((total + 1) // 2 for total in totals), tuple(total % 2 for total in totals)
    cut = tuple((p, p - extra) for p, extra in zip(pad, adj))
    filters = a.get("num_filter", a.get("channels"))
    bias = bool(a["use_bias"]) if "use_bias" in a else not a.get("no_bias", "channels" not in a)
    groups: Any = a.get("num_group", a.get("groups", 1))
    return Layer(kernel, stride, dilation, cut, a.get("in_channels") or None, filters, groups, bias)


def _write_mxnet(layer: Layer) -> Translation:
    pad, adj, cut = _symmetric(layer, lambda stride, dilation: stride)
    arguments = {
        "kernel": layer.kernel,
        "stride": layer.stride,
        "dilate": layer.dilation,
        "pad": pad,
        "adj": adj,
        "num_filter": _shown(layer.filters, "F"),
        "num_group": layer.groups,
        "no_bias": not layer.bias,
    }
    text = _call("mx.nd.Deconvolution", arguments, ["data", "weight"])
    return Translation("mxnet", text, arguments, WeightOrder(), cut, _left_sentences("MXNet", cut))


# tconv


def _read_tconv(a: Arguments, rank: int | None, sizes: tuple[Size, ...] | None) -> Layer:
    rank = _rank(a, rank, "kernel", "stride", "pad")
    given = a.get("pad", 0)
    pairs = given if isinstance(given, (tuple, list)) else (given,) * rank
    pads = [tuple(pair) if isinstance(pair, (tuple, list)) else (pair, pair) for pair in pairs]
    adj = _each("adj", a.get("adj", 0), rank)
    plain = {name: value for name, value in a.items() if name not in ("pad", "adj")}
    layer = _read_mxnet({"no_bias": False, **plain}, rank, sizes)
    if a.get("target_shape") is None:
        layer = replace(layer, cut=tuple((low, high - extra) for (low, high), extra in zip(pads, adj)))
    return replace(layer, channels=a.get("channels"), filters=a.get("filters"))


def _write_tconv(layer: Layer) -> Translation:
    arguments = {
        name: _plain(value) if name in ("stride", "dilate") else value for name, value in layer.words.items()
    }
    text = _call("tconv.deconvolution", arguments, ["x", "w", "bias"] if layer.bias else ["x", "w"])
    return Translation("tconv", text, arguments, WeightOrder(), ((0, 0),) * layer.rank)


# PyTorch


def _read_torch(a: Arguments, rank: int | None, sizes: tuple[Size, ...] | None) -> Layer:
    if a.get("padding_mode", "zeros") != "zeros":
        raise ParameterError(f"dialects: padding_mode: got {a['padding_mode']!r}; PyTorch transposes zeros only")
    rank = _rank(a, rank, "kernel_size", "stride", "padding")
    kernel, stride = _each("kernel_size", a["kernel_size"], rank), _each("stride", a.get("stride", 1), rank)
    padding, extra = (
        _each("padding", a.get("padding", 0), rank),
        _each("output_padding", a.get("output_padding", 0), rank),
    )
    dilation = _each("dilation", a.get("dilation", 1), rank)
    if (wanted := a.get("output_size")) is not None:
        size = _sizes("PyTorch", "output_size", sizes, rank)
        totals = _totals(size, kernel, stride, dilation, _each("output_size", wanted, rank))
        extra = tuple(2 * p - total for p, total in zip(padding, totals))
    cut = tuple((p, p - more) for p, more in zip(padding, extra))
    return Layer(
        kernel,
        stride,
        dilation,
        cut,
        a.get("in_channels"),
        a.get("out_channels"),
        a.get("groups", 1),
        a.get("bias", True),
    )


def _write_torch(layer: Layer) -> Translation:
    padding, extra, cut = _symmetric(layer, max)
    arguments = {
        "in_channels": _shown(layer.channels, "C"),
        "out_channels": _shown(layer.filters, "F"),
        "kernel_size": _plain(layer.kernel),
        "stride": _plain(layer.stride),
        "padding": _plain(padding),
        "output_padding": _plain(extra),
        "groups": layer.groups,
        "bias": layer.bias,
        "dilation": _plain(layer.dilation),
    }
    text = _call(f"torch.nn.ConvTranspose{layer.rank}d", arguments)
    return Translation("torch", text, arguments, WeightOrder(), cut, _left_sentences("PyTorch", cut))


# ONNX


def _read_onnx(a: Arguments, rank: int | None, sizes: tuple[Size, ...] | None) -> Layer:
    rank = _rank(a, rank, "kernel_shape", "strides", "dilations", "output_shape", "output_padding")
    kernel = _each("kernel_shape", a["kernel_shape"], rank)
    stride, dilation = _each("strides", a.get("strides", 1), rank), _each("dilations", a.get("dilations", 1), rank)
    extra = _each("output_padding", a.get("output_padding", 0), rank)
    auto = a.get("auto_pad", "NOTSET")
    if (shape := a.get("output_shape")) is not None:
        wanted = _each("output_shape", tuple(shape)[-rank:], rank)
        size = _sizes("ONNX", "output_shape", sizes, rank)
        cut = tuple(
            _halves(total, auto != "SAME_UPPER") for total in _totals(size, kernel, stride, dilation, wanted)
        )
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        spans = _spans(kernel, dilation)
        cut = tuple(_halves(span - step, auto == "SAME_LOWER") for span, step in zip(spans, stride))
    else:
        pads = _each("pads", a.get("pads", 0) if auto == "NOTSET" else 0, 2 * rank)
        cut = tuple((low, high - more) for low, high, more in zip(pads[:rank], pads[rank:], extra))
    return Layer(
        kernel, stride, dilation, cut, a.get("channels"), a.get("filters"), a.get("group", 1), a.get("bias", True)
    )


def _halves(total: int, low_first: bool) -> tuple[int, int]:
    """Split a cut in two, the larger half being the low one or the high one."""
    if total < 0:
        return 0, total
    half = total // 2
    return (total - half, half) if low_first else (half, total - half)


def _write_onnx(layer: Layer) -> Translation:
    said = [
        (max(low, 0), max(high, -_most_adj(s, d)))
        for (low, high), s, d in zip(layer.cut, layer.stride, layer.dilation)
    ]
    cut = _leftover(layer, said)
    arguments = {
        "kernel_shape": list(layer.kernel),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "pads": [low for low, _ in said] + [max(high, 0) for _, high in said],
        "output_padding": [max(-high, 0) for _, high in said],
        "group": layer.groups,
    }
    text = _call("ConvTranspose", arguments, ["X", "W", "B"] if layer.bias else ["X", "W"])
    return Translation("onnx", text, arguments, WeightOrder(), cut, _left_sentences("ONNX", cut))


def _most_adj(stride: int, dilation: int) -> int:
    return max(stride, dilation) - 1


# TensorFlow and Keras


def _keras_cut(span: int, stride: int, padding: str, extra: int | None) -> tuple[int, int]:
    """Return what Keras 3 cuts; `tf.nn` cuts the same where no output padding is given."""
    if padding == "valid":
        return 0, span - max(span, stride) if extra is None else -extra
    total = stride + span - 2 if extra is None else span + span % 2 - 2 + extra
    left = min(total // 2 + total % 2, span - 1)
    return span - 1 - left, span - 1 - (total - left)


def _padding_word(value: Any, options: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value.lower() not in options:
        raise ParameterError(f"dialects: padding: got {value!r}; need one of {', '.join(options)}")
    return value.lower()


def _read_keras(a: Arguments, rank: int | None, sizes: tuple[Size, ...] | None) -> Layer:
    rank = _rank(a, rank, "kernel_size", "strides")
    kernel, stride = _each("kernel_size", a["kernel_size"], rank), _each("strides", a.get("strides", 1), rank)
    dilation = _each("dilation_rate", a.get("dilation_rate", 1), rank)
    padding = _padding_word(a.get("padding", "valid"), ("valid", "same"))
    given = a.get("output_padding")
    extras = (None,) * rank if given is None else _each("output_padding", given, rank)
    cut = tuple(map(_keras_cut, _spans(kernel, dilation), stride, (padding,) * rank, extras))
    return Layer(kernel, stride, dilation, cut, a.get("channels"), a.get("filters"), 1, a.get("use_bias", True))


def _keras_words(layer: Layer) -> tuple[str, Shape | None, Pairs]:
    """Return padding and output padding that say the cuts, or those that leave only something to cut."""
    spans = _spans(layer.kernel, layer.dilation)
    for padding in ("same", "valid"):
        if layer.cut == tuple(_keras_cut(span, s, padding, None) for span, s in zip(spans, layer.stride)):
            return padding, None, ((0, 0),) * layer.rank
    for padding in ("same", "valid"):
        extras = []
        for span, stride, cut in zip(spans, layer.stride, layer.cut):
            fitting = (extra for extra in range(stride) if _keras_cut(span, stride, padding, extra) == cut)
            extras.append(next(fitting, None))
        known = tuple(extra for extra in extras if extra is not None)
        if len(known) == layer.rank:
            return padding, known, ((0, 0),) * layer.rank
    said = [_keras_cut(span, stride, "valid", None) for span, stride in zip(spans, layer.stride)]
    return "valid", None, _leftover(layer, said)


def _write_keras(layer: Layer) -> Translation:
    padding, extra, cut = _keras_words(layer)
    arguments = {
        "filters": _shown(layer.filters, "F"),
        "kernel_size": _plain(layer.kernel),
        "strides": _plain(layer.stride),
        "padding": padding,
        "output_padding": None if extra is None else _plain(extra),
        "dilation_rate": _plain(layer.dilation),
        "use_bias": layer.bias,
    }
    differences = _left_sentences("Keras", cut)
    if layer.groups > 1:
        differences += (f"Keras has no groups here; the weight of all {layer.groups} is filled up with zeros",)
    if any(s > 1 for s in layer.stride) and any(d > 1 for d in layer.dilation):
        differences += ("Keras refuses stride and dilation together; there is no equal layer",)
    text = _call(f"keras.layers.Conv{layer.rank}DTranspose", arguments)
    order = WeightOrder("*OI", filled=layer.groups > 1)
    return Translation("keras", text, arguments, order, cut, differences)


def _read_tensorflow(a: Arguments, rank: int | None, sizes: tuple[Size, ...] | None) -> Layer:
    rank = _rank(a, rank, "kernel_size", "strides")
    kernel, stride = _each("kernel_size", a["kernel_size"], rank), _each("strides", a.get("strides", 1), rank)
    dilation = _each("dilations", a.get("dilations", 1), rank)
    spans = _spans(kernel, dilation)
    padding, shape = a.get("padding", "SAME"), a.get("output_shape")
    if isinstance(padding, (tuple, list)):
        inner = (
            [tuple(pair) for pair in padding][-rank - 1 : -1]
            if len(padding) == rank + 2
            else list(map(tuple, padding))
        )
        lows = [pair[0] for pair in inner]
        highs = [pair[1] for pair in inner]
    else:
        word = _padding_word(padding, ("valid", "same"))
        plain = [_keras_cut(span, step, word, None) for span, step in zip(spans, stride)]
        lows, highs = [low for low, _ in plain], [high for _, high in plain]
    if shape is not None:
        size = _sizes("TensorFlow", "output_shape", sizes, rank)
        if isinstance(shape, (tuple, list)) and len(shape) == rank + 2:
            shape = shape[1:-1]
        wanted = _each("output_shape", shape, rank)
        totals = _totals(size, kernel, stride, dilation, wanted)
        if not isinstance(padding, (tuple, list)) and padding.lower() == "same":
            # The low pad is that of the convolution from the wanted size back.
            lows = [max((n - 1) * s + span - want, 0) // 2 for n, s, span, want in zip(size, stride, spans, wanted)]
        highs = [total - low for total, low in zip(totals, lows)]
    return Layer(kernel, stride, dilation, tuple(zip(lows, highs)), a.get("channels"), a.get("filters"), 1, False)


def _write_tensorflow(layer: Layer) -> Translation:
    spans = _spans(layer.kernel, layer.dilation)
    cut: Pairs = ((0, 0),) * layer.rank
    padding: Any
    if layer.cut == tuple(_keras_cut(span, s, "same", None) for span, s in zip(spans, layer.stride)):
        padding, said = "SAME", list(layer.cut)
    elif layer.rank == 2:
        said = [(max(low, 0), max(high, 1 - s)) for (low, high), s in zip(layer.cut, layer.stride)]
        padding = [[0, 0], *([low, max(high, 0)] for low, high in said), [0, 0]]
    else:
        # Only conv2d_transpose takes pads as numbers.
        padding, said = "VALID", [(0, max(min(high, 0), 1 - s)) for (_, high), s in zip(layer.cut, layer.stride)]
    cut = _leftover(layer, said)
    letters = ("D", "H", "W")[-layer.rank :]
    sizes = [
        Length.of(letter) * s + (span - s - low - high)
        for letter, s, span, (low, high) in zip(letters, layer.stride, spans, said)
    ]
    shape = ", ".join(["N", *map(str, sizes), str(_shown(layer.filters, "F"))])
    arguments = {
        "output_shape": _Verbatim(f"[{shape}]"),
        "strides": list(layer.stride),
        "padding": padding,
        "dilations": list(layer.dilation),
    }
    differences = _left_sentences("TensorFlow", cut)
    if layer.groups > 1:
        differences += (f"TensorFlow has no groups here; the weight of all {layer.groups} is filled up with zeros",)
    text = _call(f"tf.nn.conv{layer.rank}d_transpose", arguments, ["x", "w"])
    order = WeightOrder("*OI", filled=layer.groups > 1)
    return Translation("tensorflow", text, arguments, order, cut, differences)


# JAX


def _read_jax(a: Arguments, rank: int | None, sizes: tuple[Size, ...] | None) -> Layer:
    rank = _rank(a, rank, "strides", "kernel_size", "padding")
    kernel, stride = _each("kernel_size", a["kernel_size"], rank), _each("strides", a.get("strides", 1), rank)
    dilation, padding = _each("rhs_dilation", a.get("rhs_dilation") or 1, rank), a.get("padding", "SAME")
    spans = _spans(kernel, dilation)
    if isinstance(padding, str):
        word = _padding_word(padding, ("same", "valid"))
        cut = tuple(_keras_cut(span, s, word, None) for span, s in zip(spans, stride))
    elif a.get("use_consistent_padding", False):
        cut = tuple((low, high) for low, high in padding)
    else:
        cut = tuple((span - 1 - low, span - 1 - high) for span, (low, high) in zip(spans, padding))
    return Layer(kernel, stride, dilation, cut, a.get("channels"), a.get("filters"), 1, False)


def _write_jax(layer: Layer) -> Translation:
    spans = _spans(layer.kernel, layer.dilation)
    padding = [(span - 1 - low, span - 1 - high) for span, (low, high) in zip(spans, layer.cut)]
    arguments = {
        "strides": layer.stride,
        "padding": padding,
        "rhs_dilation": layer.dilation,
        "transpose_kernel": True,
    }
    differences: tuple[str, ...] = ()
    if layer.groups > 1:
        differences = (f"JAX has no groups here; the weight of all {layer.groups} is filled up with zeros",)
    text = _call("jax.lax.conv_transpose", arguments, ["x", "w"])
    order = WeightOrder("*OI", filled=layer.groups > 1)
    return Translation("jax", text, arguments, order, ((0, 0),) * layer.rank, differences)


# cuDNN and oneDNN, which take numbers instead of a call


def _read_cudnn(a: Arguments, rank: int | None, sizes: tuple[Size, ...] | None) -> Layer:
    rank = _rank(a, rank, "pad", "stride", "dilation", "dx")
    kernel = _each("filter", tuple(a["filter"])[-rank:], rank)
    stride, dilation = _each("stride", a.get("stride", 1), rank), _each("dilation", a.get("dilation", 1), rank)
    pad = _each("pad", a.get("pad", 0), rank)
    extra = (0,) * rank
    if (shape := a.get("dx")) is not None:
        size = _sizes("cuDNN", "dx", sizes, rank)
        totals = _totals(size, kernel, stride, dilation, _each("dx", tuple(shape)[-rank:], rank))
        extra = tuple(2 * p - total for p, total in zip(pad, totals))
    cut = tuple((p, p - more) for p, more in zip(pad, extra))
    return Layer(kernel, stride, dilation, cut, a.get("channels"), a.get("filters"), a.get("groups", 1), False)


def _write_cudnn(layer: Layer) -> Translation:
    pad, extra, cut = _symmetric(layer, lambda stride, dilation: stride)
    spans = _spans(layer.kernel, layer.dilation)
    letters = ("D", "H", "W")[-layer.rank :]
    sizes = [
        Length.of(letter) * s + (span - s - 2 * p + more)
        for letter, s, span, p, more in zip(letters, layer.stride, spans, pad, extra)
    ]
    maps = _shown(None if layer.filters is None else layer.filters // layer.groups, "F")
    filters = ", ".join(map(str, (_shown(layer.channels, "C"), maps, *layer.kernel)))
    results = ", ".join(map(str, ("N", _shown(layer.filters, "F"), *sizes)))
    arguments = {
        "filter": _Verbatim(f"({filters})"),
        "pad": pad,
        "stride": layer.stride,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "dx": _Verbatim(f"({results})"),
        "mode": _Verbatim("CUDNN_CROSS_CORRELATION"),
    }
    text = _call("cudnnConvolutionBackwardData", arguments)
    return Translation("cudnn", text, arguments, WeightOrder(), cut, _left_sentences("cuDNN", cut))


def _read_onednn(a: Arguments, rank: int | None, sizes: tuple[Size, ...] | None) -> Layer:
    rank = _rank(a, rank, "kernel", "strides", "padding_l")
    kernel, stride = _each("kernel", a["kernel"], rank), _each("strides", a.get("strides", 1), rank)
    dilation = tuple(d + 1 for d in _each("dilates", a.get("dilates", 0), rank))
    low, high = _each("padding_l", a.get("padding_l", 0), rank), _each("padding_r", a.get("padding_r", 0), rank)
    cut = tuple(zip(low, high))
    return Layer(
        kernel, stride, dilation, cut, a.get("channels"), a.get("filters"), a.get("groups", 1), a.get("bias", True)
    )


def _write_onednn(layer: Layer) -> Translation:
    said = [(max(low, 0), max(high, 1 - s)) for (low, high), s in zip(layer.cut, layer.stride)]
    cut = _leftover(layer, said)
    arguments = {
        "kernel": layer.kernel,
        "strides": layer.stride,
        "dilates": tuple(d - 1 for d in layer.dilation),
        "padding_l": tuple(low for low, _ in said),
        "padding_r": tuple(high for _, high in said),
    }
    text = _call("dnnl::deconvolution_forward", arguments)
    order = WeightOrder("GOI*" if layer.groups > 1 else "OI*")
    return Translation("onednn", text, arguments, order, cut, _left_sentences("oneDNN", cut))


def _dialect(
    names: str,
    positional: str,
    more: str,
    read: Callable[[Arguments, int | None, tuple[Size, ...] | None], Layer],
    write: Callable[[Layer], Translation],
    *words: str,
) -> _Dialect:
    about = ("stride", "dilation", "pads", "more at the high end", "wanted size", "groups")
    order = tuple(positional.split())
    known = frozenset((*order, *more.split()))
    return _Dialect(tuple(names.split()), order, known, read, write, dict(zip(about, words)))


_DIALECTS = {
    "tconv": _dialect(
        "deconvolution",
        "",
        "kernel stride pad dilate adj target_shape num_group channels filters no_bias layout adj_rule",
        _read_tconv,
        _write_tconv,
        "stride",
        "dilate",
        "pad, or pairs",
        "adj, or a negative pad",
        "target_shape",
        "num_group",
    ),
    "mxnet": _dialect(
        "Deconvolution Conv1DTranspose Conv2DTranspose Conv3DTranspose",
        "channels kernel_size strides padding output_padding",
        "kernel stride dilate pad adj target_shape num_filter num_group no_bias workspace cudnn_tune cudnn_off "
        "layout name dilation groups in_channels use_bias activation",
        _read_mxnet,
        _write_mxnet,
        "stride",
        "dilate",
        "pad, both ends",
        "adj < stride",
        "target_shape",
        "num_group",
    ),
    "torch": _dialect(
        "ConvTranspose1d ConvTranspose2d ConvTranspose3d",
        "in_channels out_channels kernel_size stride padding output_padding groups bias dilation padding_mode",
        "output_size",
        _read_torch,
        _write_torch,
        "stride",
        "dilation",
        "padding, both ends",
        "output_padding < stride or dilation",
        "output_size",
        "groups",
    ),
    "onnx": _dialect(
        "ConvTranspose",
        "",
        "kernel_shape strides dilations pads output_padding group auto_pad output_shape channels filters bias",
        _read_onnx,
        _write_onnx,
        "strides",
        "dilations",
        "pads: all low, then all high; auto_pad",
        "output_padding",
        "output_shape",
        "group",
    ),
    "tensorflow": _dialect(
        "conv1d_transpose conv2d_transpose conv3d_transpose",
        "",
        "kernel_size strides padding output_shape dilations channels filters",
        _read_tensorflow,
        _write_tensorflow,
        "strides",
        "dilations",
        "padding: SAME, VALID; pairs in 2-D",
        "by output_shape",
        "output_shape",
        "none",
    ),
    "keras": _dialect(
        "Conv1DTranspose Conv2DTranspose Conv3DTranspose",
        "filters kernel_size strides padding output_padding",
        "dilation_rate data_format use_bias channels activation",
        _read_keras,
        _write_keras,
        "strides",
        "dilation_rate",
        "padding: same, valid",
        "output_padding < strides",
        "none",
        "none",
    ),
    "jax": _dialect(
        "conv_transpose",
        "",
        "kernel_size strides padding rhs_dilation transpose_kernel use_consistent_padding channels filters",
        _read_jax,
        _write_jax,
        "strides",
        "rhs_dilation",
        "padding pairs: span - 1 - pad; SAME, VALID",
        "larger padding",
        "none",
        "none",
    ),
    "cudnn": _dialect(
        "cudnnConvolutionBackwardData",
        "",
        "filter pad stride dilation groups dx mode channels filters",
        _read_cudnn,
        _write_cudnn,
        "stride",
        "dilation",
        "pad, both ends",
        "by the size of dx",
        "dx",
        "groupCount",
    ),
    "onednn": _dialect(
        "deconvolution_forward",
        "",
        "kernel strides dilates padding_l padding_r groups channels filters bias",
        _read_onednn,
        _write_onednn,
        "strides",
        "dilates, 0 for dense",
        "padding_l, padding_r",
        "padding_r below 0",
        "dst",
        "in the weight",
    ),
}

DIALECTS = tuple(_DIALECTS)
"""The libraries whose words are known."""


def _known(dialect: str) -> _Dialect:
    if dialect not in _DIALECTS:
        raise ParameterError(f"dialects: dialect: got {dialect!r}; need one of {', '.join(DIALECTS)}")
    return _DIALECTS[dialect]


def read(dialect: str, text: str, sizes: tuple[Size, ...] | None = None) -> Layer:
    """Read a layer from the text of a call.

    Parameters
    ----------
    dialect : str
        One of `DIALECTS`.
    text : str
        A call such as `ConvTranspose2d(64, 32, 3, stride=2)`; arguments are literals, names before the last dot are
        passed over. What a function reads from its weight is given as `kernel_size`, `filters`, `channels`.
    sizes : tuple of int, optional
        Spatial size of the input; needed where the words tell the size of the output instead of pads.

    Raises
    ------
    ParameterError
        If the text is no such call.

    Examples
    --------
    >>> from tconv import dialects
    >>> layer = dialects.read("torch", "ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1)")
    >>> layer.cut
    ((1, 0), (1, 0))
    >>> dialects.write("onnx", layer).arguments["pads"]
    [1, 1, 0, 0]
    """
    known = _known(dialect)
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError(text)
        name = ast.unparse(call.func).rpartition(".")[2]
        values = [ast.literal_eval(node) for node in call.args]
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ParameterError(
            f"dialects: layer: got {text[:80]!r}; need a call whose arguments are literals"
        ) from None
    if name not in known.names:
        raise ParameterError(f"dialects: layer: got {name!r}; {dialect} has {', '.join(known.names)}")
    if len(values) > len(known.positional):
        raise ParameterError(
            f"dialects: {name}: got {len(values)} positional arguments; need at most {len(known.positional)}"
        )
    arguments = {**dict(zip(known.positional, values)), **named}
    return read_arguments(dialect, arguments, sizes, name=name)


def read_arguments(
    dialect: str, arguments: Arguments, sizes: tuple[Size, ...] | None = None, name: str = ""
) -> Layer:
    """Read a layer from arguments by name, as `read` does; `name` of the call may tell the number of axes.

    Raises
    ------
    ParameterError
        If an argument is unknown, missing, or not of the kind that is needed.
    """
    known = _known(dialect)
    if unknown := [word for word in arguments if word not in known.known]:
        raise ParameterError(
            f"dialects: {dialect}: got {', '.join(unknown)}; known are {', '.join(sorted(known.known))}"
        )
    digits = [int(letter) for letter in name if letter.isdigit()]
    try:
        layer = known.read(arguments, digits[0] if digits else None, sizes)
    except KeyError as missing:
        raise ParameterError(f"dialects: {dialect}: {missing.args[0]}: missing; need it") from None
    except (TypeError, ValueError, IndexError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"dialects: {dialect}: got {arguments!r}; need what it documents") from None
    if not isinstance(layer.groups, int) or layer.groups < 1:
        raise ParameterError(f"dialects: groups: got {layer.groups!r}; need at least 1")
    assert layer.steps
    return layer


def write(dialect: str, layer: Layer) -> Translation:
    """Return `layer` in the words of a library.

    Raises
    ------
    ParameterError
        If the library is unknown.

    Examples
    --------
    >>> from tconv import dialects
    >>> layer = dialects.read("torch", "ConvTranspose1d(64, 32, 4, stride=2, padding=(3,), bias=False)")
    >>> print(dialects.write("tensorflow", layer))
    tf.nn.conv1d_transpose(x, w, output_shape=[N, 2*W + 2, 32], strides=[2], padding='VALID', dilations=[1])
    weight (kernel..., out, in)
    TensorFlow cannot say these pads; cut (3, 3) off the ends of its result
    """
    return _known(dialect).write(layer)


def words(dialect: str) -> dict[str, str]:
    """Return what a library calls stride, dilation, pads, the addition at the high end, the size and groups."""
    return dict(_known(dialect).words)


def output(layer: Layer, sizes: tuple[Size, ...]) -> tuple[Any, ...]:
    """Return the spatial size of the output of `layer` for an input of `sizes`."""
    if len(sizes) != layer.rank:
        raise ParameterError(f"dialects: sizes: got {sizes}; need {layer.rank} entries")
    return tuple(output_size(size, step) for size, step in zip(sizes, layer.steps))
