"""Tell sizes, pads and words of a layer of transposed convolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tconv import dialects
from tconv.dialects import DIALECTS, Layer
from tconv.errors import ParameterError
from tconv.pictures.taps import as_text, draw
from tconv.sizes import Length, Option, Size, Step, input_sizes, receptive_field, solve


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(entry) for entry in text.replace("x", ",").split(","))
    except ValueError:
        raise ParameterError(f"shape: {name}: got {text!r}; need numbers such as 4 or 4,3") from None


def _sizes(text: str) -> tuple[Size, ...]:
    entries = text.split(",") if "," in text or text.isidentifier() else text.split("x")
    return tuple(int(entry) if entry.isdigit() else entry.strip() for entry in entries)


def _pads(name: str, text: str) -> tuple[tuple[int, int], ...]:
    try:
        ends = [tuple(int(end) for end in entry.split(":")) for entry in text.split(",")]
    except ValueError:
        ends = [()]
    if not all(len(entry) in (1, 2) for entry in ends):
        raise ParameterError(f"shape: {name}: got {text!r}; need numbers such as 1, or low:high")
    return tuple((entry[0], entry[-1]) for entry in ends)


def _spread(name: str, entries: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    if len(entries) not in (1, rank):
        raise ParameterError(f"shape: {name}: got {len(entries)} entries; need 1 or {rank}")
    return entries * rank if len(entries) == 1 else entries


def _layer(kernel: str, stride: str, dilate: str, pad: str, adj: str, rank: int) -> Layer:
    given = {"kernel": _numbers("kernel", kernel), "stride": _numbers("stride", stride)}
    given["dilate"], given["adj"] = _numbers("dilate", dilate), _numbers("adj", adj)
    pads = _pads("pad", pad)
    rank = max(rank, len(pads), *map(len, given.values()))
    plain = {name: _spread(name, entries, rank) for name, entries in given.items()}
    cut = tuple((low, high - more) for (low, high), more in zip(_spread("pad", pads, rank), plain["adj"]))
    return Layer(plain["kernel"], plain["stride"], plain["dilate"], cut)


def _joined(sizes: tuple[Any, ...]) -> str:
    return " x ".join(map(str, sizes))


def _pair(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}:{pair[1]}"


def _solved(layer: Layer, sizes: tuple[int, ...], want: tuple[int, ...], two_ends: bool) -> Layer | None:
    """Tell every way to the wanted size of each axis; return the layer with the recommended ones."""
    chosen: list[Option] = []
    for axis, (step, size, wanted) in enumerate(zip(layer.steps, sizes, want)):
        found = solve(
            size, wanted, kernel=step.kernel, stride=step.stride, dilation=step.dilation, two_ends=two_ends
        )
        click.echo(f"{size} -> {wanted}" + (f" on axis {axis}" if layer.rank > 1 else ""))
        if not found.options:
            click.echo(f"  impossible: {found.reason}")
            click.echo(f"  nearest: {', '.join(map(str, found.nearest))}")
            continue
        for number, option in enumerate(found.options):
            note = f"    recommended: {found.reason}" if number == 0 else ""
            click.echo(f"  pad {_pair(option.pad)}, adj {option.adj}{note}")
        chosen.append(found.options[0])
    if len(chosen) < layer.rank:
        return None
    cut = tuple((option.pad[0], option.pad[1] - option.adj) for option in chosen)
    return Layer(**{**vars(layer), "cut": cut})


def _tell_field(layer: Layer) -> None:
    for axis, step in enumerate(layer.steps):
        least, most = receptive_field(step)
        counts = sorted(set(step.overlap))
        reach = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        text = f"an output meets {reach} inputs" if (counts != [1]) else "an output meets 1 input"
        where = f" on axis {axis}" if layer.rank > 1 else ""
        uneven = step.kernel % step.stride
        text += f" (kernel {step.kernel} mod stride {step.stride} is {uneven}{'' if uneven else ', even'})"
        spread = str(most) if least == most else f"{least} to {most}"
        click.echo(f"{text}, within {spread} neighbours{where}")


def _tell_words(layer: Layer, to: str) -> None:
    for dialect in DIALECTS if to == "all" else (to,):
        translation = dialects.write(dialect, layer)
        click.echo(f"{dialect}: {translation.text}")
        click.echo(f"  weight {translation.weight}")
        for difference in translation.differences:
            click.echo(f"  {difference}")


@click.command(epilog="Exit codes: 0 done, 1 error, or no layer gives the wanted size, 2 wrong usage.")
@click.argument("layer", required=False)
@click.option("--in", "size", help="Spatial size of the input: 7, or 7,9, or a name such as T.")
@click.option("--kernel", help="Kernel size: 4, or 4,3.")
@click.option("--stride", default="1", help="Stride.", show_default=True)
@click.option("--dilate", default="1", help="Distance between taps.", show_default=True)
@click.option("--pad", default="0", help="Positions cut off: 1, or low:high, or one an axis.", show_default=True)
@click.option("--adj", default="0", help="Positions added at the high end.", show_default=True)
@click.option("--want", help="Wanted size of the output: tells every pad and adj that gives it.")
@click.option("--out", "result", help="Size of an output: tells the input it comes from.")
@click.option("--outputs", "span", help="Outputs first:last of the last axis: tells the inputs they need.")
@click.option("--two-ends", is_flag=True, help="Let the pads of both ends differ for --want.")
@click.option("--from", "source", type=click.Choice(DIALECTS), help="Whose words LAYER is in.")
@click.option("--to", "target", type=click.Choice([*DIALECTS, "all"]), help="Whose words to write it in.")
@click.option("--draw/--no-draw", "drawn", default=True, help="Draw which inputs feed which outputs.")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw to FILE.svg or FILE.png.")
def command(
    layer: str | None,
    size: str | None,
    kernel: str | None,
    stride: str,
    dilate: str,
    pad: str,
    adj: str,
    want: str | None,
    result: str | None,
    span: str | None,
    two_ends: bool,
    source: str | None,
    target: str | None,
    drawn: bool,
    picture: Path | None,
) -> None:
    r"""Tell sizes, pads and words of a layer of transposed convolution.

    The layer is given by its numbers, or as LAYER in the words of a library; what a function reads from its weight
    is given as kernel_size, filters and channels.

    \b
    Examples:
      tconv shape --in 7 --kernel 4 --stride 2 --want 14
      tconv shape --in T --kernel 16 --stride 8 --pad 4
      tconv shape --kernel 4 --stride 2 --pad 1 --out 14
      tconv shape --kernel 16 --stride 8 --pad 4 --outputs 80:87 --no-draw
      tconv shape --from torch "ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1)" --to keras
      tconv shape --in 5 --kernel 3 --stride 2 --picture taps.svg
    """
    sizes = None if size is None else _sizes(size)
    if layer is not None:
        if source is None or kernel is not None:
            raise click.UsageError("LAYER needs --from, and has its own numbers")
        known = dialects.read(source, layer, sizes)
    else:
        if kernel is None or source is not None:
            raise click.UsageError("need --kernel, or --from and LAYER")
        known = _layer(kernel, stride, dilate, pad, adj, len(sizes or ()))
    if sizes is not None:
        sizes = _spread("in", sizes, known.rank)
    if want is not None:
        if sizes is None or not all(isinstance(entry, int) for entry in sizes):
            raise click.UsageError("--want needs --in with numbers")
        numbers = tuple(entry for entry in sizes if isinstance(entry, int))
        found = _solved(known, numbers, _spread("want", _numbers("want", want), known.rank), two_ends)
        if found is None:
            raise click.exceptions.Exit(1)
        known = found
    if sizes is not None:
        click.echo(f"{_joined(sizes)} -> {_joined(dialects.output(known, sizes))}")
    if result is not None:
        wanted = _spread("out", _numbers("out", result), known.rank)
        before = [input_sizes(entry, step) for entry, step in zip(wanted, known.steps)]
        text = _joined(tuple(each[0] for each in before)) if all(before) else "no input"
        click.echo(f"{text} -> {_joined(wanted)}")
    if span is not None:
        first, last = _pads("outputs", span)[0]
        if last < first:
            raise ParameterError(f"shape: outputs: got {span!r}; need the first and the last of them")
        needed = known.steps[-1].reads(first, last + 1)
        click.echo(f"outputs {first} to {last} need inputs {needed.start} to {needed.stop - 1}")
    _tell_field(known)
    if target is not None:
        _tell_words(known, target)
    shown = _shown_size(known.steps[-1], sizes)
    if drawn and target is None:
        click.echo(as_text(known.steps[-1], shown))
    if picture is not None:
        draw(picture, known.steps[-1], shown)
        click.echo(f"drawn to {picture}")


def _shown_size(step: Step, sizes: tuple[Size, ...] | None) -> int:
    """Return how many inputs of the last axis to draw: all, or as many as tell how it goes on."""
    if sizes is not None and isinstance(sizes[-1], int):
        return sizes[-1]
    size = 4
    while Length.of(step.output("n")).at(n=size) < 1:
        size += 1
    return size
