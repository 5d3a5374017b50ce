"""The transposed convolution and its gradients as PyTorch operators, `torch.ops.tconv`.

Each is linear in either of two arrays, and its derivative by one is another of the three:

    conv_transpose(small, weight)                  computes the large side
    conv_transpose_input_gradient(large, weight)   computes the small side
    conv_transpose_weight_gradient(small, large)   computes the weight

So gradients of every order, forward and backward, fall out of one table. Each takes the spatial size of its result
beside stride, low padding, dilation and groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad

from tconv import engine
from tconv.dtypes import bfloat16
from tconv.errors import ShapeError
from tconv.frameworks.torch import from_numpy, to_numpy
from tconv.geometry import Axis, Geometry, Shape, check_elements
from tconv.params import workspace_bytes
from tconv.torch.weights import operand

Array = np.ndarray[Any, Any]
Sizes = Sequence[int]

COMPUTABLE = {torch.float32, torch.float64, torch.float16} | ({torch.bfloat16} if bfloat16() is not None else set())
"""Element types the engine computes with."""

WORKSPACE = workspace_bytes(512)
"""Ceiling of one call's temporary memory in bytes, that of `tconv.deconvolution`."""

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(first: Tensor, second: Tensor) -> bool:
    """Tell whether PyTorch gives a convolution of these tensors a result with its channels last in memory."""
    return _lies_channels_last(first) or _lies_channels_last(second)


def _lies_channels_last(tensor: Tensor) -> bool:
    layout = _CHANNELS_LAST.get(tensor.dim())
    if layout is None or (tensor.is_contiguous() and not tensor.is_contiguous(memory_format=layout)):
        return False
    # PyTorch reads the order from the strides alone, which also decides where axes of size 1 leave it open.
    shape, strides = tensor.shape, tensor.stride()
    least = 0
    for axis in (1, *reversed(range(2, len(shape)))):
        if strides[axis] < least:
            return False
        least = strides[axis] * shape[axis]
    return bool(strides[0] >= least != strides[1])


def as_array(tensor: Tensor, last: bool) -> Array:
    """Return an array over the tensor's memory, channels moved last if `last`; copied only if it lies otherwise."""
    if last:
        tensor = tensor.movedim(1, -1)
    return to_numpy(tensor.resolve_neg().contiguous())


def as_tensor(array: Array, last: bool) -> Tensor:
    """Return a tensor over the memory of `array`, channels second whichever way they lie."""
    tensor: Tensor = from_numpy(array, None)
    return tensor.movedim(-1, 1) if last else tensor


@lru_cache(maxsize=4096)
def geometry(
    small: Shape,
    large: Shape,
    weight: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int,
    last: bool,
) -> Geometry:
    """Return the geometry of three shapes, channels second, that belong together.

    Raises
    ------
    ShapeError
        If they do not.
    OutOfMemoryError
        If an array would pass the 64-bit range.
    """
    per_group = large[1] // groups if groups > 0 and large[1] % groups == 0 and small[1] % groups == 0 else -1
    lengths = {len(small), len(large), len(weight), *(len(sizes) + 2 for sizes in (stride, padding, dilation))}
    if len(lengths) != 1 or small[0] != large[0] or weight[:2] != (small[1], per_group):
        raise ShapeError(
            f"conv_transpose: got shapes {small}, {large} and weight {weight} with groups {groups}; "
            "need a small and a large side of one batch size, and a weight that joins their channels"
        )
    axes = tuple(
        Axis(n, out, k, s, d, pad, (n - 1) * s + (k - 1) * d + 1 - pad - out, 0)
        for n, out, k, s, d, pad in zip(small[2:], large[2:], weight[2:], stride, dilation, padding)
    )
    for shape in (small, large, weight):
        check_elements("conv_transpose", "shapes", shape)
    return Geometry(small[0], small[1], large[1], groups, axes, last)


def _large_shape(small: Tensor, weight: Tensor, size: Sizes, groups: int) -> Shape:
    return (small.shape[0], weight.shape[1] * groups, *size)


def _small_shape(large: Tensor, weight: Tensor, size: Sizes, groups: int) -> Shape:
    return (large.shape[0], weight.shape[0], *size)


def _weight_shape(small: Tensor, large: Tensor, size: Sizes, groups: int) -> Shape:
    return (small.shape[1], large.shape[1] // max(groups, 1), *size)


def compute(
    small: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    """Compute a transposed convolution, and nothing else: no gradient, no trace."""
    last = channels_last(small, weight)
    large = _large_shape(small, weight, size, groups)
    solved = geometry(
        small.shape, large, weight.shape, tuple(stride), tuple(padding), tuple(dilation), groups, last
    )
    result = engine.forward(
        solved,
        as_array(small, last),
        operand(weight, last),
        None if bias is None else as_array(bias, False),
        workspace=WORKSPACE,
        threads=torch.get_num_threads(),
    )
    return as_tensor(result, last)


def _input_gradient(
    large: Tensor, weight: Tensor, size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    last = channels_last(large, weight)
    small = _small_shape(large, weight, size, groups)
    solved = geometry(
        small, large.shape, weight.shape, tuple(stride), tuple(padding), tuple(dilation), groups, last
    )
    result = engine.data_gradient(
        solved,
        as_array(large, last),
        as_array(weight, last),
        workspace=WORKSPACE,
        threads=torch.get_num_threads(),
    )
    return as_tensor(result, last)


def _weight_gradient(
    small: Tensor, large: Tensor, size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    last = channels_last(small, large)
    weight = _weight_shape(small, large, size, groups)
    solved = geometry(
        small.shape, large.shape, weight, tuple(stride), tuple(padding), tuple(dilation), groups, last
    )
    result = engine.weight_gradient(
        solved,
        as_array(small, last),
        as_array(large, last),
        workspace=WORKSPACE,
        threads=torch.get_num_threads(),
    )
    return as_tensor(result, last)


_LIBRARY = torch.library.Library("tconv", "DEF")
_TAIL = "SymInt[] size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups) -> Tensor"


def _define(name: str, tensors: str, compute: Callable[..., Tensor], shape: Callable[..., Shape]) -> Any:
    """Register an operator with its computation and its fake; return what calls it."""
    _LIBRARY.define(f"{name}({tensors}, {_TAIL}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, compute, "CPU")

    def fake(first: Tensor, second: Tensor, *rest: Any) -> Tensor:
        *_, size, _, _, _, groups = rest
        last = channels_last(first, second)
        return torch.empty(
            shape(first, second, size, groups),
            dtype=first.dtype,
            device=first.device,
            memory_format=_CHANNELS_LAST[first.dim()] if last else torch.contiguous_format,
        )

    torch.library.register_fake(f"tconv::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.tconv, name).default


forward = _define("conv_transpose", "Tensor input, Tensor weight, Tensor? bias", compute, _large_shape)
input_gradient = _define(
    "conv_transpose_input_gradient", "Tensor gradient, Tensor weight", _input_gradient, _small_shape
)
weight_gradient = _define(
    "conv_transpose_weight_gradient", "Tensor input, Tensor gradient", _weight_gradient, _weight_shape
)

Partial = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""From the result's gradient, the two arrays and the options after the size to the gradient of one array."""

_PARTIALS: dict[Any, tuple[Partial, Partial]] = {
    forward: (
        lambda grad, small, weight, options: input_gradient(grad, weight, small.shape[2:], *options),
        lambda grad, small, weight, options: weight_gradient(small, grad, weight.shape[2:], *options),
    ),
    input_gradient: (
        lambda grad, large, weight, options: forward(grad, weight, None, large.shape[2:], *options),
        lambda grad, large, weight, options: weight_gradient(grad, large, weight.shape[2:], *options),
    ),
    weight_gradient: (
        lambda grad, small, large, options: input_gradient(large, grad, small.shape[2:], *options),
        lambda grad, small, large, options: forward(small, grad, None, large.shape[2:], *options),
    ),
}


def _differentiable(operator: Any, partials: tuple[Partial, Partial]) -> None:
    """Register the derivatives of an operator, backward and forward."""
    biased = operator is forward

    def below(keyset: Any, *arguments: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            result: Tensor = operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)
        return result

    class Derivative(torch.autograd.function._SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, keyset: Any, first: Tensor, second: Tensor, *rest: Any) -> Tensor:
            ctx.save_for_backward(first, second)
            ctx.save_for_forward(first, second)
            ctx.rest = rest[1:] if biased else rest
            # What PyTorch turns off for a forward pass, transforms of torch.func at outer levels still need.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                return below(keyset, first, second, *rest)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            first, second = ctx.saved_tensors
            _, *wanted = ctx.needs_input_grad
            grads = [
                partial(grad, first, second, ctx.rest[1:]) if want else None
                for partial, want in zip(partials, wanted)
            ]
            if biased:
                others = (0, *range(2, grad.dim()))
                grads.append(grad.sum(others) if wanted[2] else None)
            return (None, *grads, *(None,) * len(ctx.rest))

        @staticmethod
        def jvp(ctx: Any, keyset_dot: None, first_dot: Tensor | None, second_dot: Tensor | None, *dots: Any) -> Any:
            first, second = ctx.saved_tensors
            bias = (None,) if biased else ()
            terms = []
            if first_dot is not None:
                terms.append(operator(first_dot, second, *bias, *ctx.rest))
            if second_dot is not None:
                terms.append(operator(first, second_dot, *bias, *ctx.rest))
            if biased and dots[0] is not None:
                size = ctx.rest[0]
                terms.append(dots[0].reshape(-1, *(1,) * len(size)).expand(first.shape[0], -1, *size))
            return sum(terms[1:], start=terms[0])

    def derive(keyset: Any, first: Tensor, second: Tensor, *rest: Any) -> Tensor:
        recorded = torch.is_grad_enabled() and torch._C._any_requires_grad(first, second, *rest)
        if recorded or forward_ad._current_level >= 0:
            # A transform of torch.func has come down to its own level here, so one level is what is wanted.
            with (
                enable_single_level_autograd_function()
                if torch._C._are_functorch_transforms_active()
                else nullcontext()
            ):
                derived: Tensor = Derivative.apply(keyset, first, second, *rest)
            return derived
        return below(keyset, first, second, *rest)

    _LIBRARY.impl(operator.name().removeprefix("tconv::"), derive, "Autograd", with_keyset=True)


def _cast_by_autocast(operator: Any) -> None:
    """Register what `torch.autocast` makes of an operator's arrays: as of PyTorch's own, double stays."""

    def cast(*arguments: Any) -> Tensor:
        lower = torch.get_autocast_dtype("cpu")

        def lowered(value: Any) -> Any:
            narrow = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
            return value.to(lower) if narrow else value

        with torch.autocast("cpu", enabled=False):
            result: Tensor = operator(*map(lowered, arguments))
        return result

    _LIBRARY.impl(operator.name().removeprefix("tconv::"), cast, "AutocastCPU")


def _mapped(operator: Any) -> Callable[..., tuple[Tensor, int]]:
    """Return the `torch.vmap` of an operator from one side to the other: a mapped axis joins batch or groups."""

    def rule(info: Any, dims: Any, source: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, int]:
        *biases, size, stride, padding, dilation, groups = rest
        source_dim, weight_dim, *bias_dims = dims[: 2 + len(biases)]
        count = info.batch_size
        if weight_dim is None:
            held = [bias if dim is None else None for bias, dim in zip(biases, bias_dims)]
            if source_dim is None:
                result = operator(source, weight, *held, size, stride, padding, dilation, groups).unsqueeze(0)
            else:
                merged = source.movedim(source_dim, 0).flatten(0, 1)
                result = operator(merged, weight, *held, size, stride, padding, dilation, groups)
                result = result.unflatten(0, (count, -1))
            for bias, dim in zip(biases, bias_dims):
                if dim is not None:
                    vectors = bias.movedim(dim, 0)
                    result = result + vectors.reshape(count, 1, -1, *(1,) * len(size))
            return result, 0
        source = _beside_maps(source, source_dim, count)
        weight = weight.movedim(weight_dim, 0).flatten(0, 1)
        joined = [
            None if bias is None else (bias.repeat(count) if dim is None else bias.movedim(dim, 0).flatten())
            for bias, dim in zip(biases, bias_dims)
        ]
        result = operator(source, weight, *joined, size, stride, padding, dilation, groups * count)
        return result.unflatten(1, (count, -1)), 1

    return rule


def _mapped_weight_gradient(info: Any, dims: Any, small: Tensor, large: Tensor, *rest: Any) -> tuple[Tensor, int]:
    *options, groups = rest
    count = info.batch_size
    small, large = (_beside_maps(side, dim, count) for side, dim in zip((small, large), dims))
    return weight_gradient(small, large, *options, groups * count).unflatten(0, (count, -1)), 0


def _beside_maps(array: Tensor, dim: int | None, count: int) -> Tensor:
    """Return an array of (batch, count * maps, spatial...)."""
    if dim is None:
        wide = array.unsqueeze(1).expand(-1, count, *array.shape[1:])
    else:
        wide = array.movedim(dim, 1)
    return wide.flatten(1, 2)


_VMAPS = {
    forward: _mapped(forward),
    input_gradient: _mapped(input_gradient),
    weight_gradient: _mapped_weight_gradient,
}

for _operator, _both in _PARTIALS.items():
    _differentiable(_operator, _both)
    _cast_by_autocast(_operator)
    # PyTorch 2.4 has no such registration, and no torch.vmap of these.
    if hasattr(torch.library, "register_vmap"):
        torch.library.register_vmap(_operator.name(), _VMAPS[_operator], lib=_LIBRARY)
