"""Run a model on a photograph or on arrays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from tconv.cli._options import MODEL, PARAMS, Model, image_channels, load_model, parse_inputs, progress, read_arrays
from tconv.errors import ParameterError
from tconv.ndarray import array
from tconv.operators.registry import Array
from tconv.pictures.files import CHANNELS, View, is_image, read_image, write_image
from tconv.pictures.network import PictureNetwork, bound
from tconv.pictures.tiles import fitting_size, run_tiles, tile_size, tiles

_MB = 1 << 20


def _mean(context: click.Context, option: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(entry) for entry in value.split(","))
    except ValueError:
        raise click.BadParameter(f"got {value!r}; need numbers, as 123.68,116.779,103.939") from None


@click.command(epilog="Exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted.")
@MODEL
@PARAMS
@click.option(
    "--input", "-i", "inputs", multiple=True, required=True, metavar="[NAME=]FILE", help="Image, .npy or .npz."
)
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Image, .npy, or .npz of all outputs."
)
@click.option("--head", metavar="NAME", help="The output to write; the first by default.")
@click.option(
    "--channels",
    type=click.Choice(["auto", *CHANNELS]),
    default="auto",
    show_default=True,
    help="What the network sees of an image. luma: it computes brightness, colours are enlarged bicubically.",
)
@click.option("--scale", type=float, default=255.0, show_default=True, help="What pixel values are divided by.")
@click.option(
    "--mean", callback=_mean, default="0", show_default=True, help="What is subtracted first: M or R,G,B."
)
@click.option("--tile", type=click.IntRange(min=1), help="Run in tiles of this many rows and columns.")
@click.option(
    "--overlap", type=click.IntRange(min=0), help="Surroundings of a tile; by default what the model sees."
)
@click.option(
    "--memory", type=click.IntRange(min=1), default=512, show_default=True, help="MB above which tiles are used."
)
def command(
    model: Path,
    params: Path | None,
    inputs: Sequence[str],
    output: Path | None,
    head: str | None,
    channels: str,
    scale: float,
    mean: tuple[float, ...],
    tile: int | None,
    overlap: int | None,
    memory: int,
) -> None:
    r"""Run a model on a photograph of any size, or on arrays.

    An image goes in as (pixel - mean) / scale, and comes out the same way back. Where the whole would take more
    than --memory, it is run in tiles that overlap as far as the network sees, which gives the same picture.

    \b
    Examples:
      tconv run model-symbol.json -i photo.png -o large.png
      tconv run model-symbol.json -p model-0010.params -i data=photo.jpg -o large.png --channels luma
      tconv run vgg-symbol.json -i face.jpg -o scores.npy --channels bgr --scale 1 --mean 104,117,123
      tconv run model-symbol.json -i data=batch.npy -i mask=mask.npy -o outputs.npz
    """
    loaded = load_model(model, params)
    files = parse_inputs(inputs, loaded.inputs)
    missing = [name for name in loaded.inputs if name not in files]
    if missing:
        raise ParameterError(f"run: {', '.join(missing)}: missing; need a value in the parameters or by --input")
    if head is not None:
        loaded = Model(_with_head(loaded, head), loaded.params)
    images = [name for name, path in files.items() if is_image(path)]
    if len(images) > 1:
        raise ParameterError(f"run: got images for {', '.join(images)}; need one image, others as .npy")
    others = {name: read_arrays(name, path)[name] for name, path in files.items() if name not in images}
    if not images:
        _run_arrays(loaded, others, output)
        return
    (data,) = images
    loaded.params.update({name: array(value, dtype=value.dtype) for name, value in others.items()})
    view = View(image_channels(loaded, data) if channels == "auto" else channels, scale, mean)
    _run_picture(loaded, data, read_image(files[data]), view, output, tile, overlap, memory)


def _with_head(model: Model, head: str) -> Any:
    outputs = model.symbol.list_outputs()
    wanted = head if head in outputs else f"{head}_output"
    if wanted not in outputs:
        raise ParameterError(f"run: head: got {head}; the outputs are {', '.join(outputs)}")
    return model.symbol[outputs.index(wanted)]


def _run_arrays(model: Model, given: dict[str, Array], output: Path | None) -> None:
    arrays = {**model.params, **{name: array(value, dtype=value.dtype) for name, value in given.items()}}
    executor = bound(model.symbol, arrays)
    started = time.perf_counter()
    names, outputs = model.symbol.list_outputs(), executor.forward()
    seconds = time.perf_counter() - started
    for name, value in zip(names, outputs):
        click.echo(f"{name}: {value.shape}, {np.dtype(value.dtype).name}")
    if output is not None:
        _write_arrays(output, dict(zip(names, [value.asnumpy() for value in outputs])))
    click.echo(f"{seconds:.3f} s in the network")


def _write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    elif path.suffix == ".npy":
        np.save(path, next(iter(arrays.values())))
    elif is_image(path):
        (value, *_) = arrays.values()
        write_image(path, View().to_pixels(value, np.empty(0)))
    else:
        raise ParameterError(f"run: output: got {path.name!r}; need an image, .npy or .npz")


def _run_picture(
    model: Model,
    data: str,
    pixels: Array,
    view: View,
    output: Path | None,
    tile: int | None,
    overlap: int | None,
    memory: int,
) -> None:
    started = time.perf_counter()
    height, width = pixels.shape[:2]
    network = PictureNetwork(model.symbol, model.params, data, CHANNELS[view.channels])
    if output is not None and not is_image(output):
        _write_arrays(output, dict(zip(model.symbol.list_outputs(), network.outputs(view.to_network(pixels)))))
        click.echo(f"{width} x {height} pixels, {time.perf_counter() - started:.3f} s")
        return
    tall, wide = fitting_size(network, height, width)
    if (tall, wide) != (height, width):
        pixels = np.pad(pixels, ((0, tall - height), (0, wide - width), (0, 0)), mode="edge")
    if tile is None:
        tile = tile_size(network, tall, wide, memory * _MB)
    pieces = tiles(network, tall, wide, tile, overlap)
    out_height, out_width = network.output_size(tall, wide)
    in_network = 0.0

    def through(part: Array) -> Array:
        nonlocal in_network
        given = view.to_network(part)
        begin = time.perf_counter()
        made = network(given)
        in_network += time.perf_counter() - begin
        return view.to_pixels(made, part)

    depth = 3 if view.channels == "luma" else network.output_channels(tall, wide)
    made = np.empty((out_height, out_width, depth), np.uint8)
    with progress(pieces, "tiles") as watched:
        run_tiles(watched, pixels, made, through)
    made = made[: round(out_height * height / tall), : round(out_width * width / wide)]
    if output is not None:
        write_image(output, made)
    seconds = time.perf_counter() - started
    cut = f", {len(pieces)} tiles" if len(pieces) > 1 else ""
    click.echo(
        f"{width} x {height} -> {made.shape[1]} x {made.shape[0]} pixels ({view.channels}{cut}): "
        f"{seconds:.3f} s, {in_network:.3f} s of it in the network"
    )
