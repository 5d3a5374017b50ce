"""Pooling over windows and over whole images, and padding by reflection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tconv.gluon import errors
from tconv.gluon.block import HybridBlock
from tconv.gluon.nn.convolution import Sizes, checked_layout, checked_sizes, sizes_of

__all__ = [
    "AvgPool1D",
    "AvgPool2D",
    "AvgPool3D",
    "GlobalAvgPool1D",
    "GlobalAvgPool2D",
    "GlobalAvgPool3D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "GlobalMaxPool3D",
    "MaxPool1D",
    "MaxPool2D",
    "MaxPool3D",
    "ReflectionPad2D",
]


class _Pooling(HybridBlock):
    """A window, or the whole image, reduced to one value.

    Parameters
    ----------
    pool_size, strides, padding : int or sequence of int
        The window, one number an axis; strides are `pool_size` if None.
    ceil_mode : bool
        Whether a window that begins inside and ends outside counts.
    global_pool : bool
        Whether the window is the whole image.
    pool_type : {'max', 'avg'}
        What becomes of its values.
    layout : str
        Order of the axes.
    count_include_pad : bool, optional
        Whether a mean counts padded positions.

    Raises
    ------
    ArgumentError
        If a size has another number of entries than there are axes, or the layout is of another number.
    """

    _layouts: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        pool_size: Sizes,
        strides: Sizes | None,
        padding: Sizes,
        ceil_mode: bool,
        global_pool: bool,
        pool_type: str,
        layout: str | None,
        count_include_pad: bool | None = None,
        **kwargs: Any,
    ) -> None:
        layer = type(self).__name__
        layout = checked_layout(layer, layout or self._layouts[0], self._layouts)
        rank = len(layout) - 2
        window = checked_sizes(layer, "pool_size", pool_size, rank)
        super().__init__(**kwargs)
        self._kwargs: dict[str, Any] = {
            "kernel": window,
            "stride": window if strides is None else sizes_of(strides, rank),
            "pad": sizes_of(padding, rank),
            "global_pool": global_pool,
            "pool_type": pool_type,
            "layout": layout,
            "pooling_convention": "full" if ceil_mode else "valid",
        }
        if count_include_pad is not None:
            self._kwargs["count_include_pad"] = count_include_pad

    def _alias(self) -> str:
        return "pool"

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Compute the output."""
        return ops.Pooling(x, name="fwd", **self._kwargs)

    def __repr__(self) -> str:
        options = self._kwargs
        return (
            f"{type(self).__name__}(size={options['kernel']}, stride={options['stride']}, "
            f"padding={options['pad']}, ceil_mode={options['pooling_convention'] == 'full'}, "
            f"global_pool={options['global_pool']}, pool_type={options['pool_type']}, layout={options['layout']})"
        )


class MaxPool1D(_Pooling):
    """Largest value of each window of one axis; arguments as of `MaxPool2D`."""

    _layouts = ("NCW", "NWC")

    def __init__(
        self,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: Sizes = 0,
        layout: str | None = None,
        ceil_mode: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, ceil_mode, False, "max", layout, **kwargs)


class MaxPool2D(_Pooling):
    """Largest value of each window of two axes.

    Parameters
    ----------
    pool_size, strides, padding : int or sequence of int
        The window, one number an axis; strides are `pool_size` if None.
    layout : str, optional
        Order of the axes; channel first by default.
    ceil_mode : bool
        Whether a window that begins inside and ends outside counts.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.nn.MaxPool2D()(mx.nd.ones((1, 3, 8, 8))).shape
    (1, 3, 4, 4)
    """

    _layouts = ("NCHW", "NHWC")

    def __init__(
        self,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: Sizes = 0,
        layout: str | None = None,
        ceil_mode: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, ceil_mode, False, "max", layout, **kwargs)


class MaxPool3D(_Pooling):
    """Largest value of each window of three axes; arguments as of `MaxPool2D`, `ceil_mode` before `layout`."""

    _layouts = ("NCDHW", "NDHWC")

    def __init__(
        self,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        layout: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, ceil_mode, False, "max", layout, **kwargs)


class AvgPool1D(_Pooling):
    """Mean of each window of one axis; arguments as of `AvgPool2D`, `layout` before `ceil_mode`."""

    _layouts = ("NCW", "NWC")

    def __init__(
        self,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: Sizes = 0,
        layout: str | None = None,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, ceil_mode, False, "avg", layout, count_include_pad, **kwargs)


class AvgPool2D(_Pooling):
    """Mean of each window of two axes.

    Parameters
    ----------
    pool_size, strides, padding : int or sequence of int
        The window, one number an axis; strides are `pool_size` if None.
    ceil_mode : bool
        Whether a window that begins inside and ends outside counts.
    layout : str, optional
        Order of the axes; channel first by default.
    count_include_pad : bool
        Whether padded positions count in the mean.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.nn.AvgPool2D(2, padding=1)(mx.nd.ones((1, 1, 2, 2))).asnumpy().tolist()
    [[[[0.25, 0.25], [0.25, 0.25]]]]
    """

    _layouts = ("NCHW", "NHWC")

    def __init__(
        self,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        layout: str | None = None,
        count_include_pad: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, ceil_mode, False, "avg", layout, count_include_pad, **kwargs)


class AvgPool3D(_Pooling):
    """Mean of each window of three axes; arguments as of `AvgPool2D`."""

    _layouts = ("NCDHW", "NDHWC")

    def __init__(
        self,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        layout: str | None = None,
        count_include_pad: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, ceil_mode, False, "avg", layout, count_include_pad, **kwargs)


class _GlobalPooling(_Pooling):
    _reduction: ClassVar[str] = ""

    def __init__(self, layout: str | None = None, **kwargs: Any) -> None:
        super().__init__(1, None, 0, True, True, self._reduction, layout, **kwargs)


class GlobalMaxPool1D(_GlobalPooling):
    """Largest value of each channel, (N, C, W) to (N, C, 1)."""

    _layouts = ("NCW", "NWC")
    _reduction = "max"


class GlobalMaxPool2D(_GlobalPooling):
    """Largest value of each channel, (N, C, H, W) to (N, C, 1, 1)."""

    _layouts = ("NCHW", "NHWC")
    _reduction = "max"


class GlobalMaxPool3D(_GlobalPooling):
    """Largest value of each channel, (N, C, D, H, W) to (N, C, 1, 1, 1)."""

    _layouts = ("NCDHW", "NDHWC")
    _reduction = "max"


class GlobalAvgPool1D(_GlobalPooling):
    """Mean of each channel, (N, C, W) to (N, C, 1)."""

    _layouts = ("NCW", "NWC")
    _reduction = "avg"


class GlobalAvgPool2D(_GlobalPooling):
    """Mean of each channel, (N, C, H, W) to (N, C, 1, 1)."""

    _layouts = ("NCHW", "NHWC")
    _reduction = "avg"


class GlobalAvgPool3D(_GlobalPooling):
    """Mean of each channel, (N, C, D, H, W) to (N, C, 1, 1, 1)."""

    _layouts = ("NCDHW", "NDHWC")
    _reduction = "avg"


class ReflectionPad2D(HybridBlock):
    """Images (N, C, H, W) continued beyond their edges by reflection.

    Parameters
    ----------
    padding : int or sequence of int
        Positions on each side; or eight numbers, before and after for each axis.

    Raises
    ------
    ArgumentError
        If there are not eight.
    """

    def __init__(self, padding: int | Sequence[int] = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = (0, 0, 0, 0, *(padding,) * 4) if isinstance(padding, int) else tuple(padding)
        if len(width) != 8:
            raise errors.AssertionError(f"ReflectionPad2D: padding: got {padding}; need an int or 8 ints")
        self._padding = width

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Compute the output."""
        return ops.pad(x, mode="reflect", pad_width=self._padding)
