"""The transposed convolution and its gradients as PyTorch operators, `torch.ops.tconv`.

Each is linear in either of two arrays, and its derivative by one is another of the three:

    conv_transpose(small, weight)                  computes the large side
    conv_transpose_input_gradient(large, weight)   computes the small side
    conv_transpose_weight_gradient(small, large)   computes the weight

So gradients of every order, forward and backward, fall out of one table. Each takes the spatial size of its result
beside stride, low padding, dilation and groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad

from tconv import engine
from tconv.dtypes import bfloat16
from tconv.errors import DTypeError, ShapeError
from tconv.frameworks.torch import from_numpy, to_numpy
from tconv.geometry import Axis, Geometry, Shape, check_elements
from tconv.params import workspace_bytes
from tconv.torch import weights

Array = np.ndarray[Any, Any]
Sizes = Sequence[int]

COMPUTABLE = {torch.float32, torch.float64, torch.float16} | ({torch.bfloat16} if bfloat16() is not None else set())
"""Element types the engine computes with."""

PLAIN = (Tensor, torch.nn.Parameter)
"""Classes of tensors that have no operators of their own."""

WORKSPACE = workspace_bytes(512)
"""Ceiling of one call's temporary memory in bytes, that of `tconv.deconvolution`."""

_OPTIONS = 5
"""Arguments of an operator that are no tensors."""

LiesLast = Callable[[Tensor, Tensor], bool]
"""Whether the result of two tensors has its channels last in memory."""

_LIBRARY = torch.library.Library("tconv", "DEF")
# Compilers may choose how tensors lie, so that none is copied for the operator; PyTorch 2.4 always lets them.
_TAGS = [getattr(torch.Tag, name) for name in ("pt2_compliant_tag", "flexible_layout") if hasattr(torch.Tag, name)]
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


def channels_last_in_graphs(first: Tensor, second: Tensor) -> bool:
    """Tell the same of tensors in graphs, whose strides along axes of size 1 a compiler may change unseen."""
    return _lies_channels_last_for_sure(first) or _lies_channels_last_for_sure(second)


def _lies_channels_last_for_sure(tensor: Tensor) -> bool:
    if tensor.dim() not in _CHANNELS_LAST:
        return False
    shape, strides = tensor.shape, tensor.stride()
    order = [axis for axis in (1, *reversed(range(2, len(shape)))) if shape[axis] != 1]
    if order[:1] != [1] or len(order) == 1:
        return False
    return all(strides[axis] * shape[axis] <= strides[above] for axis, above in pairwise(order))


def as_array(tensor: Tensor, last: bool) -> Array:
    """Return an array over the tensor's memory, channels moved last if `last`; copied only if it lies otherwise."""
    if last:
        tensor = tensor.movedim(1, -1)
    if not tensor.is_contiguous() or tensor.is_neg():
        tensor = tensor.resolve_neg().contiguous()
    return to_numpy(tensor)


def as_tensor(array: Array, last: bool) -> Tensor:
    """Return a tensor over the memory of `array`, channels second whichever way they lie."""
    tensor: Tensor = from_numpy(array)
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


def compute(solved: Geometry, small: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a transposed convolution, and nothing else: no gradient, no trace."""
    last = solved.channels_last
    result = weights.forward(
        solved, as_array(small, last), weight, None if bias is None else as_array(bias, False), WORKSPACE
    )
    return as_tensor(result, last)


def _check_types(first: Tensor, *others: Tensor | None) -> None:
    for tensor in (first, *others):
        if tensor is not None and (tensor.dtype != first.dtype or tensor.dtype not in COMPUTABLE):
            names = ", ".join(str(dtype) for dtype in COMPUTABLE)
            raise DTypeError(
                f"conv_transpose: got {first.dtype} and {tensor.dtype}; need tensors of one of {names}"
            )


def _forward(
    lies_last: LiesLast,
    small: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    _check_types(small, weight, bias)
    last = lies_last(small, weight)
    large = _large_shape(small, weight, size, groups)
    if bias is not None and bias.shape != (large[1],):
        raise ShapeError(f"conv_transpose: bias: got shape {tuple(bias.shape)}; need ({large[1]},)")
    window = (tuple(stride), tuple(padding), tuple(dilation), groups, last)
    return compute(geometry(small.shape, large, weight.shape, *window), small, weight, bias)


def _input_gradient(
    lies_last: LiesLast,
    large: Tensor,
    weight: Tensor,
    size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    _check_types(large, weight)
    last = lies_last(large, weight)
    small = _small_shape(large, weight, size, groups)
    window = (tuple(stride), tuple(padding), tuple(dilation), groups, last)
    result = engine.data_gradient(
        geometry(small, large.shape, weight.shape, *window),
        as_array(large, last),
        as_array(weight, last),
        workspace=WORKSPACE,
        threads=torch.get_num_threads(),
    )
    return as_tensor(result, last)


def _weight_gradient(
    lies_last: LiesLast,
    small: Tensor,
    large: Tensor,
    size: Sizes,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    _check_types(small, large)
    last = lies_last(small, large)
    weight = _weight_shape(small, large, size, groups)
    window = (tuple(stride), tuple(padding), tuple(dilation), groups, last)
    result = engine.weight_gradient(
        geometry(small.shape, large.shape, weight, *window),
        as_array(small, last),
        as_array(large, last),
        workspace=WORKSPACE,
        threads=torch.get_num_threads(),
    )
    return as_tensor(result, last)


def is_watched(tensors: Iterable[Tensor | None]) -> bool:
    """Tell whether PyTorch is to see the operator itself: for a transform, a trace, a mode, a cast or a profile."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
        or torch.autograd.profiler._is_profiler_enabled
        or any(
            tensor is not None
            and (type(tensor) not in PLAIN or torch._C._functorch.is_legacy_batchedtensor(tensor))
            for tensor in tensors
        )
    )


def is_recorded(tensors: Iterable[Tensor | None]) -> bool:
    """Tell whether gradients by one of these tensors may be asked for."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


class Operator:
    """An operator of PyTorch, and the short ways to it where nobody watches.

    Attributes
    ----------
    overload : OpOverload
        What PyTorch's transforms, traces and modes see.
    """

    def __init__(
        self, name: str, tensors: str, compute: Callable[..., Tensor], shape: Callable[..., Shape]
    ) -> None:
        schema = "SymInt[] size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
        _LIBRARY.define(f"{name}({tensors}, {schema}) -> Tensor", tags=_TAGS)
        _LIBRARY.impl(name, partial(compute, channels_last_in_graphs), "CPU")
        torch.library.register_fake(f"tconv::{name}", _fake(shape), lib=_LIBRARY)
        self.overload = getattr(torch.ops.tconv, name).default
        self._compute = partial(compute, channels_last)
        self._derivative: Any = None

    def __call__(self, first: Tensor, second: Tensor, *rest: Any) -> Tensor:
        """Compute, recording what gradients need."""
        tensors = (first, second, *rest[:-_OPTIONS])
        if is_watched(tensors):
            result: Tensor = self.overload(first, second, *rest)
        elif is_recorded(tensors):
            result = self._derivative.apply(self._compute, first, second, *rest)
        else:
            result = self._compute(first, second, *rest)
        return result

    def derive_by(self, derivative: Any) -> None:
        """Register the derivatives, a single-level autograd function of how to compute and the arguments."""
        self._derivative = derivative
        overload = self.overload

        def derive(keyset: Any, first: Tensor, second: Tensor, *rest: Any) -> Tensor:
            def below(*arguments: Any) -> Tensor:
                with torch._C._AutoDispatchBelowAutograd():
                    result: Tensor = overload.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)
                return result

            recorded = is_recorded((first, second, *rest[:-_OPTIONS]))
            if not recorded and forward_ad._current_level < 0:
                return below(first, second, *rest)
            # A transform of torch.func has come down to its own level here, so one level is what is wanted.
            transformed = torch._C._are_functorch_transforms_active()
            with enable_single_level_autograd_function() if transformed else nullcontext():
                derived: Tensor = derivative.apply(below, first, second, *rest)
            return derived

        _LIBRARY.impl(self.name, derive, "Autograd", with_keyset=True)

    def cast_by_autocast(self) -> None:
        """Register what `torch.autocast` makes of the arrays: as for PyTorch's own, double stays."""

        def cast(*arguments: Any) -> Tensor:
            lower = torch.get_autocast_dtype("cpu")

            def lowered(value: Any) -> Any:
                narrow = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
                return value.to(lower) if narrow else value

            with torch.autocast("cpu", enabled=False):
                result: Tensor = self.overload(*map(lowered, arguments))
            return result

        _LIBRARY.impl(self.name, cast, "AutocastCPU")

    def map_by(self, rule: Callable[..., tuple[Tensor, int]]) -> None:
        """Register what `torch.vmap` makes of the operator; PyTorch 2.4 knows no such registration."""
        if hasattr(torch.library, "register_vmap"):
            torch.library.register_vmap(f"tconv::{self.name}", rule, lib=_LIBRARY)

    @property
    def name(self) -> str:
        """Name in `torch.ops.tconv`."""
        name: str = self.overload.name().removeprefix("tconv::")
        return name


def _fake(shape: Callable[..., Shape]) -> Callable[..., Tensor]:
    def fake(first: Tensor, second: Tensor, *rest: Any) -> Tensor:
        *_, size, _, _, _, groups = rest
        last = channels_last_in_graphs(first, second)
        return torch.empty(
            shape(first, second, size, groups),
            dtype=first.dtype,
            device=first.device,
            memory_format=_CHANNELS_LAST[first.dim()] if last else torch.contiguous_format,
        )

    return fake


forward = Operator("conv_transpose", "Tensor input, Tensor weight, Tensor? bias", _forward, _large_shape)
input_gradient = Operator(
    "conv_transpose_input_gradient", "Tensor gradient, Tensor weight", _input_gradient, _small_shape
)
weight_gradient = Operator(
    "conv_transpose_weight_gradient", "Tensor input, Tensor gradient", _weight_gradient, _weight_shape
)

Partial = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""From the result's gradient, the two arrays and the options after the size to the gradient of one array."""

_PARTIALS: dict[Operator, tuple[Partial, Partial]] = {
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


def _derivative(operator: Operator, partials: tuple[Partial, Partial]) -> Any:
    """Return the derivatives of an operator, backward and forward."""
    biased = operator is forward

    class Derivative(torch.autograd.function._SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, compute: Callable[..., Tensor], first: Tensor, second: Tensor, *rest: Any) -> Tensor:
            ctx.save_for_backward(first, second)
            ctx.save_for_forward(first, second)
            ctx.rest = rest[1:] if biased else rest
            # What PyTorch turns off for a forward pass, transforms of torch.func at outer levels still need.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                return compute(first, second, *rest)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            first, second = ctx.saved_tensors
            _, *wanted = ctx.needs_input_grad
            if biased and not is_watched((first, second, grad)) and channels_last(first, second):
                # A gradient that lies otherwise than the result would be copied once for each partial.
                grad = grad.contiguous(memory_format=_CHANNELS_LAST[grad.dim()])
            grads = [
                derive(grad, first, second, ctx.rest[1:]) if want else None
                for derive, want in zip(partials, wanted)
            ]
            if biased:
                others = (0, *range(2, grad.dim()))
                grads.append(grad.sum(others) if wanted[2] else None)
            return (None, *grads, *(None,) * len(ctx.rest))

        @staticmethod
        def jvp(ctx: Any, _: None, first_dot: Tensor | None, second_dot: Tensor | None, *dots: Any) -> Any:
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

    return Derivative


def _mapped(operator: Operator) -> Callable[..., tuple[Tensor, int]]:
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

for _operator, _partials in _PARTIALS.items():
    _operator.derive_by(_derivative(_operator, _partials))
    _operator.cast_by_autocast()
    _operator.map_by(_VMAPS[_operator])
