"""Pictures of graphs: operators as boxes in layers, SVG or PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from xml.sax.saxutils import escape

from tconv.errors import ParameterError
from tconv.geometry import PartialShape
from tconv.operators.registry import show
from tconv.pictures.files import pillow
from tconv.symbol.inference import Shapes
from tconv.symbol.node import Entry

_BOX_WIDTH, _BOX_HEIGHT, _GAP, _LANE = 190, 40, 24, 16
_FONT_SIZE, _LETTERS = 12, 28
_SWEEPS = 8
_COLOURS = {
    **dict.fromkeys(("Convolution", "FullyConnected", "dot", "batch_dot"), "#cfe2f3"),
    "Deconvolution": "#f9cb9c",
    **dict.fromkeys(("BatchNorm", "InstanceNorm", "L2Normalization", "LRN"), "#e6d5f0"),
    **dict.fromkeys(("Activation", "LeakyReLU", "relu", "sigmoid", "tanh", "SoftmaxOutput", "softmax"), "#fff2cc"),
    **dict.fromkeys(("Pooling", "UpSampling"), "#d9ead3"),
}
_PLAIN, _INPUT = "#f3f3f3", "#ffffff"


@dataclass(eq=False)
class Box:
    """An operator or input in the picture, or, without lines, a place an arrow passes."""

    lines: tuple[str, ...]
    colour: str = _PLAIN
    layer: int = 0
    x: float = 0.0
    above: list[Box] = field(default_factory=list)
    below: list[Box] = field(default_factory=list)

    @property
    def width(self) -> int:
        """The width in pixels."""
        return _BOX_WIDTH if self.lines else _LANE

    @property
    def top(self) -> int:
        """The upper end in pixels."""
        return _GAP + self.layer * (_BOX_HEIGHT + _GAP)


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def _boxes(found: Shapes, shown: set[str]) -> list[Box]:
    """Return the boxes of a graph, connected, with places for arrows that pass layers."""
    of_node = {}
    for node in found.order:
        shape: PartialShape = found.of(Entry(node))
        below = "" if shape is None else show(shape)
        if node.operator is None:
            if node.name in shown:
                of_node[node] = Box((_short(node.name), below), _INPUT)
            continue
        box = Box(
            (_short(f"{node.operator.name} {below}"), _short(node.name)), _COLOURS.get(node.operator.name, _PLAIN)
        )
        of_node[node] = box
        sources = [of_node[entry.node] for entry in node.inputs if entry.node in of_node]
        box.layer = max((source.layer + 1 for source in sources), default=0)
        box.above = list(dict.fromkeys(sources))
    boxes = list(of_node.values())
    for box in list(boxes):
        for place, source in enumerate(box.above):
            for layer in range(source.layer + 1, box.layer):
                passing = Box((), layer=layer, above=[source])
                boxes.append(passing)
                source = passing
            box.above[place] = source
    for box in boxes:
        for source in box.above:
            source.below.append(box)
    return boxes


def _arrange(boxes: Sequence[Box]) -> tuple[int, int]:
    """Give every box its place, near those it is connected with; return the size of the picture."""
    layers: list[list[Box]] = [[] for _ in range(1 + max((box.layer for box in boxes), default=-1))]
    for box in boxes:
        layers[box.layer].append(box)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else layers[::-1]:
            centres = {}
            for box in layer:
                near = box.above if down else box.below
                middle = [other.x + other.width / 2 for other in near]
                centres[box] = sum(middle) / len(middle) if middle else box.x + box.width / 2
            layer.sort(key=lambda box: centres[box])
            edge = 0.0
            for box in layer:
                box.x = max(edge, centres[box] - box.width / 2)
                edge = box.x + box.width + _GAP
            # What was pushed to the right comes back by half the way of its row.
            shift = sum(centres[box] - box.x - box.width / 2 for box in layer) / max(len(layer), 1)
            for box in layer:
                box.x += shift
    left = min((box.x for box in boxes), default=0)
    for box in boxes:
        box.x += _GAP - left
    width = max((box.x + box.width for box in boxes), default=0) + _GAP
    return round(width), len(layers) * (_BOX_HEIGHT + _GAP) + _GAP


def plot(path: str | PathLike[str], found: Shapes, inputs: Sequence[str]) -> None:
    """Draw a graph.

    Parameters
    ----------
    path : path
        A file whose name ends in `.svg` or `.png`.
    found : Shapes
        The graph, with what is known of its shapes.
    inputs : sequence of str
        Variables to show; parameters go without saying.

    Raises
    ------
    ParameterError
        If the name ends otherwise.
    """
    kind = Path(path).suffix.lower()
    if kind not in (".svg", ".png"):
        raise ParameterError(f"plot: got {Path(path).name!r}; need a name that ends in .svg or .png")
    boxes = _boxes(found, set(inputs))
    width, height = _arrange(boxes)
    if kind == ".svg":
        Path(path).write_text(_svg(boxes, width, height), encoding="utf-8")
    else:
        _draw(boxes, width, height, path)


def _arrow(source: Box, target: Box) -> tuple[float, float, float, float]:
    return source.x + source.width / 2, source.top + _BOX_HEIGHT, target.x + target.width / 2, target.top


def _svg(boxes: Sequence[Box], width: int, height: int) -> str:
    font = f'font-family="sans-serif" font-size="{_FONT_SIZE}" text-anchor="middle"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {font}>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for box in boxes:
        for source in box.above:
            x, y, to_x, to_y = _arrow(source, box)
            bend = (to_y - y) / 2
            curve = f"M{x:.0f},{y:.0f} C{x:.0f},{y + bend:.0f} {to_x:.0f},{to_y - bend:.0f} {to_x:.0f},{to_y:.0f}"
            parts.append(f'<path d="{curve}" fill="none" stroke="#888888"/>')
        if not box.lines:
            middle = box.x + box.width / 2
            parts.append(f'<path d="M{middle:.0f},{box.top} v{_BOX_HEIGHT}" stroke="#888888"/>')
    for box in boxes:
        if box.lines:
            parts.append(
                f'<rect x="{box.x:.0f}" y="{box.top}" width="{box.width}" height="{_BOX_HEIGHT}" rx="5" '
                f'fill="{box.colour}" stroke="#666666"/>'
            )
            for line, offset in zip(box.lines, (16, 32)):
                parts.append(f'<text x="{box.x + box.width / 2:.0f}" y="{box.top + offset}">{escape(line)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _draw(boxes: Sequence[Box], width: int, height: int, path: str | PathLike[str]) -> None:
    image = pillow()
    from PIL import ImageDraw, ImageFont

    canvas = image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_SIZE)
    for box in boxes:
        for source in box.above:
            draw.line(_arrow(source, box), fill="#888888")
        if not box.lines:
            middle = box.x + box.width / 2
            draw.line((middle, box.top, middle, box.top + _BOX_HEIGHT), fill="#888888")
    for box in boxes:
        if box.lines:
            corners = (box.x, box.top, box.x + box.width, box.top + _BOX_HEIGHT)
            draw.rounded_rectangle(corners, 5, fill=box.colour, outline="#666666")
            for line, offset in zip(box.lines, (12, 28)):
                draw.text((box.x + box.width / 2, box.top + offset), line, "black", font, anchor="mm")
    canvas.save(path)
