"""How far a network sees: which part of a picture an output pixel depends on.

So a picture can be cut into tiles that give the same result as the whole, if each is computed with its
surroundings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, lcm

from tconv.geometry import PartialShape
from tconv.operators.registry import names
from tconv.symbol.inference import Shapes
from tconv.symbol.node import Entry, Node, walk

ROWS, COLUMNS = 2, 3


@dataclass(frozen=True)
class Sight:
    """What an element sees of the input along one axis.

    Output element y depends on the input from `y / density - low` to `y / density + high`.

    Attributes
    ----------
    density : Fraction
        Elements for each of the input.
    low, high : Fraction
        How far the dependence goes, in elements of the input; may be negative.
    """

    density: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)

    def wider(self, low: Fraction | int, high: Fraction | int) -> Sight:
        """Return what is seen through a window over elements of this density."""
        return replace(self, low=self.low + low / self.density, high=self.high + high / self.density)


@dataclass(frozen=True)
class Reach:
    """How far a network sees along one axis.

    Attributes
    ----------
    margin : int
        Elements of the input on either side of its own place that an output may depend on.
    step : int
        Distances by which tiles may be apart: multiples of it shift the output as they shift the input.
    scale : Fraction
        Elements of the output for each of the input.
    """

    margin: int
    step: int
    scale: Fraction


class Unbounded(Exception):  # noqa: N818
    """An operator whose result depends on the whole picture, or on where in it a pixel lies."""


def reach(heads: Sequence[Entry], data: str, shapes: Mapping[str, PartialShape], axis: int) -> Reach:
    """Tell how far the first output sees along an axis of an input.

    Parameters
    ----------
    heads : sequence of Entry
        The graph.
    data : str
        The input, (N, C, H, W).
    shapes : mapping of str to shape
        Shapes of all variables.
    axis : int
        2 for rows, 3 for columns.

    Raises
    ------
    Unbounded
        If an output may depend on everything; its text names the operator.
    """
    found = Shapes(heads, shapes)
    sights: dict[Entry, Sight | None] = {}
    steps = 1
    for node in walk(heads[:1]):
        if node.operator is None:
            sights[Entry(node)] = Sight() if node.name == data else None
            continue
        inputs = [entry._replace(version=0) for entry in node.inputs]
        seen = [sights[entry] for entry in inputs]
        sight: Sight | None = None
        if any(seen):
            rule = _RULES.get(node.operator.name, _unbounded)
            sight = rule(node, seen, [found.of(entry) for entry in inputs], axis)
            steps = lcm(steps, sight.density.denominator)
        for place in range(len(node.output_names)):
            sights[Entry(node, place)] = sight
    last = sights[heads[0]._replace(version=0)]
    if last is None:
        raise Unbounded(f"the output does not depend on {data}")
    return Reach(max(ceil(last.low), ceil(last.high), 0), steps, last.density)


Rule = Callable[[Node, Sequence["Sight | None"], Sequence[PartialShape], int], Sight]


def _unbounded(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    assert node.operator is not None
    raise Unbounded(f"{node.operator.name} {node.name!r} sees all of it")


def _together(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    """Return what is seen by an operator of elements at the same place."""
    known = [sight for sight in seen if sight is not None]
    if len({sight.density for sight in known}) > 1:
        raise Unbounded(f"{node.name!r} joins inputs of different size")
    return Sight(known[0].density, max(sight.low for sight in known), max(sight.high for sight in known))


def _first(node: Node, seen: Sequence[Sight | None], what: str) -> Sight:
    if seen[0] is None or any(seen[1:]):
        raise Unbounded(f"{node.name!r} computes its {what} from the picture")
    return seen[0]


def _convolution(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    window = node.params.window
    if window.rank != 2 or window.channels_last:
        raise Unbounded(f"{node.name!r} has another layout than NCHW")
    place = axis - ROWS
    extent, (pad, _) = (window.kernel[place] - 1) * window.dilation[place], window.pad[place]
    sight = _first(node, seen, "weight").wider(pad, extent - pad)
    return replace(sight, density=sight.density / window.stride[place])


def _deconvolution(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    window = node.params.window
    if window.rank != 2 or window.channels_last or window.target is not None:
        raise Unbounded(f"{node.name!r} has another layout than NCHW, or a target_shape")
    place = axis - ROWS
    extent, (pad, _) = (window.kernel[place] - 1) * window.dilation[place], window.pad[place]
    stride = window.stride[place]
    sight = _first(node, seen, "weight").wider(Fraction(extent - pad, stride), Fraction(pad, stride))
    return replace(sight, density=sight.density * stride)


def _pooling(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    params, place = node.params, axis - ROWS
    if params.global_pool or len(params.kernel) != 2 or (params.layout or "NCHW") != "NCHW":
        raise Unbounded(f"Pooling {node.name!r} sees all of it")
    pad = params.pad[place] if params.pad else 0
    sight = _first(node, seen, "window").wider(pad, params.kernel[place] - 1 - pad)
    return replace(sight, density=sight.density / (params.stride[place] if params.stride else 1))


def _upsampling(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    sight = _first(node, seen, "weight").wider(1, 1)
    return replace(sight, density=sight.density * node.params.scale)


def _pad(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    before = node.params.pad_width[2 * axis]
    return _first(node, seen, "margin").wider(before, -before)


def _crop(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    params, (sight, *_) = node.params, seen
    if sight is None:
        raise Unbounded(f"{node.name!r} takes its size from the picture")
    offset = params.offset[axis - ROWS]
    if params.center_crop:
        sizes = [None if shape is None else shape[axis] for shape in shapes]
        wanted = sizes[1] if len(sizes) > 1 else params.h_w[axis - ROWS]
        if sizes[0] is None or wanted is None:
            raise Unbounded(f"{node.name!r} crops by an unknown size")
        offset = (sizes[0] - wanted) // 2
    return sight.wider(-offset, offset)


def _slice(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    params = node.params
    begin = (params.begin[axis] if axis < len(params.begin) else None) or 0
    step = (params.step[axis] if axis < len(params.step) else None) or 1
    if begin < 0 or step != 1:
        raise Unbounded(f"{node.name!r} counts from the far end, or leaves pixels out")
    return _first(node, seen, "part").wider(-begin, begin)


def _on_other_axis(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    params = node.params
    axes = getattr(params, "axis", getattr(params, "dim", 1))
    rank = len(shapes[0] or (0,) * 4)
    if axis in [one % rank for one in (axes if isinstance(axes, tuple) else (axes,))]:
        raise Unbounded(f"{node.name!r} works along the picture")
    return _together(node, seen, shapes, axis)


def _normalized(node: Node, seen: Sequence[Sight | None], shapes: Sequence[PartialShape], axis: int) -> Sight:
    if node.params.mode != "channel":
        return _unbounded(node, seen, shapes, axis)
    return _together(node, seen, shapes, axis)


_BINARY = ("add", "sub", "mul", "div", "mod", "power", "maximum", "minimum", "hypot", "equal", "not_equal")
_LOCAL = {
    *(f"elemwise_{name}" for name in _BINARY),
    *(f"broadcast_{name}" for name in _BINARY),
    *(f"_{name}" for name in _BINARY),
    *(name for name in names() if name.endswith("_scalar")),
    *("Activation", "LeakyReLU", "BatchNorm", "Dropout", "BlockGrad", "_copy", "Cast", "clip", "add_n", "LRN"),
    *("relu", "sigmoid", "tanh", "softsign", "square", "sqrt", "exp", "log", "abs", "negative", "hard_sigmoid"),
    *("LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput", "MakeLoss", "make_loss"),
}
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_LOCAL, _together),
    **dict.fromkeys(("Concat", "SliceChannel", "slice_axis", "softmax", "log_softmax", "reverse"), _on_other_axis),
    **dict.fromkeys(("SoftmaxActivation", "L2Normalization"), _normalized),
    "SoftmaxOutput": lambda node, seen, shapes, axis: (
        _together(node, seen, shapes, axis) if node.params.multi_output else _unbounded(node, seen, shapes, axis)
    ),
    "Convolution": _convolution,
    "Deconvolution": _deconvolution,
    "Pooling": _pooling,
    "UpSampling": _upsampling,
    "Pad": _pad,
    "Crop": _crop,
    "slice": _slice,
}
