"""Parallel branches and pixel shuffling (`mx.gluon.contrib.nn`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tconv import ndarray
from tconv.gluon import errors
from tconv.gluon.block import HybridBlock
from tconv.gluon.nn.basic import HybridSequential, Sequential

__all__ = [
    "Concurrent",
    "HybridConcurrent",
    "Identity",
    "PixelShuffle1D",
    "PixelShuffle2D",
    "PixelShuffle3D",
]


class Concurrent(Sequential):
    """Blocks that all run on the input, their outputs put one after another along an axis.

    Parameters
    ----------
    axis : int
        The axis.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def forward(self, x: Any) -> Any:
        """Run all blocks on `x` and join their outputs."""
        return ndarray.concat(*(block(x) for block in self._children.values()), dim=self.axis)


class HybridConcurrent(HybridSequential):
    """Hybrid blocks that all run on the input, their outputs put one after another along an axis.

    Parameters
    ----------
    axis : int
        The axis.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Run all blocks on `x` and join their outputs."""
        return ops.concat(*(block(x) for block in self._children.values()), dim=self.axis)


class Identity(HybridBlock):
    """The input itself, as for one branch of `HybridConcurrent`."""

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Return `x`."""
        return x


class _PixelShuffle(HybridBlock):
    _rank = 0

    def __init__(self, factor: int | Sequence[int]) -> None:
        super().__init__()
        factors = (factor,) * self._rank if isinstance(factor, int) else tuple(int(value) for value in factor)
        if len(factors) != self._rank:
            raise errors.AssertionError(
                f"{type(self).__name__}: factor: got {factor}; need an int or {self._rank} ints"
            )
        self._factors = factors

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._factors[0] if self._rank == 1 else self._factors})"


class PixelShuffle1D(_PixelShuffle):
    """(N, f * C, W) to (N, C, f * W).

    Parameters
    ----------
    factor : int or sequence of int
        The factor f.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.contrib.nn.PixelShuffle1D(2)(mx.nd.ones((1, 8, 3))).shape
    (1, 4, 6)
    """

    _rank = 1

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Move channels into the line."""
        (f,) = self._factors
        split = ops.reshape(x, (0, -4, -1, f, 0))  # N C f W
        return ops.reshape(ops.transpose(split, (0, 1, 3, 2)), (0, 0, -3))


class PixelShuffle2D(_PixelShuffle):
    """(N, f1 * f2 * C, H, W) to (N, C, f1 * H, f2 * W).

    Parameters
    ----------
    factor : int or sequence of int
        The factors f1 and f2.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.contrib.nn.PixelShuffle2D((2, 3))(mx.nd.ones((1, 12, 3, 5))).shape
    (1, 2, 6, 15)
    """

    _rank = 2

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Move channels into the image."""
        f1, f2 = self._factors
        split = ops.reshape(x, (0, -4, -1, f1 * f2, 0, 0))  # N C f1*f2 H W
        split = ops.reshape(split, (0, 0, -4, f1, f2, 0, 0))  # N C f1 f2 H W
        return ops.reshape(ops.transpose(split, (0, 1, 4, 2, 5, 3)), (0, 0, -3, -3))


class PixelShuffle3D(_PixelShuffle):
    """(N, f1 * f2 * f3 * C, D, H, W) to (N, C, f1 * D, f2 * H, f3 * W).

    Parameters
    ----------
    factor : int or sequence of int
        The factors f1, f2 and f3.
    """

    _rank = 3

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Move channels into the volume, axis by axis, as MXNet cannot transpose eight axes at once."""
        f1, f2, f3 = self._factors
        x = ops.reshape(x, (0, -4, -1, f1 * f2 * f3, 0, 0, 0))  # N C f1*f2*f3 D H W
        x = ops.reshape(ops.swapaxes(x, 2, 3), (0, 0, 0, -4, f1, f2 * f3, 0, 0))  # N C D f1 f2*f3 H W
        x = ops.swapaxes(ops.reshape(x, (0, 0, -3, 0, 0, 0)), 3, 4)  # N C D*f1 H f2*f3 W
        x = ops.reshape(x, (0, 0, 0, 0, -4, f2, f3, 0))  # N C D*f1 H f2 f3 W
        x = ops.swapaxes(ops.reshape(x, (0, 0, 0, -3, 0, 0)), 4, 5)  # N C D*f1 H*f2 W f3
        return ops.reshape(x, (0, 0, 0, 0, -3))
