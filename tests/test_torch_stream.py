"""PyTorch's layers in chunks: the bits of the whole, and PyTorch's numbers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tconv.errors import ParameterError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402

import tconv.torch  # noqa: E402
from tconv.torch import Stream, StreamStack  # noqa: E402

# PyTorch warns of its own use of torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


def bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.contiguous()
    return (plain.view(torch.int16) if plain.itemsize == 2 else plain).numpy().tobytes()


def vocoder() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.LeakyReLU(0.1),
        nn.ConvTranspose1d(20, 16, 16, 8, 4),
        nn.Sequential(nn.LeakyReLU(0.1), nn.ConvTranspose1d(16, 8, 5, 2, 2, output_padding=1)),
        nn.GELU(),
        nn.ConvTranspose1d(8, 1, 4, 2, 1, dilation=2),
        nn.Tanh(),
    ).eval()


lengths = st.lists(st.integers(0, 9), max_size=8)


@settings(max_examples=40)
@given(lengths, st.integers(1, 30), st.booleans())
def test_a_stack_in_chunks_is_the_whole(chunks: list[int], frames: int, causal: bool) -> None:
    stack = StreamStack(vocoder(), causal=causal)
    x = torch.randn(2, 20, frames, generator=torch.Generator().manual_seed(frames))
    whole = stack.whole(x)
    parts, done = [], 0
    for length in [*chunks, frames]:
        parts.append(stack.feed(x[..., done : done + length]))
        done += length
    parts.append(stack.flush())
    assert bits(torch.cat(parts, dim=-1)) == bits(whole)
    if not causal:
        with torch.no_grad():
            torch.testing.assert_close(whole, vocoder()(x), rtol=1e-4, atol=1e-5)


def test_a_stack_goes_on_from_its_state() -> None:
    stack, other = StreamStack(vocoder()), StreamStack(vocoder())
    x = torch.randn(1, 20, 12)
    first = stack.feed(x[..., :5])
    other.restore(pickle.loads(pickle.dumps(stack.state())))
    joined = torch.cat([first, other.feed(x[..., 5:]), other.flush()], dim=-1)
    assert bits(joined) == bits(stack.whole(x))
    stack.reset()
    assert bits(torch.cat([stack.feed(x), stack.flush()], dim=-1)) == bits(joined)
    with pytest.raises(ParameterError, match="state: got 1 layers; need 3"):
        stack.restore(other.state()[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_layer(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    layer = nn.ConvTranspose2d(6, 4, (3, 5), (1, 2), (1, 2), output_padding=(0, 1), groups=2).to(dtype)
    stream = Stream(layer, axis=0)
    x = torch.randn(2, 6, 9, 5).to(dtype)
    whole = stream.whole(x)
    parts = [stream.feed(x[:, :, first : first + 2]) for first in range(0, 9, 2)]
    assert bits(torch.cat([*parts, stream.flush()], dim=2)) == bits(whole)
    with torch.no_grad():
        torch.testing.assert_close(whole, layer(x), rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-2)
    assert not whole.requires_grad


def test_causal_layers_cut_the_end() -> None:
    layer = nn.ConvTranspose1d(3, 2, 10, 5)
    stream = Stream(layer, causal=True)
    x = torch.randn(1, 3, 7)
    with torch.no_grad():
        torch.testing.assert_close(stream.feed(x), layer(x)[..., :35])
    assert stream.flush().shape == (1, 2, 0)


def test_batch_of_streams() -> None:
    layer = nn.ConvTranspose1d(3, 2, 4, 2)
    stream = Stream(layer)
    x = torch.randn(2, 3, 6)
    stream.feed(x[..., :3])
    stream.reset([1])
    y = torch.cat([stream.feed(x[..., 3:]), stream.flush()], dim=-1)
    assert bits(y[1:]) == bits(Stream(layer).whole(x[1:, :, 3:]))
    assert set(stream.state()) == {"history", "ages"}
    stream.restore({"history": np.zeros((0,)), "ages": np.zeros(0, int)})


def test_refuses() -> None:
    with pytest.raises(ParameterError, match="layer: got Linear; need ConvTranspose1d"):
        Stream(nn.Linear(2, 3))
    with pytest.raises(ParameterError, match="model: got Conv1d; need transposed layers"):
        StreamStack([nn.Conv1d(2, 3, 1)])
    with pytest.raises(ParameterError, match="model: got Dropout in training"):
        StreamStack([nn.Dropout()])
    with pytest.raises(ParameterError, match="got no transposed layer"):
        StreamStack([nn.ReLU()]).flush()

    class Snake(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.sin(x) ** 2

    assert tconv.torch.StreamStack([Snake()], pointwise=(Snake,)).feed(torch.zeros(1, 1, 3)).shape == (1, 1, 3)
