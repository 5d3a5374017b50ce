"""Convolutions and transposed convolutions of one, two and three axes."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, ClassVar

from tconv.errors import MXNetError, ParameterError, ShapeError
from tconv.gluon import errors
from tconv.gluon.block import HybridBlock
from tconv.gluon.nn.activations import Activation
from tconv.gluon.parameter import Parameter, ParameterDict
from tconv.operators import registry
from tconv.params import to_text

__all__ = ["Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D", "Conv3DTranspose"]

Sizes = int | Sequence[int]


def sizes_of(value: Sizes, rank: int) -> Sequence[int]:
    """Return one size an axis, a number being repeated; a sequence is returned as it is."""
    return (value,) * rank if isinstance(value, numbers.Number) else value  # type: ignore[return-value]


def checked_sizes(layer: str, name: str, value: Sizes, rank: int) -> Sequence[int]:
    """Return one size an axis.

    Raises
    ------
    ArgumentError
        If there are more or fewer.
    """
    sizes = sizes_of(value, rank)
    if len(sizes) != rank:
        raise errors.AssertionError(f"{layer}: {name}: got {value}; need an int or {rank} ints")
    return sizes


def checked_layout(layer: str, layout: str, layouts: tuple[str, ...]) -> str:
    """Return `layout`.

    Raises
    ------
    ArgumentError
        If it is not among `layouts`.
    """
    if layout not in layouts:
        raise errors.AssertionError(f"{layer}: layout: got {layout!r}; need one of {', '.join(layouts)}")
    return layout


class _Window(HybridBlock):
    """A layer with weight, optional bias and activation around an operator that slides a window."""

    _layouts: ClassVar[tuple[str, ...]] = ()

    weight: Parameter
    bias: Parameter | None
    act: Activation | None

    def __init__(
        self,
        op_name: str,
        channels: int,
        kernel_size: Sizes,
        strides: Sizes,
        padding: Sizes,
        dilation: Sizes,
        groups: int,
        layout: str | None,
        activation: str | None,
        use_bias: bool,
        weight_initializer: Any,
        bias_initializer: Any,
        in_channels: int,
        prefix: str | None,
        params: ParameterDict | None,
        **own: Any,
    ) -> None:
        layer = type(self).__name__
        layout = checked_layout(layer, layout or self._layouts[0], self._layouts)
        rank = len(layout) - 2
        kernel_size = checked_sizes(layer, "kernel_size", kernel_size, rank)
        super().__init__(prefix=prefix, params=params)
        self._channels = channels
        self._in_channels = in_channels
        self._op_name = op_name
        self._kwargs = {
            "kernel": kernel_size,
            "stride": sizes_of(strides, rank),
            "dilate": sizes_of(dilation, rank),
            "pad": sizes_of(padding, rank),
            "num_filter": channels,
            "num_group": groups,
            "no_bias": not use_bias,
            "layout": layout,
            **own,
        }
        with self.name_scope():
            self.weight = self.params.get(
                "weight", shape=self._weight_shape(layout), init=weight_initializer, allow_deferred_init=True
            )
            self.bias = None
            if use_bias:
                self.bias = self.params.get(
                    "bias", shape=(channels,), init=bias_initializer, allow_deferred_init=True
                )
            self.act = None if activation is None else Activation(activation, prefix=activation + "_")

    def _weight_shape(self, layout: str) -> tuple[int, ...]:
        operator = registry.find(self._op_name)
        data: list[int | None] = [None] * len(layout)
        data[layout.index("N")] = 1
        data[layout.index("C")] = self._in_channels or None
        try:
            params = operator.params.parse({key: to_text(value) for key, value in self._kwargs.items()})
            names = operator.input_names(params)
            shapes = [tuple(data), *[None] * (len(names) - 1)]
            inputs, _ = registry.infer_shapes(operator, params, shapes, [None])
        except (ParameterError, ShapeError) as error:
            # As from a call of the layer.
            raise MXNetError(f"{self.name}: {error}") from error
        return tuple(size or 0 for size in inputs[names.index("weight")] or ())

    def _alias(self) -> str:
        return "conv"

    def hybrid_forward(self, ops: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        """Compute the output."""
        inputs = (x, weight) if bias is None else (x, weight, bias)
        out = getattr(ops, self._op_name)(*inputs, name="fwd", **self._kwargs)
        return out if self.act is None else self.act(out)

    def __repr__(self) -> str:
        options = self._kwargs
        shape = self.weight.shape or (0, 0)
        # First and second size of the weight, whatever they mean for the operator, as MXNet prints them.
        parts = [
            f"{shape[1] or None} -> {shape[0]}",
            f"kernel_size={options['kernel']}",
            f"stride={options['stride']}",
        ]
        if any(options["pad"]):
            parts.append(f"padding={options['pad']}")
        if any(size != 1 for size in options["dilate"]):
            parts.append(f"dilation={options['dilate']}")
        if options["num_group"] != 1:
            parts.append(f"groups={options['num_group']}")
        if self.bias is None:
            parts.append("bias=False")
        if self.act is not None:
            parts.append(repr(self.act))
        return f"{type(self).__name__}({', '.join(parts)})"


class _Conv(_Window):
    def __init__(
        self,
        channels: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        layout: str | None = None,
        activation: str | None = None,
        use_bias: bool = True,
        weight_initializer: Any = None,
        bias_initializer: Any = "zeros",
        in_channels: int = 0,
        op_name: str = "Convolution",
        prefix: str | None = None,
        params: ParameterDict | None = None,
    ) -> None:
        """Make the layer.

        Parameters
        ----------
        channels : int
            Number of output channels.
        kernel_size, strides, padding, dilation : int or sequence of int
            The window, one number an axis; an int is repeated.
        groups : int
            Number of groups of channels that do not see each other.
        layout : str, optional
            Order of the axes of data and output; channel first by default.
        activation : str, optional
            An `Activation` to end with.
        use_bias : bool
            Whether there is a bias.
        weight_initializer, bias_initializer : Initializer or str, optional
            How weight and bias start.
        in_channels : int
            Number of input channels; 0 to learn it from the first input.
        op_name : str
            The operator.
        prefix, params
            As of `Block`.

        Raises
        ------
        ArgumentError
            If a size has another number of entries than there are axes, or the layout is of another number.
        MXNetError
            If the operator refuses the window.
        """
        super().__init__(
            op_name,
            channels,
            kernel_size,
            strides,
            padding,
            dilation,
            groups,
            layout,
            activation,
            use_bias,
            weight_initializer,
            bias_initializer,
            in_channels,
            prefix,
            params,
        )


class _ConvTranspose(_Window):
    def __init__(
        self,
        channels: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        layout: str | None = None,
        activation: str | None = None,
        use_bias: bool = True,
        weight_initializer: Any = None,
        bias_initializer: Any = "zeros",
        in_channels: int = 0,
        op_name: str = "Deconvolution",
        prefix: str | None = None,
        params: ParameterDict | None = None,
    ) -> None:
        """Make the layer.

        Parameters
        ----------
        channels : int
            Number of output channels.
        kernel_size, strides, padding, dilation : int or sequence of int
            The window, one number an axis; an int is repeated.
        output_padding : int or sequence of int
            Positions added at the high end of the output, the operator's `adj`; below the stride.
        groups : int
            Number of groups of channels that do not see each other.
        layout : str, optional
            Order of the axes of data and output; channel first by default.
        activation : str, optional
            An `Activation` to end with.
        use_bias : bool
            Whether there is a bias.
        weight_initializer, bias_initializer : Initializer or str, optional
            How weight and bias start.
        in_channels : int
            Number of input channels; 0 to learn it from the first input.
        op_name : str
            The operator.
        prefix, params
            As of `Block`.

        Raises
        ------
        ArgumentError
            If a size has another number of entries than there are axes, or the layout is of another number.
        MXNetError
            If the operator refuses the window.
        """
        adj = checked_sizes(type(self).__name__, "output_padding", output_padding, len(self._layouts[0]) - 2)
        super().__init__(
            op_name,
            channels,
            kernel_size,
            strides,
            padding,
            dilation,
            groups,
            layout,
            activation,
            use_bias,
            weight_initializer,
            bias_initializer,
            in_channels,
            prefix,
            params,
            adj=adj,
        )
        self.outpad = adj


class Conv1D(_Conv):
    """Convolution over one axis: data (N, C, W) to (N, channels, out).

    Examples
    --------
    >>> import tconv as mx
    >>> layer = mx.gluon.nn.Conv1D(4, 3, padding=1, in_channels=2)
    >>> layer.initialize()
    >>> layer(mx.nd.ones((1, 2, 9))).shape
    (1, 4, 9)
    """

    _layouts = ("NCW", "NWC")


class Conv2D(_Conv):
    """Convolution over two axes: data (N, C, H, W) to (N, channels, out...).

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.nn.Conv2D(8, (3, 5), strides=2, in_channels=3)
    Conv2D(3 -> 8, kernel_size=(3, 5), stride=(2, 2))
    """

    _layouts = ("NCHW", "NHWC")


class Conv3D(_Conv):
    """Convolution over three axes: data (N, C, D, H, W) to (N, channels, out...).

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.nn.Conv3D(8, 3, use_bias=False, in_channels=1)
    Conv3D(1 -> 8, kernel_size=(3, 3, 3), stride=(1, 1, 1), bias=False)
    """

    _layouts = ("NCDHW", "NDHWC")


class Conv1DTranspose(_ConvTranspose):
    """Transposed convolution over one axis: data (N, C, W) to (N, channels, out).

    Along the axis `out = (size - 1) * stride + (kernel - 1) * dilation + 1 - 2 * padding + output_padding`; the
    weight is (C, channels / groups, kernel).

    Examples
    --------
    >>> import tconv as mx
    >>> layer = mx.gluon.nn.Conv1DTranspose(4, 16, strides=8, padding=4)
    >>> layer.initialize()
    >>> layer(mx.nd.ones((1, 2, 10))).shape
    (1, 4, 80)
    """

    _layouts = ("NCW", "NWC")


class Conv2DTranspose(_ConvTranspose):
    """Transposed convolution over two axes: data (N, C, H, W) to (N, channels, out...).

    Along each axis `out = (size - 1) * stride + (kernel - 1) * dilation + 1 - 2 * padding + output_padding`; the
    weight is (C, channels / groups, kernel...).

    Examples
    --------
    >>> import tconv as mx
    >>> layer = mx.gluon.nn.Conv2DTranspose(3, 4, strides=2, padding=1)
    >>> layer.initialize()
    >>> layer(mx.nd.ones((1, 16, 8, 8))).shape
    (1, 3, 16, 16)
    """

    _layouts = ("NCHW", "NHWC")


class Conv3DTranspose(_ConvTranspose):
    """Transposed convolution over three axes: data (N, C, D, H, W) to (N, channels, out...).

    Along each axis `out = (size - 1) * stride + (kernel - 1) * dilation + 1 - 2 * padding + output_padding`; the
    weight is (C, channels / groups, kernel...).

    Examples
    --------
    >>> import tconv as mx
    >>> layer = mx.gluon.nn.Conv3DTranspose(1, 2, strides=2, in_channels=4)
    >>> layer.weight.shape
    (4, 1, 2, 2, 2)
    """

    _layouts = ("NCDHW", "NDHWC")
