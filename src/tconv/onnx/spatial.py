"""Operators with windows, and those that normalize: what networks of images are made of."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tconv.onnx.graph import Site, converts
from tconv.operators.pooling import PoolingParams
from tconv.params import ConvolutionParams, DeconvolutionParams

IN_FRONT = {1: (0, 2, 1), 2: (0, 3, 1, 2), 3: (0, 4, 1, 2, 3)}
"""By spatial rank: the order that brings the channels of a channel-last array to the front."""
BEHIND = {1: (0, 2, 1), 2: (0, 2, 3, 1), 3: (0, 2, 3, 4, 1)}


def _with_window(site: Site, op: str, **attributes: object) -> str:
    """Append a convolution of either kind, between transposes where channels come last."""
    window = site.params.window
    data, weight, *bias = site.inputs
    if window.channels_last:
        data, weight = (site.transpose(name, IN_FRONT[window.rank]) for name in (data, weight))
    out = site.add(
        op,
        *(data, weight, *bias),
        kernel_shape=list(window.kernel),
        strides=list(window.stride),
        dilations=list(window.dilation),
        group=window.groups,
        **attributes,
    )
    return site.transpose(out, BEHIND[window.rank]) if window.channels_last else out


@converts("Convolution")
def _convolution(site: Site) -> str:
    params: ConvolutionParams = site.params
    pads = params.window.pad
    return _with_window(site, "Conv", pads=[low for low, _ in pads] + [high for _, high in pads])


@converts("Deconvolution")
def _deconvolution(site: Site) -> str:
    params: DeconvolutionParams = site.params
    window = params.window
    pads, adj = window.pad, window.adj
    if window.target is not None:
        first = 1 if window.channels_last else 2
        axes = [window.large_axis(site.operator, n, site.size(0, first + n)) for n in range(window.rank)]
        pads, adj = tuple((axis.pad_lo, axis.pad_hi) for axis in axes), tuple(axis.adj for axis in axes)
    return _with_window(
        site,
        "ConvTranspose",
        pads=[low for low, _ in pads] + [high for _, high in pads],
        output_padding=list(adj) if any(adj) else None,
    )


def _margins(
    site: Site, params: PoolingParams, spatial: Sequence[int | None], out: Sequence[int | None]
) -> tuple[list[int], list[int], bool]:
    """Return margins of a pooling with which every window lies within, and whether ONNX has to round up instead."""
    low = list(params.pad) or [0] * len(params.kernel)
    strides = params.stride or (1,) * len(params.kernel)
    if params.pooling_convention == "same":
        return low, [pad + kernel - 1 for pad, kernel in zip(low, params.kernel)], False
    if params.pooling_convention == "valid":
        return low, low, False
    high = []
    for size, count, kernel, stride, pad in zip(spatial, out, params.kernel, strides, low):
        if size is None or count is None:
            return low, low, True
        high.append(max((count - 1) * stride + kernel - size - pad, 0))
    return low, high, False


def _divisors(
    site: Site, params: PoolingParams, spatial: Sequence[int | None], out: Sequence[int | None]
) -> np.ndarray:
    """Return what a mean divides by, for every window."""
    if None in spatial or None in out:
        raise site.refusal(
            "pooling_convention",
            f"{params.pooling_convention!r} of means of varying size",
            "fixed height and width",
        )
    strides, pads = params.stride or (1,) * len(out), params.pad or (0,) * len(out)
    divisors = np.ones((1,) * len(out))
    for axis, (size, count, kernel, stride, pad) in enumerate(zip(spatial, out, params.kernel, strides, pads)):
        starts = np.arange(count or 0) * stride - pad
        ends = np.minimum(starts + kernel, (size or 0) + pad)
        if params.count_include_pad is False:
            starts, ends = np.maximum(starts, 0), np.minimum(ends, size or 0)
        shape = [-1 if other == axis else 1 for other in range(len(out))]
        divisors = divisors * np.maximum(ends - starts, 1).reshape(shape)
    return divisors


@converts("Pooling")
def _pooling(site: Site) -> str:
    params: PoolingParams = site.params
    (data,), rank = site.inputs, site.rank() - 2
    last = params.layout is not None and params.layout.endswith("C")
    axes = list(range(1, rank + 1) if last else range(2, rank + 2))
    power = params.p_value or 1
    if params.pool_type == "lp" and power > 1:
        data = site.add("Pow", data, site.number(power))
    if params.global_pool:
        pooled = _global_pooling(site, data, axes)
    else:
        if last:
            data = site.transpose(data, IN_FRONT[rank])
        pooled = _windowed_pooling(site, data, axes)
        if last:
            pooled = site.transpose(pooled, BEHIND[rank])
    if params.pool_type != "lp" or power == 1:
        return pooled
    if power == 2:
        return site.add("Sqrt", pooled)
    root = site.add("Pow", site.add("Abs", pooled), site.number(1 / power))
    return site.add("Mul", site.add("Sign", pooled), root)


def _global_pooling(site: Site, data: str, axes: list[int]) -> str:
    kind = site.params.pool_type
    if kind in ("sum", "lp"):
        return site.add("ReduceSum", data, site.integers(axes))
    return site.add("ReduceMax" if kind == "max" else "ReduceMean", data, axes=axes)


def _windowed_pooling(site: Site, data: str, axes: list[int]) -> str:
    params: PoolingParams = site.params
    shape, out_shape = site.shapes[0], site.out_shapes[0]
    assert shape is not None
    assert out_shape is not None
    spatial, out = [shape[axis] for axis in axes], [out_shape[axis] for axis in axes]
    low, high, rounds_up = _margins(site, params, spatial, out)
    kind, count = params.pool_type, float(prod(params.kernel))
    # A margin as wide as a window is nothing that ONNX's poolings take.
    apart = any(pad >= kernel for pads in (low, high) for pad, kernel in zip(pads, params.kernel))
    if apart:
        least = float(np.finfo(site.dtypes[0]).min) if kind == "max" else 0.0
        margins = site.integers([0, 0, *low, 0, 0, *high])
        data = site.add("Pad", data, margins, site.number(least), mode="constant")
    common = {
        "kernel_shape": list(params.kernel),
        "strides": list(params.stride) or None,
        "pads": [0] * (2 * len(low)) if apart else [*low, *high],
        "ceil_mode": int(rounds_up) or None,
    }
    if kind == "max":
        return site.add("MaxPool", data, **common)
    if kind == "avg" and (rounds_up or (high == low and not apart)):
        return site.add("AveragePool", data, count_include_pad=int(params.count_include_pad is not False), **common)
    if rounds_up:
        _divisors(site, params, spatial, out)
    mean = site.add("AveragePool", data, count_include_pad=1, **common)
    if kind == "avg":
        return site.add("Mul", mean, site.number(count / _divisors(site, params, spatial, out)))
    return site.add("Mul", mean, site.number(count))


@converts("UpSampling")
def _upsampling(site: Site) -> str:
    params = site.params
    if params.sample_type == "bilinear":
        window = params.window(site.size(0, 1))
        pads = [low for low, _ in window.pad] + [high for _, high in window.pad]
        return site.add("ConvTranspose", *site.inputs, strides=list(window.stride), pads=pads, group=window.groups)
    factors = [(params.scale, params.scale)]
    for place in range(1, len(site.inputs)):
        wanted = [params.scale * site.size(0, axis) for axis in (2, 3)]
        factors.append((wanted[0] // site.size(place, 2), wanted[1] // site.size(place, 3)))
    large = []
    for name, (rows, columns) in zip(site.inputs, factors):
        scales = site.constant([1, 1, rows, columns], np.float32)
        mode = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        large.append(site.add("Resize", name, "", scales, **mode))
    if len(large) == 1:
        return large[0]
    return site.add("Sum", *large) if params.multi_input_mode == "sum" else site.add("Concat", *large, axis=1)


@converts("BatchNorm")
def _batch_norm(site: Site) -> str:
    params = site.params
    data, gamma, *rest = site.inputs
    axis = params.axis % site.rank()
    order = [0, axis, *(other for other in range(1, site.rank()) if other != axis)]
    if axis == 0:
        raise site.refusal("axis", params.axis, "an axis other than that of the samples")
    if params.fix_gamma:
        gamma = site.constant(np.ones(site.size(0, axis)), site.dtypes[1])
    out = site.add("BatchNormalization", site.transpose(data, order), gamma, *rest, epsilon=params.eps)
    return site.transpose(out, [order.index(place) for place in range(site.rank())])


@converts("InstanceNorm")
def _instance_norm(site: Site) -> str:
    return site.add("InstanceNormalization", *site.inputs, epsilon=site.params.eps)


@converts("GroupNorm")
def _group_norm(site: Site) -> str:
    data, gamma, beta = site.inputs
    groups = site.reshape(data, [0, site.params.num_groups, -1])
    normal = site.add("InstanceNormalization", groups, gamma, beta, epsilon=site.params.eps)
    return site.add("Reshape", normal, site.shape_of())


@converts("LayerNorm")
def _layer_norm(site: Site) -> str:
    data, gamma, beta = site.inputs
    axis, rank = site.params.axis % site.rank(), site.rank()
    order = [*(other for other in range(rank) if other != axis), axis]
    out = site.add("LayerNormalization", site.transpose(data, order), gamma, beta, axis=-1, epsilon=site.params.eps)
    return site.transpose(out, [order.index(place) for place in range(rank)])


@converts("L2Normalization")
def _l2_normalization(site: Site) -> str:
    (data,), rank = site.inputs, site.rank()
    axes = {"instance": range(1, rank), "channel": [1], "spatial": range(2, rank)}[site.params.mode]
    squares = site.add("ReduceSumSquare", data, axes=list(axes))
    length = site.add("Sqrt", site.add("Add", squares, site.number(site.params.eps)))
    return site.add("Div", data, length)


@converts("LRN")
def _local_response(site: Site) -> str:
    params = site.params
    return site.add(
        "LRN", site.inputs[0], alpha=params.alpha, beta=params.beta, bias=params.knorm, size=params.nsize
    )


@converts("depth_to_space")
def _depth_to_space(site: Site) -> str:
    return site.add("DepthToSpace", site.inputs[0], blocksize=site.params.block_size)


@converts("space_to_depth")
def _space_to_depth(site: Site) -> str:
    return site.add("SpaceToDepth", site.inputs[0], blocksize=site.params.block_size)
