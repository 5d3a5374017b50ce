"""Tell what a model is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from tconv.cli._layers import Layer, layer_seconds, layers, total
from tconv.cli._options import MODEL, PARAMS, SHAPE, fixed_shapes, load_model
from tconv.errors import ParameterError
from tconv.geometry import PartialShape
from tconv.ndarray import NDArray, array
from tconv.operators.registry import show
from tconv.pictures.network import labels
from tconv.pictures.plot import plot
from tconv.symbol import Symbol
from tconv.symbol.inference import Shapes
from tconv.symbol.node import Entry


@click.command(epilog="Exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted.")
@MODEL
@PARAMS
@SHAPE
@click.option("--time", "timed", is_flag=True, help="Run it on random inputs, and tell the share of every layer.")
@click.option(
    "--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw the graph: FILE.svg or .png."
)
def command(model: Path, params: Path | None, shapes: Sequence[str], timed: bool, picture: Path | None) -> None:
    r"""Tell inputs, outputs, operators, parameters and layers of a model.

    Multiply-adds are those of convolutions and products of matrices; they need the shapes of all inputs.

    \b
    Examples:
      tconv info model-symbol.json
      tconv info model-symbol.json -p model-0010.params --shape data=1,3,64,96
      tconv info model-symbol.json --shape data=1,3,64,96 --time --plot graph.svg
    """
    loaded = load_model(model, params, needs_params=False)
    given = fixed_shapes(shapes)
    names = loaded.symbol.list_inputs()
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ParameterError(f"info: shape: got {', '.join(unknown)}; the inputs are {', '.join(loaded.inputs)}")
    known: dict[str, PartialShape] = {name: one.shape for name, one in loaded.params.items()}
    known.update(given)
    found = Shapes(loaded.symbol.heads, known)
    variables = {node.name: found.of(Entry(node)) for node in (*found.arguments, *found.auxiliaries)}
    inputs = loaded.inputs if loaded.params else [name for name in names if name in given] or names[:1]
    for name in inputs:
        click.echo(f"input   {name} {_shown(variables[name])}")
    for name, shape in zip(loaded.symbol.list_outputs(), found.of_heads()):
        click.echo(f"output  {name} {_shown(shape)}")
    table = layers(found, {*inputs, *labels(loaded.symbol)})
    counts = Counter(row.operator for row in table)
    click.echo(f"operators: {', '.join(f'{count} {name}' for name, count in counts.most_common())}")
    if loaded.params:
        size = sum(one.size for one in loaded.params.values())
        kinds = sorted({np.dtype(one.dtype).name for one in loaded.params.values()})
        click.echo(f"parameters: {size:,} in {len(loaded.params)} arrays, {', '.join(kinds)}")
    seconds: list[float] | None = None
    if timed:
        seconds = _time(loaded.symbol, loaded.params, inputs, known)
    click.echo()
    _print_table(table, seconds)
    if picture is not None:
        plot(picture, found, inputs)
        click.echo(f"\ngraph: {picture}")


def _shown(shape: PartialShape) -> str:
    return "of unknown shape" if shape is None else show(shape)


def _time(
    symbol: Symbol, params: Mapping[str, NDArray], inputs: Sequence[str], known: Mapping[str, PartialShape]
) -> list[float]:
    missing = [name for name in inputs if name not in known]
    if missing or not params:
        what = ", ".join(missing) or "parameters"
        raise ParameterError(f"info: time: {what}: missing; need the parameters, and the shape of every input")
    rng = np.random.default_rng(0)
    arrays = dict(params)
    for name in inputs:
        arrays[name] = array(rng.random([size or 1 for size in known[name] or ()], np.float32))
    return layer_seconds(symbol, arrays)


def _print_table(table: Sequence[Layer], seconds: Sequence[float] | None) -> None:
    head = ["layer", "operator", "output", "parameters", "multiply-adds"]
    rows = []
    for row in table:
        shape = "?" if row.shape is None else show(row.shape)
        numbers = ["?" if value is None else f"{value:,}" for value in (row.params, row.multiply_adds)]
        rows.append([row.name, row.operator, shape, *numbers])
    sums = total(row.params for row in table), total(row.multiply_adds for row in table)
    rows.append(["all", "", "", *("?" if value is None else f"{value:,}" for value in sums)])
    if seconds is not None:
        whole = sum(seconds)
        head += ["ms", "share"]
        for line, value in zip(rows, [*seconds, whole]):
            line += [f"{1e3 * value:.3f}", f"{value / whole:.1%}"]
    widths = [max(len(line[place]) for line in [head, *rows]) for place in range(len(head))]
    for line in [head, *rows]:
        cells = [
            cell.ljust(width) if place < 3 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        ]
        click.echo("  ".join(cells).rstrip())
