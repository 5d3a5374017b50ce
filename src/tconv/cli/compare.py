"""Compare two models layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from tconv.cli._options import (
    PARAMS,
    SHAPE,
    Model,
    fixed_shapes,
    image_channels,
    load_model,
    parse_inputs,
    read_arrays,
)
from tconv.errors import FormatError, FrameworkError, ParameterError
from tconv.ndarray import NDArray, array
from tconv.onnx.writer import package
from tconv.operators.registry import Array, show
from tconv.pictures.files import View, is_image, read_image
from tconv.pictures.network import bound

DIFFERENT = 1


class Traced(NamedTuple):
    """What a run gave: every array by name, and the names of the outputs."""

    arrays: dict[str, Array]
    outputs: list[str]


@click.command(epilog="Exit codes: 0 the outputs agree, 1 they do not or error, 2 wrong usage, 130 interrupted.")
@click.argument("first", metavar="A", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("second", metavar="B", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@PARAMS
@click.option(
    "--params-b",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Parameters of B; by default those of A where both lie in one folder, or those beside B.",
)
@click.option("--input", "-i", "inputs", multiple=True, metavar="[NAME=]FILE", help="Image, .npy or .npz.")
@SHAPE
@click.option(
    "--tolerance",
    type=float,
    default=1e-4,
    show_default=True,
    help="Of the outputs, relative to the largest value.",
)
def command(
    first: Path,
    second: Path,
    params: Path | None,
    params_b: Path | None,
    inputs: Sequence[str],
    shapes: Sequence[str],
    tolerance: float,
) -> None:
    r"""Tell the largest difference of two models, layer by layer.

    A is a symbol JSON, B another or an ONNX file, which onnxruntime runs. Layers of one name are compared, and
    outputs in their order. Without --input, the inputs of --shape are random.

    \b
    Examples:
      tconv compare model-symbol.json model.onnx --shape data=1,3,64,96
      tconv compare old-symbol.json new-symbol.json -p a.params --params-b b.params -i data=photo.png
    """
    model = load_model(first, params)
    given = _inputs(model, inputs, fixed_shapes(shapes))
    one = _traced(model, given)
    if second.suffix == ".onnx":
        other = _traced_onnx(second, given)
    else:
        other = _traced(load_model(second, params_b or (params if second.parent == first.parent else None)), given)
    if len(one.outputs) != len(other.outputs):
        raise ParameterError(f"compare: got {len(one.outputs)} outputs and {len(other.outputs)}; need equally many")
    pairs = [(name, value, other.arrays[name]) for name, value in one.arrays.items() if name in other.arrays]
    heads = [
        (f"output {name}", one.arrays[name], other.arrays[its]) for name, its in zip(one.outputs, other.outputs)
    ]
    worst = _print_table([*pairs, *heads], len(heads))
    apart = len(one.arrays) - len(pairs)
    if apart:
        click.echo(f"{apart} layers of A have no counterpart of their name in B")
    if worst > tolerance:
        click.echo(f"the outputs differ by {worst:.2e} of their largest value; {tolerance:.2e} allowed", err=True)
        click.get_current_context().exit(DIFFERENT)


def _inputs(model: Model, texts: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    files = parse_inputs(texts, model.inputs)
    missing = [name for name in model.inputs if name not in files and name not in shapes]
    if missing:
        raise ParameterError(f"compare: {', '.join(missing)}: missing; need --input or --shape")
    rng = np.random.default_rng(0)
    found: dict[str, Array] = {
        name: rng.random(shapes[name], np.float32) for name in model.inputs if name not in files
    }
    for name, path in files.items():
        if is_image(path):
            found[name] = View(image_channels(model, name)).to_network(read_image(path))
        else:
            found.update(read_arrays(name, path))
    return found


def _traced(model: Model, inputs: Mapping[str, Array]) -> Traced:
    arrays = {**model.params, **{name: array(value, dtype=value.dtype) for name, value in inputs.items()}}
    executor = bound(model.symbol, arrays)
    seen: dict[str, Array] = {}
    shown = set(model.symbol.get_internals().list_outputs())

    def look(name: str, value: NDArray) -> None:
        if name in shown:
            seen[name] = value.asnumpy()

    executor.set_monitor_callback(look)
    outputs = model.symbol.list_outputs()
    for name, value in zip(outputs, executor.forward()):
        seen[name] = value.asnumpy()
    return Traced(seen, outputs)


def _traced_onnx(path: Path, inputs: Mapping[str, Array]) -> Traced:
    onnx = package()
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise FrameworkError("onnxruntime: missing; install it by: pip install 'tconv[onnx]'") from None
    try:
        model = onnx.load(path)
        names = [value.name for value in model.graph.output]
        inner = [name for node in model.graph.node for name in node.output if name and name not in names]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Optimized graphs lose the layers in between.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        wanted = [value.name for value in session.get_inputs()]
    except Exception as error:  # onnx and onnxruntime raise classes of their own.
        raise FormatError(f"ONNX file {str(path)!r}: {error}") from None
    missing = [name for name in wanted if name not in inputs]
    if missing:
        raise ParameterError(f"compare: the ONNX file has the inputs {', '.join(wanted)}; {missing[0]} is missing")
    try:
        values = session.run([*names, *inner], {name: inputs[name] for name in wanted})
    except Exception as error:
        raise FormatError(f"ONNX file {str(path)!r}: {error}") from None
    return Traced(dict(zip([*names, *inner], values)), names)


def _print_table(pairs: Sequence[tuple[str, Array, Array]], heads: int) -> float:
    """Print the differences, and return the largest relative one of the last `heads` pairs."""
    width = max((len(name) for name, _, _ in pairs), default=5)
    click.echo(f"{'layer':{width}}  {'largest difference':>18}  {'of largest value':>16}  shape")
    worst = 0.0
    for place, (name, one, other) in enumerate(pairs):
        if one.shape != other.shape:
            click.echo(f"{name:{width}}  {'shapes differ':>18}  {'':16}  {show(one.shape)} and {show(other.shape)}")
            relative = float("inf")
        else:
            difference = np.abs(one.astype(np.float64) - other).max(initial=0)
            relative = float(difference / max(np.abs(one).max(initial=0), np.finfo(np.float32).tiny))
            click.echo(f"{name:{width}}  {difference:18.3e}  {relative:16.3e}  {show(one.shape)}")
        if place >= len(pairs) - heads:
            worst = max(worst, float("inf") if np.isnan(relative) else relative)
    return worst
