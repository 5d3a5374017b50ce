"""`torch.nn.functional`'s transposed convolutions, computed by tconv."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tconv.errors import ShapeError
from tconv.geometry import Geometry
from tconv.torch import operators
from tconv.torch.arguments import Padding, PerAxis, Sizes, Solved, check, per_axis, solve, whole

ORIGINALS: dict[int, Callable[..., Tensor]] = {
    1: torch.conv_transpose1d,
    2: torch.conv_transpose2d,
    3: torch.conv_transpose3d,
}
"""PyTorch's own operator by the number of spatial axes."""

_WITHOUT_OPERATORS = torch._C._disabled_torch_function_impl


def refusal(input: Any, weight: Any, bias: Any) -> str | None:
    """Say why PyTorch's own operator is to compute with these tensors, or return None."""
    for tensor in (input, weight) if bias is None else (input, weight, bias):
        if not isinstance(tensor, Tensor):
            return f"{type(tensor).__name__} is no tensor"
        if type(tensor) not in operators.PLAIN and type(tensor).__torch_function__ is not _WITHOUT_OPERATORS:
            return f"{type(tensor).__name__} has operators of its own"
        if not tensor.is_cpu:
            return f"device {tensor.device.type}"
        if tensor.layout is not torch.strided:
            return f"layout {tensor.layout}"
        if tensor.dtype not in operators.COMPUTABLE:
            return f"dtype {tensor.dtype}"
        if tensor.dtype != input.dtype and not torch.is_autocast_enabled("cpu"):
            return f"dtypes {input.dtype} and {tensor.dtype}"
    if torch.jit.is_tracing():
        return "torch.jit.trace, which cannot record sizes that follow from others"
    if 0 in input.shape or 0 in weight.shape:
        return "no elements"
    return None


def _solve(where: str, input: Sizes, weight: Sizes, bias: Sizes | None, groups: int, *window: Any) -> Solved:
    check(where, input, weight, bias, groups)
    return solve(where, input, weight, groups, *window)


@lru_cache(maxsize=4096)
def _geometry(last: bool, where: str, input: Sizes, weight: Sizes, *rest: Any) -> Geometry:
    """Return the whole problem; kept, as solving it costs more than a small layer computes."""
    size, stride, padding, dilation, groups = _solve(where, input, weight, *rest)
    large = (input[0], weight[1] * groups, *size)
    return operators.geometry(tuple(input), large, tuple(weight), stride, padding, dilation, groups, last)


def conv_transpose(
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
    *,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Compute a transposed convolution of `rank` spatial axes; see `conv_transpose2d`."""
    where = f"conv_transpose{rank}d"
    refused = refusal(input, weight, bias)
    common = output_size is None and not isinstance(padding, str) and not _has_pairs(padding)
    if refused is not None and (common or not isinstance(input, Tensor) or not isinstance(weight, Tensor)):
        return ORIGINALS[rank](input, weight, bias, stride, padding, output_padding, groups, dilation)
    if input.dim() == rank + 1:
        batch = input.unsqueeze(0)
        return conv_transpose(
            rank, batch, weight, bias, stride, padding, output_padding, groups, dilation, output_size=output_size
        ).squeeze(0)
    if input.dim() != rank + 2 or weight.dim() != rank + 2:
        raise ShapeError(
            f"{where}: got input of shape {tuple(input.shape)} and weight of shape {tuple(weight.shape)}; "
            f"need {rank + 2} dimensions, of which input may lack the batch"
        )
    arguments = (
        where,
        input.shape,
        weight.shape,
        None if bias is None else bias.shape,
        whole(f"{where}: groups", groups),
        per_axis(f"{where}: stride", stride, rank, 1),
        padding if not common else per_axis(f"{where}: padding", padding, rank, 0),
        per_axis(f"{where}: output_padding", output_padding, rank, 0),
        per_axis(f"{where}: dilation", dilation, rank, 1),
        output_size,
    )
    if refused is not None:
        return _by_pytorch(rank, input, weight, bias, _solve(*arguments))
    tensors = (input, weight, bias)
    if torch.compiler.is_compiling():
        result: Tensor = operators.forward.overload(*tensors, *_solve(*arguments))
    elif not common or operators.is_recorded(tensors) or operators.is_watched(tensors):
        result = operators.forward(*tensors, *_solve(*arguments))
    else:
        result = operators.compute(_geometry(operators.channels_last(input, weight), *arguments), *tensors)
    return result


def _has_pairs(padding: Any) -> bool:
    return isinstance(padding, (tuple, list)) and any(isinstance(entry, (tuple, list)) for entry in padding)


def _by_pytorch(rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, solved: Solved) -> Tensor:
    """Compute by PyTorch's operator what it has no arguments for: without padding, then cropped or extended."""
    full = ORIGINALS[rank](input, weight, None, solved.stride, 0, 0, solved.groups, solved.dilation)
    crops = [(-low, low + out - all_) for low, out, all_ in zip(solved.padding, solved.size, full.shape[2:])]
    result = torch.nn.functional.pad(full, [entry for pair in reversed(crops) for entry in pair])
    return result if bias is None else result + bias.reshape(-1, *(1,) * rank)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
    *,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Compute a transposed convolution over one spatial axis; see `conv_transpose2d`.

    Examples
    --------
    >>> import torch
    >>> import tconv.torch
    >>> x, w = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[1.0, 10.0, 100.0]]])
    >>> tconv.torch.conv_transpose1d(x, w, stride=2)
    tensor([[[  1.,  10., 102.,  20., 203.,  30., 300.]]])
    >>> tconv.torch.conv_transpose1d(x, w, stride=2, padding="same")
    tensor([[[  1.,  10., 102.,  20., 203.,  30.]]])
    """
    return conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation, output_size=output_size
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
    *,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Compute a transposed convolution over two spatial axes, as `torch.nn.functional.conv_transpose2d` does.

    Along each axis the output has the size
    `(size - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding + output_padding`.

    Tensors of other devices, of integers, of complex numbers and of classes with operators of their own go to
    PyTorch's operator.

    Parameters
    ----------
    input : Tensor, shape (N, C, H, W) or (C, H, W)
        Of float32, float64, float16 or bfloat16. Channels last in memory, its own or the weight's, stay last.
    weight : Tensor, shape (C, F / groups, kernel...)
        Of the type of `input`.
    bias : Tensor, shape (F,), optional
        Added to every position.
    stride, dilation : int or one int an axis
        Step, and distance between taps.
    padding : int, one int or one pair of ints an axis, "same" or "valid"
        Positions cut off both ends. A pair tells them for the low and the high end, and below 0 extends. "same"
        gives `size * stride`, cutting half of what is too much off the low end and the rest off the high end;
        "valid" cuts nothing.
    output_padding : int or one int an axis
        Positions added at the high end, fewer than stride or dilation.
    groups : int
        Groups; they divide C and F.
    output_size : int or sequence of int, optional
        Wanted size of the output, in place of `output_padding`: its spatial axes or all of them.

    Returns
    -------
    Tensor, shape (N, F, H', W') or (F, H', W')
        The output.

    Raises
    ------
    ShapeError, ParameterError, DTypeError
        All of them `RuntimeError`, as PyTorch raises, if arguments do not fit.

    Examples
    --------
    >>> import torch
    >>> import tconv.torch
    >>> x, w = torch.ones(1, 16, 7, 7), torch.ones(16, 8, 3, 3)
    >>> tconv.torch.conv_transpose2d(x, w, stride=2, padding=1).shape
    torch.Size([1, 8, 13, 13])
    >>> tconv.torch.conv_transpose2d(x, w, stride=2, padding=1, output_size=(14, 14)).shape
    torch.Size([1, 8, 14, 14])
    """
    return conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation, output_size=output_size
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
    *,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Compute a transposed convolution over three spatial axes; see `conv_transpose2d`.

    Examples
    --------
    >>> import torch
    >>> import tconv.torch
    >>> x, w = torch.ones(1, 4, 3, 5, 5), torch.ones(4, 2, 1, 2, 2)
    >>> tconv.torch.conv_transpose3d(x, w, stride=(1, 2, 2), padding=((0, 0), (0, 1), (0, 1))).shape
    torch.Size([1, 2, 3, 9, 9])
    """
    return conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, groups, dilation, output_size=output_size
    )
