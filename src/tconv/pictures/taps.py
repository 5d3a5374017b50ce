"""Which inputs of a transposed convolution feed which outputs, along one axis: as text, SVG or PNG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from xml.sax.saxutils import escape

from tconv.errors import ParameterError
from tconv.pictures.files import pillow
from tconv.sizes import Step

MOST_INPUTS = 16
"""Inputs that are drawn at most; a longer axis goes on alike."""

_CELL, _GAP, _MARGIN, _HEIGHT = 26, 8, 14, 120
_LABELS = 64
_FONT_SIZE = 12
_SCALE = 2
# Colours that differ for all kinds of eyes, one an input in turn.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_CUT, _PLAIN = "#e8e8e8", "#ffffff"


@dataclass(frozen=True)
class _Picture:
    """Inputs, outputs as numbers from 0, those below and beyond what is kept included, and the taps between."""

    inputs: int
    first: int
    last: int
    kept: int
    taps: tuple[tuple[int, int, int], ...]

    def __init__(self, step: Step, size: int) -> None:
        inputs = min(size, MOST_INPUTS)
        taps = tuple(
            (i, i * step.stride + k * step.dilation - step.pad[0], k)
            for i in range(inputs)
            for k in range(step.kernel)
        )
        reached = [output for _, output, _ in taps]
        out = step.output(inputs)
        for name, value in (
            ("inputs", inputs),
            ("first", min(0, *reached)),
            ("last", max(out - 1, *reached)),
            ("kept", out),
            ("taps", taps),
        ):
            object.__setattr__(self, name, value)

    def is_cut(self, output: int) -> bool:
        return not 0 <= output < self.kept

    @property
    def outputs(self) -> range:
        return range(self.first, self.last + 1)


def as_text(step: Step, size: int) -> str:
    """Draw for a terminal: a row an input, a column an output, and in it the tap that joins them.

    Parameters
    ----------
    step : Step
        A transposed convolution along the axis.
    size : int
        Inputs; the first `MOST_INPUTS` are drawn.

    Examples
    --------
    >>> from tconv.sizes import Step
    >>> print(as_text(Step(4, stride=2, pad=1), 3))
    output    x  0  1  2  3  4  5  x
    input 0   0  1  2  3
    input 1         0  1  2  3
    input 2               0  1  2  3
    inputs    1  1  2  2  2  2  1  1
    """
    picture = _Picture(step, size)
    cell = max(3, len(str(picture.last)) + 1)
    label = max(len("output"), len(f"input {picture.inputs - 1}")) + 1

    def line(name: str, entries: list[str]) -> str:
        return (name.ljust(label) + "".join(entry.rjust(cell) for entry in entries)).rstrip()

    lines = [line("output", ["x" if picture.is_cut(output) else str(output) for output in picture.outputs])]
    at = {(i, output): tap for i, output, tap in picture.taps}
    lines += [
        line(f"input {i}", [str(at.get((i, output), "")) for output in picture.outputs])
        for i in range(picture.inputs)
    ]
    counts = [sum((i, output) in at for i in range(picture.inputs)) for output in picture.outputs]
    lines.append(line("inputs", list(map(str, counts))))
    if picture.inputs < size:
        lines.append(f"... and so on, to input {size - 1}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    text: str
    colour: str
    edge: str


@dataclass(frozen=True)
class _Line:
    x0: float
    y0: float
    x1: float
    y1: float
    colour: str


@dataclass(frozen=True)
class _Text:
    x: float
    y: float
    text: str


def _shapes(picture: _Picture) -> Iterator[_Box | _Line | _Text]:
    """Yield what is drawn, from back to front."""
    pitch = _CELL + _GAP
    top, bottom = _MARGIN, _MARGIN + _CELL + _HEIGHT
    left = _MARGIN + _LABELS

    def output_x(output: int) -> float:
        return left + (output - picture.first) * pitch

    # Inputs are spread over the outputs they reach.
    centres = {}
    for i in range(picture.inputs):
        reached = [output for source, output, _ in picture.taps if source == i]
        centres[i] = sum(map(output_x, reached)) / len(reached)
    for i, output, _ in picture.taps:
        colour = _CUT if picture.is_cut(output) else _COLOURS[i % len(_COLOURS)]
        yield _Line(centres[i] + _CELL / 2, top + _CELL, output_x(output) + _CELL / 2, bottom, colour)
    for i, x in centres.items():
        yield _Box(x, top, str(i), _PLAIN, _COLOURS[i % len(_COLOURS)])
    for output in picture.outputs:
        cut = picture.is_cut(output)
        yield _Box(output_x(output), bottom, "" if cut else str(output), _CUT if cut else _PLAIN, "#888888")
    yield _Text(_MARGIN, top + _CELL / 2, "input")
    yield _Text(_MARGIN, bottom + _CELL / 2, "output")


def _size(picture: _Picture) -> tuple[int, int]:
    width = 2 * _MARGIN + _LABELS + len(picture.outputs) * (_CELL + _GAP)
    return width, 2 * _MARGIN + 2 * _CELL + _HEIGHT


def as_svg(step: Step, size: int) -> str:
    """Return the drawing as SVG: inputs above, outputs below, what is cut off in grey."""
    picture = _Picture(step, size)
    width, height = _size(picture)
    font = f'font-family="sans-serif" font-size="{_FONT_SIZE}" dominant-baseline="central"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {font}>',
        f'<rect width="{width}" height="{height}" fill="{_PLAIN}"/>',
    ]
    for shape in _shapes(picture):
        if isinstance(shape, _Line):
            ends = f'x1="{shape.x0:g}" y1="{shape.y0:g}" x2="{shape.x1:g}" y2="{shape.y1:g}"'
            lines.append(f'<line {ends} stroke="{shape.colour}" stroke-width="1.5"/>')
        elif isinstance(shape, _Text):
            lines.append(f'<text x="{shape.x:g}" y="{shape.y:g}">{escape(shape.text)}</text>')
        else:
            place = f'x="{shape.x:g}" y="{shape.y:g}" width="{_CELL}" height="{_CELL}"'
            lines.append(f'<rect {place} rx="3" fill="{shape.colour}" stroke="{shape.edge}"/>')
            middle = f'x="{shape.x + _CELL / 2:g}" y="{shape.y + _CELL / 2:g}" text-anchor="middle"'
            lines.append(f"<text {middle}>{escape(shape.text)}</text>")
    return "\n".join([*lines, "</svg>", ""])


def draw(path: str | PathLike[str], step: Step, size: int) -> None:
    """Write the drawing to a file whose name ends in `.svg` or `.png`.

    Raises
    ------
    ParameterError
        If the name ends otherwise.
    FrameworkError
        If a PNG is wanted and Pillow is not installed.
    """
    kind = Path(path).suffix.lower()
    if kind == ".svg":
        Path(path).write_text(as_svg(step, size), encoding="utf-8")
        return
    if kind != ".png":
        raise ParameterError(f"taps: got {Path(path).name!r}; need a name that ends in .svg or .png")
    image = pillow()
    from PIL import ImageDraw, ImageFont

    picture = _Picture(step, size)
    width, height = _size(picture)
    canvas = image.new("RGB", (width * _SCALE, height * _SCALE), _PLAIN)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_SIZE * _SCALE)
    for shape in _shapes(picture):
        if isinstance(shape, _Line):
            ends = [shape.x0, shape.y0, shape.x1, shape.y1]
            pen.line([end * _SCALE for end in ends], fill=shape.colour, width=3)
        elif isinstance(shape, _Text):
            pen.text((shape.x * _SCALE, shape.y * _SCALE), shape.text, "#000000", font, anchor="lm")
        else:
            corners = [shape.x, shape.y, shape.x + _CELL, shape.y + _CELL]
            pen.rounded_rectangle([corner * _SCALE for corner in corners], 6, shape.colour, shape.edge, 2)
            middle = ((shape.x + _CELL / 2) * _SCALE, (shape.y + _CELL / 2) * _SCALE)
            pen.text(middle, shape.text, "#000000", font, anchor="mm")
    canvas.save(path)
