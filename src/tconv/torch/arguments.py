"""PyTorch's words for a transposed convolution, turned into the sizes that decide it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from tconv.errors import DTypeError, ParameterError, ShapeError

Sizes = tuple[int, ...]
PerAxis = int | Sequence[int]
Padding = PerAxis | Sequence[Sequence[int]] | str


class Solved(NamedTuple):
    """A transposed convolution in solved sizes, one entry a spatial axis.

    What the low end of the output loses is `padding`; what the high end loses or gains follows from the output's
    `size`. So these serve every way of asking for an output, and the gradients too.
    """

    size: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int


def whole(where: str, value: Any) -> int:
    """Return `value` as an int or, while PyTorch traces, as the symbol of one.

    Raises
    ------
    DTypeError
        If it is no whole number.
    """
    if type(value) is int or isinstance(value, torch.SymInt):
        number: int = value
        return number
    if not isinstance(value, (bool, str)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise DTypeError(f"{where}: got {value!r}; need an int or a tuple of ints")


def per_axis(where: str, value: Any, rank: int, least: int) -> Sizes:
    """Return one number an axis, a single one being repeated.

    Raises
    ------
    DTypeError, ParameterError
        If `value` is neither an int nor `rank` ints, or one is below `least`.
    """
    if type(value) is int:
        entries: Sizes = (value,) * rank
    elif isinstance(value, (tuple, list)):
        entries = tuple(whole(where, entry) for entry in value) * (rank if len(value) == 1 else 1)
    else:
        entries = (whole(where, value),) * rank
    if len(entries) != rank:
        raise ParameterError(f"{where}: got {value!r}; need an int or {rank} of them")
    for entry in entries:
        if entry < least:
            raise ParameterError(f"{where}: got {value!r}; need at least {least}")
    return entries


def check(where: str, input: Sizes, weight: Sizes, bias: Sizes | None, groups: int) -> None:
    """Raise ShapeError or ParameterError unless arrays of these shapes make a transposed convolution."""
    if groups < 1 or weight[0] % groups:
        raise ParameterError(f"{where}: groups: got {groups}; need a divisor of the {weight[0]} input channels")
    if input[1] != weight[0]:
        raise ShapeError(f"{where}: input: got {input[1]} channels; need {weight[0]}, as weight has")
    if bias is not None and (len(bias) != 1 or bias[0] != weight[1] * groups):
        raise ShapeError(f"{where}: bias: got shape {tuple(bias)}; need ({weight[1] * groups},)")


def solve(
    where: str,
    input: Sizes,
    weight: Sizes,
    groups: int,
    strides: Sizes,
    padding: Padding,
    output_padding: Sizes,
    dilations: Sizes,
    output_size: Sequence[int] | None,
) -> Solved:
    """Return what the arguments of `torch.nn.functional.conv_transpose2d`, and those it lacks, come to.

    Parameters
    ----------
    where : str
        The function's name, for errors.
    input, weight : tuple of int
        Shapes, batch included.
    groups, strides, padding, output_padding, dilations, output_size
        As for `tconv.torch.conv_transpose2d`, what goes by axis having one entry an axis.

    Raises
    ------
    DTypeError, ParameterError, ShapeError
        If an argument is no number, out of its range, or leaves no output.
    """
    rank = len(weight) - 2
    extras = output_padding
    reach = [dilation * (kernel - 1) + 1 for dilation, kernel in zip(dilations, weight[2:])]
    if isinstance(padding, str):
        pads = _named_padding(f"{where}: padding", padding, reach, strides)
        if output_size is not None and padding == "same":
            raise ParameterError(f"{where}: output_size: got {output_size!r} with padding 'same'; need one of them")
    else:
        pads = _pairs(f"{where}: padding", padding, rank)
    smallest = tuple(
        (size - 1) * stride + reach - low - high
        for size, stride, reach, (low, high) in zip(input[2:], strides, reach, pads)
    )
    if output_size is not None:
        if any(extras):
            raise ParameterError(f"{where}: output_padding: got {extras} and output_size; need one of them")
        wanted = _spatial(f"{where}: output_size", output_size, rank)
        extras = tuple(want - least for want, least in zip(wanted, smallest))
    for extra, stride_, dilation_ in zip(extras, strides, dilations):
        if extra < 0 or extra >= max(stride_, dilation_):
            reason = f"output sizes from {smallest} on, by less than stride or dilation"
            if output_size is not None:
                raise ShapeError(f"{where}: output_size: got {output_size!r}; these arguments reach {reason}")
            raise ShapeError(
                f"{where}: output_padding: got {extras}; need less than stride {strides} or dilation {dilations}"
            )
    size = tuple(least + extra for least, extra in zip(smallest, extras))
    if any(entry < 1 for entry in size):
        raise ShapeError(f"{where}: padding: got {padding!r}; the output would have size {size}; need at least 1")
    return Solved(size, strides, tuple(low for low, _ in pads), dilations, groups)


def _named_padding(where: str, name: str, reach: list[int], strides: Sizes) -> list[tuple[int, int]]:
    if name == "valid":
        return [(0, 0) for _ in reach]
    if name != "same":
        raise ParameterError(f"{where}: got {name!r}; need 'same', 'valid', ints or pairs of ints")
    # What the convolution of this name pads, the odd position being cut at the end; where the kernel is shorter
    # than the stride, the end grows.
    return [(max(k - s, 0) // 2, k - s - max(k - s, 0) // 2) for k, s in zip(reach, strides)]


def _pairs(where: str, padding: Any, rank: int) -> list[tuple[int, int]]:
    if isinstance(padding, (tuple, list)) and any(isinstance(entry, (tuple, list)) for entry in padding):
        if len(padding) != rank or any(not isinstance(e, (tuple, list)) or len(e) != 2 for e in padding):
            raise ParameterError(f"{where}: got {padding!r}; need {rank} pairs of ints")
        return [(whole(where, low), whole(where, high)) for low, high in padding]
    return [(entry, entry) for entry in per_axis(where, padding, rank, 0)]


def _spatial(where: str, output_size: Sequence[int], rank: int) -> Sizes:
    if isinstance(output_size, (tuple, list)):
        # PyTorch's modules take whole shapes too.
        spatial = (
            output_size[len(output_size) - rank :] if len(output_size) in (rank + 1, rank + 2) else output_size
        )
        return per_axis(where, tuple(spatial), rank, 1)
    return per_axis(where, output_size, rank, 1)
