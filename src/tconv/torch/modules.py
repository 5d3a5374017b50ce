"""PyTorch's layers, computed by tconv: sub-classes with the same arguments, parameters and state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tconv.torch.functional import conv_transpose


class _Accelerated:
    """The forward pass of the layers below, ahead of PyTorch's."""

    def forward(self: Any, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Compute as PyTorch's layer of this name does."""
        rank = len(self.kernel_size)
        output_padding = self.output_padding
        if output_size is not None:
            output_padding = self._output_padding(
                input, output_size, self.stride, self.padding, self.kernel_size, rank, self.dilation
            )
        return conv_transpose(
            rank,
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
        )


class ConvTranspose1d(_Accelerated, torch.nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d`, computed by tconv.

    Examples
    --------
    >>> import torch
    >>> import tconv.torch
    >>> up = tconv.torch.ConvTranspose1d(16, 8, kernel_size=16, stride=8, padding=4)
    >>> up(torch.ones(1, 16, 100)).shape
    torch.Size([1, 8, 800])
    """


class ConvTranspose2d(_Accelerated, torch.nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, computed by tconv.

    Examples
    --------
    >>> import torch
    >>> import tconv.torch
    >>> up = tconv.torch.ConvTranspose2d(16, 8, kernel_size=4, stride=2, padding=1)
    >>> up.load_state_dict(torch.nn.ConvTranspose2d(16, 8, 4, 2, 1).state_dict())
    <All keys matched successfully>
    """


class ConvTranspose3d(_Accelerated, torch.nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d`, computed by tconv.

    Examples
    --------
    >>> import torch
    >>> import tconv.torch
    >>> up = tconv.torch.ConvTranspose3d(4, 2, kernel_size=2, stride=2)
    >>> up(torch.ones(1, 4, 3, 5, 5), output_size=(7, 11, 11)).shape
    torch.Size([1, 2, 7, 11, 11])
    """
