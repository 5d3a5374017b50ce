"""PyTorch's transposed layers on signals that come in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from tconv.errors import ParameterError
from tconv.frameworks import from_numpy
from tconv.stream import State
from tconv.stream import Stream as ArrayStream

_LAYERS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_POINTWISE = (
    nn.CELU, nn.Dropout, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh,
)  # fmt: skip


class Stream:
    """A transposed layer along one axis whose input arrives in chunks; see `tconv.Stream`.

    Parameters
    ----------
    layer : ConvTranspose1d, ConvTranspose2d or ConvTranspose3d
        On the CPU; its weights are copied.
    causal : bool
        Whether to cut the last `dilation * (kernel_size - 1) + 1 - stride` outputs along the axis instead of what
        `padding` says, so that every chunk of n frames gives n * stride outputs.
    axis : int
        Which of the spatial axes the chunks follow each other on; the last one by default.
    threads : int, optional
        Threads to use; by default all cores.

    Raises
    ------
    ParameterError
        If `layer` is no such layer.

    Examples
    --------
    >>> import torch, tconv.torch
    >>> stream = tconv.torch.Stream(torch.nn.ConvTranspose1d(4, 2, kernel_size=16, stride=8, padding=4))
    >>> stream.feed(torch.ones(1, 4, 10)).shape, stream.flush().shape
    (torch.Size([1, 2, 76]), torch.Size([1, 2, 4]))
    """

    def __init__(
        self, layer: nn.Module, *, causal: bool = False, axis: int = -1, threads: int | None = None
    ) -> None:
        if not isinstance(layer, _LAYERS):
            need = ", ".join(kind.__name__ for kind in _LAYERS)
            raise ParameterError(f"tconv.torch.Stream: layer: got {type(layer).__name__}; need {need}")
        assert not isinstance(layer.padding, str)
        pads = [(size, size) for size in layer.padding]
        adj = list(layer.output_padding)
        if causal:
            reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
            pads[axis], adj[axis] = (0, reach - layer.stride[axis]), 0
        self._stream = ArrayStream(
            layer.weight.detach(),
            None if layer.bias is None else layer.bias.detach(),
            stride=layer.stride,
            pad=pads,
            dilate=layer.dilation,
            adj=adj,
            # PyTorch bounds output_padding by the dilation too.
            adj_rule="any",
            num_group=layer.groups,
            axis=axis,
            threads=threads,
        )
        self._like = layer.weight.detach()

    def feed(self, x: Tensor) -> Tensor:
        """Take a chunk (N, C, spatial...), and return every output that no later frame can change."""
        result: Tensor = self._stream.feed(x.detach())
        return result

    def flush(self) -> Tensor:
        """End the signal: return what is left of it, and begin anew."""
        tail: Tensor = from_numpy(self._stream.flush(), self._like)
        return tail

    def whole(self, x: Tensor) -> Tensor:
        """Return at once what feeding `x` in any chunks and flushing gives, bit for bit."""
        result: Tensor = self._stream.whole(x.detach())
        return result

    def reset(self, streams: Iterable[int] | None = None) -> None:
        """Forget what was fed, of these streams of the batch or of all."""
        self._stream.reset(streams)

    def state(self) -> State:
        """Return what the stream remembers, as NumPy arrays."""
        return self._stream.state()

    def restore(self, state: State) -> None:
        """Go on from what `state` has returned."""
        self._stream.restore(state)


class StreamStack:
    """Transposed layers with functions of single values between them, as in vocoders, on signals in chunks.

    Parameters
    ----------
    model : torch.nn.Sequential or iterable of torch.nn.Module
        Layers `Stream` takes, activations, and such stacks themselves, on the CPU and in evaluation mode.
    causal, threads
        As for `Stream`, for each layer.
    pointwise : tuple of type
        Further classes of modules whose outputs depend on the input of their own position alone.

    Raises
    ------
    ParameterError
        If a module is none of these.

    Examples
    --------
    >>> import torch, tconv.torch
    >>> from torch import nn
    >>> layers = [nn.ConvTranspose1d(8, 4, 16, 8, 4), nn.ReLU(), nn.ConvTranspose1d(4, 1, 4, 2, 1), nn.Tanh()]
    >>> stack = tconv.torch.StreamStack(layers)
    >>> stack.feed(torch.ones(1, 8, 10)).shape, stack.flush().shape
    (torch.Size([1, 1, 151]), torch.Size([1, 1, 9]))
    """

    def __init__(
        self,
        model: Iterable[nn.Module],
        *,
        causal: bool = False,
        threads: int | None = None,
        pointwise: tuple[type[nn.Module], ...] = (),
    ) -> None:
        self._stages: list[Stream | nn.Module] = []
        for module in _flat(model):
            if isinstance(module, _LAYERS):
                self._stages.append(Stream(module, causal=causal, threads=threads))
                continue
            drops = isinstance(module, nn.Dropout) and module.training
            if drops or not isinstance(module, (*_POINTWISE, *pointwise)):
                got = f"{type(module).__name__}{' in training' if drops else ''}"
                need = "transposed layers and what works on single values"
                raise ParameterError(f"tconv.torch.StreamStack: model: got {got}; need {need}")
            self._stages.append(module)

    @property
    def _streams(self) -> list[Stream]:
        return [stage for stage in self._stages if isinstance(stage, Stream)]

    def feed(self, x: Tensor) -> Tensor:
        """Take a chunk (N, C, T), and return every output that no later frame can change."""
        with torch.no_grad():
            for stage in self._stages:
                x = stage.feed(x) if isinstance(stage, Stream) else stage(x)
        return x

    def flush(self) -> Tensor:
        """End the signal: return what is left of it, and begin anew."""
        left: Tensor | None = None
        for stage in self._stages:
            if isinstance(stage, Stream):
                parts = [stage.feed(left)] if left is not None else []
                left = torch.cat([*parts, stage.flush()], dim=-1)
            elif left is not None:
                with torch.no_grad():
                    left = stage(left)
        if left is None:
            raise ParameterError("tconv.torch.StreamStack: model: got no transposed layer; need one to flush")
        return left

    def whole(self, x: Tensor) -> Tensor:
        """Return at once what feeding `x` in any chunks and flushing gives, bit for bit."""
        with torch.no_grad():
            for stage in self._stages:
                x = stage.whole(x) if isinstance(stage, Stream) else stage(x)
        return x

    def reset(self, streams: Iterable[int] | None = None) -> None:
        """Forget what was fed, of these streams of the batch or of all."""
        chosen = None if streams is None else list(streams)
        for stream in self._streams:
            stream.reset(chosen)

    def state(self) -> list[State]:
        """Return what the streams of all layers remember."""
        return [stream.state() for stream in self._streams]

    def restore(self, state: Iterable[State]) -> None:
        """Go on from what `state` has returned.

        Raises
        ------
        ParameterError
            If it is of another number of layers.
        """
        states = list(state)
        if len(states) != len(self._streams):
            raise ParameterError(
                f"tconv.torch.StreamStack: state: got {len(states)} layers; need {len(self._streams)}"
            )
        for stream, one in zip(self._streams, states):
            stream.restore(one)


def _flat(model: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for module in model:
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            yield from _flat(module)
        else:
            yield module
