"""Convert a model to ONNX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from tconv.cli._options import MODEL, PARAMS, SHAPE, load_model, parse_shapes
from tconv.onnx import to_model
from tconv.onnx.writer import OPSET, write


@click.command(epilog="Exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted.")
@MODEL
@PARAMS
@SHAPE
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="The file; MODEL.onnx by default."
)
def command(model: Path, params: Path | None, shapes: Sequence[str], output: Path | None) -> None:
    r"""Convert a model to ONNX, checked by onnx.checker.

    A size that is a word varies: the model then takes any. Where the graph does not allow that, the operator that
    needs a fixed size is named.

    \b
    Examples:
      tconv convert model-symbol.json --shape data=1,3,64,96
      tconv convert model-symbol.json -p model-0010.params -s data=batch,3,height,width -o model.onnx
    """
    loaded = load_model(model, params)
    graph = to_model(loaded.symbol, loaded.params, parse_shapes(shapes))
    path = output or model.with_name(f"{model.stem.removesuffix('-symbol')}.onnx")
    write(graph, str(path))
    operators = ", ".join(f"{count} {op}" for op, count in Counter(node.op for node in graph.nodes).most_common())
    click.echo(f"{path}: operator set {OPSET}, {path.stat().st_size / 1e6:.1f} MB, {len(graph.nodes)} nodes")
    click.echo(f"operators: {operators}")
    for word, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            sizes = ", ".join("?" if size is None else str(size) for size in value.shape or ())
            click.echo(f"{word} {value.name}: ({sizes}), {value.dtype.name}")
