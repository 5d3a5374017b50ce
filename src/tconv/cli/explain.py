"""Tell which algorithm computes a layer, what it costs, and why not another."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from tconv import api
from tconv.api import ADJ_RULES
from tconv.dtypes import DType, as_dtype
from tconv.errors import ParameterError
from tconv.geometry import PAD_MODES


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(entry) for entry in text.replace("x", ",").split(","))
    except ValueError:
        raise ParameterError(f"explain: {name}: got {text!r}; need numbers such as 4 or 4,3") from None


def _per_axis(name: str, text: str) -> int | tuple[int, ...]:
    numbers = _numbers(name, text)
    return numbers[0] if len(numbers) == 1 else numbers


def _virtual(name: str, shape: tuple[int, ...], dtype: DType) -> np.ndarray[Any, Any]:
    """Return a view of one number: nothing reads the values, and an array of this shape may not fit in memory."""
    try:
        return np.broadcast_to(np.zeros((), dtype), shape)
    except (ValueError, OverflowError):
        raise ParameterError(
            f"explain: {name}: got an array of {shape}; need one that memory can address"
        ) from None


@click.command(epilog="Exit codes: 0 done, 1 error, 2 wrong usage.")
@click.argument("shape", metavar="N,C,SIZE...")
@click.option("--filters", type=click.IntRange(1), required=True, help="Filters.")
@click.option("--kernel", required=True, help="Kernel size: 4, or 4,3.")
@click.option("--stride", default="1", help="Stride.", show_default=True)
@click.option("--pad", default="0", help="Positions cut off at both ends.", show_default=True)
@click.option("--dilate", default="1", help="Distance between taps.", show_default=True)
@click.option("--adj", default="0", help="Positions added at the high end.", show_default=True)
@click.option("--target-shape", help="Wanted size of the output, from which pad and adj follow.")
@click.option("--groups", type=click.IntRange(1), default=1, help="Groups.", show_default=True)
@click.option(
    "--pad-mode", type=click.Choice(PAD_MODES), default=PAD_MODES[0], help="What pads stand for.", show_default=True
)
@click.option(
    "--adj-rule", type=click.Choice(ADJ_RULES), default=ADJ_RULES[0], help="Which adj may be.", show_default=True
)
@click.option("--layout", help="NCHW and the like; then SHAPE is in this order.")
@click.option("--dtype", default="float32", help="Type of the arrays.", show_default=True)
@click.option("--workspace", type=int, default=512, help="Ceiling of temporary memory in MB.", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Threads; by default all cores the process may use.")
@click.option("--gradient", type=click.Choice(["data", "weight"]), help="Of a gradient instead of the output.")
@click.option("--prepared", is_flag=True, help="With weights packed beforehand.")
@click.option("--measure", is_flag=True, help="Time the algorithms too.")
def command(
    shape: str,
    filters: int,
    kernel: str,
    stride: str,
    pad: str,
    dilate: str,
    adj: str,
    target_shape: str | None,
    groups: int,
    pad_mode: str,
    adj_rule: str,
    layout: str | None,
    dtype: str,
    workspace: int,
    threads: int | None,
    gradient: str | None,
    prepared: bool,
    measure: bool,
) -> None:
    r"""Tell which algorithm computes a layer on data of a shape, what it costs, and why not another.

    \b
    Examples:
      tconv explain 1,256,32,24 --filters 256 --kernel 4 --stride 2 --pad 1
      tconv explain 1,1026,224 --filters 1 --kernel 1024 --stride 256 --prepared --measure
    """
    if prepared and gradient:
        raise ParameterError("explain: gradient: got one with --prepared; need one of the two")
    if filters % groups:
        raise ParameterError(f"explain: filters: got {filters}; need a multiple of {groups} groups")
    sizes = _numbers("shape", shape)
    rank = len(sizes) - 2
    if rank not in (1, 2, 3) or min(sizes) < 0:
        raise ParameterError(f"explain: shape: got {shape}; need batch, channels and 1 to 3 sizes")
    last = layout is not None and layout.endswith("C")
    taps = _numbers("kernel", kernel)
    taps = taps * rank if len(taps) == 1 else taps
    channels = sizes[-1] if last else sizes[1]
    maps = filters // groups
    of_type = as_dtype(dtype, "explain: dtype")
    x = _virtual("shape", sizes, of_type)
    w = _virtual("kernel", (channels, *taps, maps) if last else (channels, maps, *taps), of_type)
    options: dict[str, Any] = {
        "stride": _per_axis("stride", stride),
        "pad": _per_axis("pad", pad),
        "dilate": _per_axis("dilate", dilate),
        "adj": _per_axis("adj", adj),
        "target_shape": None if target_shape is None else _per_axis("target_shape", target_shape),
        "num_group": groups,
        "pad_mode": pad_mode,
        "adj_rule": adj_rule,
        "layout": layout,
        "workspace": workspace,
        "threads": threads,
    }
    if prepared:
        told = api.prepare(w, **options).explain(sizes, measure=measure)
    else:
        told = api.explain(x, w, gradient=gradient, measure=measure, **options)
    click.echo(told)
