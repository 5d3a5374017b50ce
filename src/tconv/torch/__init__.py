"""PyTorch's transposed convolutions, computed by tconv; needs PyTorch 2.4 or newer."""

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise ImportError("tconv.torch: PyTorch is not installed; install it by: pip install 'tconv[torch]'") from None

from tconv.torch.acceleration import Report, accelerate, patched, restore
from tconv.torch.functional import conv_transpose1d, conv_transpose2d, conv_transpose3d
from tconv.torch.modules import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = [
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Report",
    "accelerate",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "patched",
    "restore",
]
