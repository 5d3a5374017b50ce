"""PyTorch's transposed convolutions, computed by tconv; needs PyTorch 2.4 or newer."""

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise ImportError("tconv.torch: PyTorch is not installed; install it by: pip install 'tconv[torch]'") from None

from tconv.torch.acceleration import Report, accelerate, patched, restore
from tconv.torch.functional import conv_transpose1d, conv_transpose2d, conv_transpose3d
from tconv.torch.modules import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from tconv.torch.mxnet import MXNetModule, from_mxnet
from tconv.torch.stream import Stream, StreamStack
from tconv.torch.threads import share as _share_threads

__all__ = [
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "MXNetModule",
    "Report",
    "Stream",
    "StreamStack",
    "accelerate",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "from_mxnet",
    "patched",
    "restore",
]

_share_threads()
