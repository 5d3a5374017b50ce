"""PyTorch's layers and models by tconv: swapping, training, kept weights, saving."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import tconv.torch as tt  # noqa: E402
from tconv.torch import operators, weights  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
nn = torch.nn
LAYERS = [
    ("ConvTranspose1d", (4, 6, 4, 2, 1), (2, 4, 9)),
    ("ConvTranspose2d", (4, 6, 3, 2, 1, 1, 2), (2, 4, 5, 6)),
    ("ConvTranspose3d", (4, 6, 2, 2), (2, 4, 3, 2, 3)),
]


def decoder() -> Any:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, 1, 0), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
        nn.ConvTranspose2d(8, 2, 3, 2, 1, 1), nn.Tanh(),
    )  # fmt: skip


def close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    limit = tolerance * max(1.0, float(theirs.detach().abs().max()))
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=limit)


def repeated(model: Any, x: Any, times: int = 4) -> Any:
    """Call often enough for packed weights to be in use, and see that every call gives the same."""
    with torch.no_grad():
        first = model(x)
        for _ in range(times - 1):
            close(model(x), first)
    return first


@pytest.mark.parametrize(("name", "arguments", "shape"), LAYERS)
def test_layers_are_pytorchs(name: str, arguments: tuple[int, ...], shape: tuple[int, ...]) -> None:
    theirs, ours = getattr(nn, name)(*arguments), getattr(tt, name)(*arguments)
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape)
    close(repeated(ours, x), theirs(x).detach())
    close(repeated(ours, x[0]), theirs(x[0]).detach())
    low = theirs(x).shape[2:]
    if name != "ConvTranspose2d":
        close(ours(x, output_size=[s + 1 for s in low]), theirs(x, output_size=[s + 1 for s in low]))
    with pytest.raises(ValueError, match="output size"):
        ours(x, output_size=[999] * len(low))


def test_accelerate_and_restore() -> None:
    model = decoder()
    reference = copy.deepcopy(model)
    ids = [id(module) for module in model.modules()]
    report = tt.accelerate(model)
    assert report.swapped == ("0", "3", "6")
    assert not report.kept
    assert str(report).splitlines()[0] == "3 swapped, 0 kept"
    assert [id(module) for module in model.modules()] == ids
    assert type(model[3]) is tt.ConvTranspose2d
    assert tt.accelerate(model).swapped == ()
    x = torch.randn(2, 8, 3, 3)
    for training in (True, False):
        model.train(training)
        reference.train(training)
        close(repeated(model, x), reference(x).detach(), 1e-4) if not training else None
    assert list(model.state_dict()) == list(reference.state_dict())
    assert tt.restore(model).swapped == ("0", "3", "6")
    assert type(model[3]) is nn.ConvTranspose2d
    close(model(x), reference(x))


def test_a_layer_alone_and_shared_layers() -> None:
    layer = nn.ConvTranspose1d(4, 4, 4, 2, 1)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    other = nn.ConvTranspose1d(4, 4, 4, 2, 1)
    other.weight = layer.weight
    model.append(other)
    assert tt.accelerate(model).swapped == ("0", "3")
    assert model[0] is model[2]
    assert model[3].weight is model[0].weight
    assert tt.accelerate(nn.ConvTranspose3d(1, 1, 1)).swapped == ("",)


class Own(nn.ConvTranspose1d):
    def forward(self, input: Any, output_size: Any = None) -> Any:
        return super().forward(input, output_size) + 1


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Own(2, 2, 2), "class Own has a forward pass of its own"),
        (nn.ConvTranspose1d(2, 2, 2, dtype=torch.complex64), "dtype torch.complex64"),
        (nn.ConvTranspose1d(2, 2, 2, device="meta"), "device meta"),
        (nn.LazyConvTranspose1d(2, 2), "class LazyConvTranspose1d has a forward pass of its own"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_is_not_eligible_stays(layer: Any, reason: str) -> None:
    cls = type(layer)
    report = tt.accelerate(nn.Sequential(layer))
    assert report.kept == {"0": reason}
    assert f"kept 0: {reason}" in str(report)
    assert type(layer) is cls


def norms() -> list[Callable[[Any], Any]]:
    return [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ]


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
@pytest.mark.parametrize("norm", norms(), ids=lambda norm: f"{norm.__module__}.{norm.__name__}")
def test_parametrisations_stay(norm: Callable[[Any], Any]) -> None:
    theirs, ours = (nn.Sequential(norm(nn.ConvTranspose1d(4, 6, 4, 2, 1))) for _ in range(2))
    ours.load_state_dict(theirs.state_dict())
    assert tt.accelerate(ours).swapped == ("0",)
    assert tt.accelerate(ours).swapped == ()
    x = torch.randn(2, 4, 9)
    for model in (theirs, ours):
        model.eval()
    for _ in range(3):
        close(repeated(ours, x), theirs(x).detach())
        for model in (theirs, ours):
            model.zero_grad()
            model(x).square().sum().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.01 * parameter.grad
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if nn.utils.parametrize.is_parametrized(ours[0]):
        close(repeated(copy.deepcopy(ours), x), theirs(x).detach())
        nn.utils.parametrize.remove_parametrizations(ours[0], "weight")
        assert type(ours[0]) is tt.ConvTranspose1d
        close(repeated(ours, x), theirs(x).detach())
    assert tt.restore(ours).swapped == ("0",)
    close(ours(x), theirs(x))


def test_hooks_run() -> None:
    layer = nn.ConvTranspose1d(4, 6, 4, 2, 1)
    seen: list[str] = []
    layer.register_forward_pre_hook(lambda *_: seen.append("before"))
    tt.accelerate(layer)
    layer.register_forward_hook(lambda *_: seen.append("after"))
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    layer(torch.randn(1, 4, 5, requires_grad=True)).sum().backward()
    assert seen == ["before", "after", "backward"]


def test_copies_and_files() -> None:
    model = decoder().eval()
    tt.accelerate(model)
    x = torch.randn(1, 8, 3, 3)
    expected = repeated(model, x)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(again[0]) is tt.ConvTranspose2d
        close(repeated(again, x), expected)
        with torch.no_grad():
            again[0].weight.zero_()
    close(repeated(model, x), expected)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "in place": lambda p: p.mul_(3),
    "through data": lambda p: p.data.mul_(3),
    "one element through data": lambda p: p.data[-1, -1, -1, -1].add_(1),
    "through NumPy": lambda p: np.multiply(p.detach().numpy(), 3, out=p.detach().numpy()),
    "sign": lambda p: p.data.neg_(),
    "swapped elements": lambda p: p.data.copy_(p.data.flip(0).clone()),
    "copy_": lambda p: p.copy_(torch.ones_like(p)),
    "through a view": lambda p: p[1, 2:4].zero_(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize(("input_last", "weight_last"), [(False, False), (True, False), (True, True)])
def test_no_change_of_a_weight_is_missed(change: Callable[[Any], Any], input_last: bool, weight_last: bool) -> None:
    theirs = nn.ConvTranspose2d(4, 6, 4, 2, 1)
    x = torch.randn(2, 4, 5, 5)
    if weight_last:
        theirs.to(memory_format=torch.channels_last)
    if input_last:
        x = x.contiguous(memory_format=torch.channels_last)
    ours = copy.deepcopy(theirs)
    tt.accelerate(ours)
    with torch.no_grad():
        for _ in range(3):
            close(repeated(ours, x), theirs(x))
            for model in (theirs, ours):
                change(model.weight)
                change(model.bias) if model.bias.dim() > 1 else model.bias.data.add_(1)
            close(ours(x), theirs(x))
            close(repeated(ours, x), theirs(x))


def test_no_swap_of_a_weight_is_missed() -> None:
    layer = tt.ConvTranspose1d(4, 6, 4, 2, 1)
    x = torch.randn(2, 4, 9)

    def check() -> None:
        expected = nn.functional.conv_transpose1d(x, layer.weight, layer.bias, 2, 1).detach()
        close(repeated(layer, x), expected)

    check()
    for k in range(8):
        # Memory that is freed at once, so that the next may lie where the last one lay.
        layer.weight.data = layer.weight.data * 2
        layer.weight.data = layer.weight.data + k
        check()
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))
    check()
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()})
    check()
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()}, assign=True)
    check()
    layer.double().float()
    check()
    x = x.double()
    layer.double()
    check()
    x = x.bfloat16()
    layer.bfloat16()
    close(repeated(layer, x), nn.functional.conv_transpose1d(x, layer.weight, layer.bias, 2, 1).detach(), 3e-2)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.Adam(p, 0.1),
        lambda p: torch.optim.Adam(p, 0.1, foreach=True),
        lambda p: torch.optim.AdamW(p, 0.1, fused=True),
    ],
)
def test_no_step_of_an_optimizer_is_missed(optimizer: Callable[[Any], Any]) -> None:
    layer = tt.ConvTranspose1d(4, 6, 4, 2, 1)
    x = torch.randn(2, 4, 9)
    steps = optimizer(layer.parameters())
    for _ in range(3):
        layer(x).square().sum().backward()
        repeated(layer, x)
        steps.step()
        with torch.no_grad():
            close(layer(x), nn.functional.conv_transpose1d(x, layer.weight, layer.bias, 2, 1))


@pytest.mark.parametrize("last", [False, True])
def test_packed_weights_go_with_their_tensor(last: bool) -> None:
    gc.collect()
    before = weights.kept_bytes()
    layer = tt.ConvTranspose2d(64, 64, 4, 2, 1)
    x = torch.randn(1, 64, 9, 5)
    repeated(layer, x.contiguous(memory_format=torch.channels_last) if last else x)
    assert weights.kept_bytes() >= before + layer.weight.nbytes
    del layer
    gc.collect()
    assert weights.kept_bytes() == before


def test_weights_that_change_on_each_call_are_not_kept() -> None:
    gc.collect()
    before = weights.kept_bytes()
    layer = tt.ConvTranspose1d(8, 8, 4, 2, 1)
    x = torch.randn(1, 8, 9)
    with torch.no_grad():
        for _ in range(4):
            layer.weight.add_(1)
            layer(x)
            tt.conv_transpose1d(x, layer.weight * 2)
    assert weights.kept_bytes() == before


def test_training_follows_pytorch() -> None:
    losses = []
    for accelerated in (False, True):
        model = decoder()
        if accelerated:
            assert len(tt.accelerate(model).swapped) == 3
        steps = torch.optim.Adam(model.parameters(), 2e-3)
        generator = torch.Generator().manual_seed(5)
        some = []
        for _ in range(50):
            x = torch.randn(4, 8, 2, 2, generator=generator)
            target = nn.functional.interpolate(x[:, :2], size=model(x).shape[2:])
            loss = nn.functional.mse_loss(model(x), target)
            steps.zero_grad()
            loss.backward()
            steps.step()
            some.append(loss.item())
        losses.append(some)
    theirs, ours = losses
    assert theirs[-1] < 0.9 * theirs[0]
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 4))

    def forward(self, x: Any) -> Any:
        return nn.functional.conv_transpose1d(x, self.weight, stride=2) + torch.conv_transpose1d(
            x, self.weight, stride=2
        )


def test_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    from tconv.torch import functional

    compute = functional.operators.compute
    monkeypatch.setattr(functional.operators, "compute", lambda *a: (calls.append("ours"), compute(*a))[1])
    model, layer, x = Functional(), nn.ConvTranspose1d(4, 3, 4), torch.randn(2, 4, 9)
    originals = (nn.functional.conv_transpose1d, torch.conv_transpose1d)
    with torch.no_grad():
        expected = model(x), layer(x)
        with tt.patched():
            with tt.patched():
                close(model(x), expected[0])
            close(layer(x), expected[1])
        assert calls == ["ours"] * 3
        assert (nn.functional.conv_transpose1d, torch.conv_transpose1d) == originals
        with pytest.raises(ZeroDivisionError), tt.patched():
            raise ZeroDivisionError
        model(x)
    assert calls == ["ours"] * 3


def test_a_model_compiles_whole() -> None:
    torch._dynamo.reset()
    model = decoder().eval()
    x = torch.randn(1, 8, 3, 3)
    expected = model(x).detach()
    tt.accelerate(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for _ in range(3):
            close(compiled(x), expected)
            model[0].weight.data.mul_(1.0)
    torch._dynamo.reset()


@pytest.mark.parametrize("freezing", [False, True])
def test_compiled_models_copy_nothing_for_the_operator(freezing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor lays arrays of convolutions channels last, whichever way the model has them."""
    seen: list[bool] = []
    compute = operators.compute

    def spy(solved: Any, small: Any, *rest: Any) -> Any:
        seen.append(solved.channels_last and small.movedim(1, -1).is_contiguous())
        return compute(solved, small, *rest)

    monkeypatch.setattr(operators, "compute", spy)
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(8, 6, 4, 2), nn.Conv2d(6, 2, 3)).eval()
    x = torch.randn(2, 4, 7, 8).contiguous(memory_format=torch.channels_last)
    expected = model(x).detach()
    tt.accelerate(model)
    compiled = torch.compile(model, fullgraph=True, options={"freezing": freezing, "fx_graph_cache": False})
    with torch.no_grad():
        close(repeated(compiled, x), expected)
    assert seen == [True] * 4
    torch._dynamo.reset()


@pytest.mark.parametrize("sizes", [(1, 1), (1, 3), (3, 1)])
def test_layouts_in_graphs_do_not_hang_on_strides_without_meaning(sizes: tuple[int, int]) -> None:
    """Along an axis of size 1, the strides a compiler plans with need not be those of the run."""
    weight = torch.randn(4, 2, 2, 2)
    options = ([s + 1 for s in sizes], [1, 1], [0, 0], [1, 1], 1)
    x = torch.randn(2, 4, *sizes)
    for channels_last in (False, True):
        lying = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        strides = {
            torch.ops.tconv.conv_transpose(
                torch.as_strided(lying, x.shape, [odd if n == 1 else s for n, s in zip(x.shape, lying.stride())]),
                weight,
                None,
                *options,
            ).stride()
            for odd in (0, 1, 4, 12, 99)
        }
        assert len(strides) == 1


def test_channels_last_models_stay_so() -> None:
    model = decoder().eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    expected = model(x).detach()
    tt.accelerate(model)
    found = repeated(model, x)
    close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
