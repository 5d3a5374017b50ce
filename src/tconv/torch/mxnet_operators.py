"""What MXNet's operators are in PyTorch: a function each of its parameters, whether it trains, and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from tconv.operators.pooling import windows_of
from tconv.operators.registry import find
from tconv.symbol.node import Node
from tconv.torch.functional import conv_transpose

Forward = Callable[..., Any]

FORWARDS: dict[str, Forward] = {}
"""By operator: `forward(params, training, *inputs)`, which returns a tensor, or a tuple for several outputs."""

LABELLED = {"SoftmaxOutput", "LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput"}
"""Losses, whose second input is a label that does not influence the output."""

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_SCALARS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "_plus_scalar": lambda x, scalar: x + scalar,
    "_minus_scalar": lambda x, scalar: x - scalar,
    "_rminus_scalar": lambda x, scalar: scalar - x,
    "_mul_scalar": lambda x, scalar: x * scalar,
    "_div_scalar": lambda x, scalar: x / scalar,
    "_rdiv_scalar": lambda x, scalar: scalar / x,
    "_power_scalar": lambda x, scalar: x**scalar,
    "_maximum_scalar": lambda x, scalar: x.clamp(min=scalar),
    "_minimum_scalar": lambda x, scalar: x.clamp(max=scalar),
}
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softsign": F.softsign,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "abs": torch.abs,
    "negative": torch.neg,
    "_copy": lambda x: x,
    "BlockGrad": lambda x: x.detach(),
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}


def missing(order: Iterable[Node]) -> list[str]:
    """Return the names of the operators among these nodes that have no counterpart."""
    names = {node.operator.name for node in order if node.operator is not None}
    return sorted(names - FORWARDS.keys())


def _of(*names: str) -> Callable[[Forward], Forward]:
    def register(forward: Forward) -> Forward:
        FORWARDS.update(dict.fromkeys(names, forward))
        return forward

    return register


for _name, _scalar in _SCALARS.items():
    FORWARDS[_name] = lambda params, training, x, scalar=_scalar: scalar(x, params.scalar)
for _name, _function in _UNARY.items():
    FORWARDS[_name] = lambda params, training, x, function=_function: function(x)
for _name, _both in _BINARY.items():
    for _spelt in (f"broadcast_{_name}", f"elemwise_{_name}", f"_{_name}"):
        FORWARDS[_spelt] = lambda params, training, x, y, both=_both: both(x, y)


@_of("Convolution")
def _convolution(params: Any, training: bool, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    window = params.window
    if window.channels_last:
        x, weight = x.movedim(-1, 1), weight.movedim(-1, 1)
    y = _CONVOLUTIONS[window.rank](
        x, weight, bias, window.stride, tuple(low for low, _ in window.pad), window.dilation, window.groups
    )
    return y.movedim(1, -1) if window.channels_last else y


@_of("Deconvolution")
def _deconvolution(params: Any, training: bool, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    window = params.window
    if window.channels_last:
        x, weight = x.movedim(-1, 1), weight.movedim(-1, 1)
    axes = [window.large_axis("Deconvolution", axis, size) for axis, size in enumerate(x.shape[2:])]
    padding = [(axis.pad_lo, axis.pad_hi - axis.adj) for axis in axes]
    y = conv_transpose(
        window.rank, x, weight, bias, window.stride, padding, groups=window.groups, dilation=window.dilation
    )
    return y.movedim(1, -1) if window.channels_last else y


@_of("FullyConnected")
def _fully_connected(params: Any, training: bool, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x.flatten(1) if params.flatten else x, weight, None if bias is None else bias.reshape(-1))


@_of("Activation")
def _activation(params: Any, training: bool, x: Tensor) -> Tensor:
    return F.softplus(x) if params.act_type == "softrelu" else _UNARY[params.act_type](x)


@_of("LeakyReLU")
def _leaky_relu(params: Any, training: bool, x: Tensor, gamma: Tensor | None = None) -> Tensor:
    if gamma is not None:
        return F.prelu(x, gamma)
    if params.act_type == "elu":
        return F.elu(x, params.slope)
    if params.act_type == "selu":
        return F.selu(x)
    if params.act_type == "gelu":
        return F.gelu(x)
    if params.act_type == "rrelu":
        return F.rrelu(x, params.lower_bound, params.upper_bound, training)
    return F.leaky_relu(x, params.slope)


@_of("BatchNorm")
def _batch_norm(
    params: Any, training: bool, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    x = x.movedim(params.axis, 1)
    scale = torch.ones_like(gamma) if params.fix_gamma else gamma
    batch = training and not params.use_global_stats
    if batch:
        # MXNet's moving variance is that of the batch, where PyTorch would scale it by n / (n - 1).
        with torch.no_grad():
            now, middle = torch.var_mean(x, (0, *range(2, x.dim())), correction=0)
            mean.mul_(params.momentum).add_(middle, alpha=1 - params.momentum)
            variance.mul_(params.momentum).add_(now, alpha=1 - params.momentum)
        y = F.batch_norm(x, None, None, scale, beta, True, 0.0, params.eps)
    else:
        y = F.batch_norm(x, mean, variance, scale, beta, False, 0.0, params.eps)
    return y.movedim(1, params.axis)


@_of("Pooling")
def _pooling(params: Any, training: bool, x: Tensor) -> Tensor:
    windows = [one for one in windows_of(params, tuple(x.shape)) if one is not None]
    last = x.dim() - 1 not in {one.axis for one in windows}
    if last:
        x = x.movedim(-1, 1)
    greatest = params.pool_type == "max"
    highs = [max((w.out - 1) * w.stride + w.kernel - w.size - w.pad, 0) for w in windows]
    margins = [width for w, high in reversed(list(zip(windows, highs))) for width in (w.pad, high)]
    wide = F.pad(x, margins, value=-torch.inf if greatest else 0.0) if any(margins) else x
    kernel, stride = [w.kernel for w in windows], [w.stride for w in windows]
    rank = len(windows)
    if greatest:
        y = getattr(F, f"max_pool{rank}d")(wide, kernel, stride)
    else:
        taken = wide.abs() ** params.p_value if params.pool_type == "lp" else wide
        count = 1
        for size in kernel:
            count *= size
        y = getattr(F, f"avg_pool{rank}d")(taken, kernel, stride) * count
        if params.pool_type == "lp":
            y = y ** (1 / params.p_value)
        if params.pool_type == "avg":
            for axis, w in enumerate(windows):
                counts = w.counts if params.count_include_pad is False else w.padded_counts
                shape = [-1 if place == axis else 1 for place in range(rank)]
                y = y / torch.from_numpy(counts).clamp(min=1).reshape(shape).to(y)
    kept = (slice(None), slice(None), *(slice(w.out) for w in windows))
    y = y[kept]
    return y.movedim(1, -1) if last else y


@_of("UpSampling")
def _up_sampling(params: Any, training: bool, x: Tensor, weight: Tensor | None = None) -> Tensor:
    scale = params.scale
    if weight is None:
        return F.interpolate(x, scale_factor=scale, mode="nearest")
    return conv_transpose(2, x, weight, None, scale, scale // 2, groups=x.shape[1])


@_of("Dropout")
def _dropout(params: Any, training: bool, x: Tensor) -> Tensor:
    active = training or params.mode == "always"
    if not active or not params.axes:
        return F.dropout(x, params.p, active)
    shape = [1 if axis in params.axes else size for axis, size in enumerate(x.shape)]
    return x * F.dropout(torch.ones(shape, dtype=x.dtype, device=x.device), params.p)


@_of("Concat")
def _concat(params: Any, training: bool, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, params.dim)


@_of("add_n")
def _add_n(params: Any, training: bool, first: Tensor, *others: Tensor) -> Tensor:
    return sum(others, start=first)


@_of("SliceChannel")
def _slice_channel(params: Any, training: bool, x: Tensor) -> tuple[Tensor, ...]:
    parts = x.chunk(params.num_outputs, params.axis)
    return tuple(part.squeeze(params.axis) for part in parts) if params.squeeze_axis else tuple(parts)


@_of("slice")
def _slice(params: Any, training: bool, x: Tensor) -> Tensor:
    for axis, (begin, end) in enumerate(zip(params.begin, params.end)):
        step = (params.step[axis] if params.step else None) or 1
        places = slice(begin, end, step)
        if step < 0:
            # PyTorch steps forwards only.
            backwards = range(*places.indices(x.shape[axis]))
            x = x.index_select(axis, torch.tensor(backwards, dtype=torch.int64, device=x.device))
        else:
            x = x[(slice(None),) * axis + (places,)]
    return x


@_of("slice_axis")
def _slice_axis(params: Any, training: bool, x: Tensor) -> Tensor:
    axis = params.axis % x.dim()
    return x[(slice(None),) * axis + (slice(params.begin, params.end),)]


@_of("Crop")
def _crop(params: Any, training: bool, x: Tensor, like: Tensor | None = None) -> Tensor:
    sizes = params.h_w if like is None else like.shape[2:]
    spare = [a - b for a, b in zip(x.shape[2:], sizes)]
    starts = [size // 2 for size in spare] if params.center_crop else params.offset
    (top, left), (height, width) = starts, sizes
    return x[:, :, top : top + height, left : left + width]


@_of("reverse")
def _reverse(params: Any, training: bool, x: Tensor) -> Tensor:
    return x.flip(params.axis)


@_of("Pad")
def _pad(params: Any, training: bool, x: Tensor) -> Tensor:
    pairs = list(zip(params.pad_width[::2], params.pad_width[1::2]))
    if params.mode == "constant":
        return F.pad(x, [width for pair in reversed(pairs) for width in pair], value=params.constant_value)
    spatial = [width for pair in reversed(pairs[2:]) for width in pair]
    return F.pad(x, spatial, mode="replicate" if params.mode == "edge" else "reflect")


@_of("Reshape")
def _reshape(params: Any, training: bool, x: Tensor) -> Tensor:
    _, (shape,) = find("Reshape").shape(params, [tuple(x.shape)], [None])
    return x.reshape(shape)


@_of("Flatten")
def _flatten(params: Any, training: bool, x: Tensor) -> Tensor:
    return x.flatten(1)


@_of("transpose")
def _transpose(params: Any, training: bool, x: Tensor) -> Tensor:
    return x.permute(params.axes or tuple(reversed(range(x.dim()))))


@_of("expand_dims")
def _expand_dims(params: Any, training: bool, x: Tensor) -> Tensor:
    return x.unsqueeze(params.axis)


@_of("clip")
def _clip(params: Any, training: bool, x: Tensor) -> Tensor:
    return x.clamp(params.a_min, params.a_max)


@_of("SoftmaxActivation")
def _softmax_activation(params: Any, training: bool, x: Tensor) -> Tensor:
    return F.softmax(x, 1) if params.mode == "channel" else F.softmax(x.flatten(1), 1).reshape(x.shape)


@_of("softmax")
def _softmax(params: Any, training: bool, x: Tensor) -> Tensor:
    return F.softmax(x / (params.temperature or 1.0), params.axis)


@_of("SoftmaxOutput")
def _softmax_output(params: Any, training: bool, x: Tensor, label: Tensor | None = None) -> Tensor:
    if params.multi_output:
        return F.softmax(x, 1)
    return F.softmax(x, -1) if params.preserve_shape else F.softmax(x.flatten(1), 1).reshape(x.shape)


@_of("LinearRegressionOutput", "MAERegressionOutput")
def _regression_output(params: Any, training: bool, x: Tensor, label: Tensor | None = None) -> Tensor:
    return x


@_of("LogisticRegressionOutput")
def _logistic_output(params: Any, training: bool, x: Tensor, label: Tensor | None = None) -> Tensor:
    return torch.sigmoid(x)
