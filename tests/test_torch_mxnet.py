"""MXNet's symbols as PyTorch modules: every public model, training, saving."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import shared_models
import tconv as mx
from tconv.errors import MXNetError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import tconv.torch as tt  # noqa: E402


@shared_models.every_model
def test_public_models_give_mxnets_outputs(name: str) -> None:
    model = shared_models.load(name)
    module = tt.from_mxnet(model.symbol, model.params).eval()
    assert set(module.state_dict()) <= {key.partition(":")[2] for key in model.params}
    inputs = {name: torch.from_numpy(model.inputs[name]) for name in module.inputs}
    with torch.no_grad():
        outputs = module(**inputs)
    for found, expected, atol in zip(
        outputs if isinstance(outputs, tuple) else (outputs,), model.outputs, model.tolerances, strict=True
    ):
        assert tuple(found.shape) == expected.shape
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=atol)


def network() -> tuple[Any, dict[str, np.ndarray]]:
    x = mx.sym.Variable("data")
    y = mx.sym.Convolution(x, kernel=(3, 3), pad=(1, 1), num_filter=4, name="in.conv")
    y = mx.sym.BatchNorm(y, fix_gamma=False, name="norm", momentum=0.8)
    y = mx.sym.Activation(y, act_type="softrelu")
    y = mx.sym.Pooling(y, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", pooling_convention="full")
    y = mx.sym.Deconvolution(y, kernel=(3, 3), stride=(2, 2), target_shape=(6, 6), num_filter=2, name="up")
    y = mx.sym.LinearRegressionOutput(y, mx.sym.Variable("label"), name="loss")
    shapes, _, states = y.infer_shape(data=(2, 3, 5, 5))
    rng = np.random.default_rng(0)
    names = [*zip(y.list_arguments(), shapes), *zip(y.list_auxiliary_states(), states)]
    arrays = {name: rng.random(shape, np.float32) for name, shape in names if name not in ("data", "label")}
    return y, arrays


@pytest.mark.parametrize("is_train", [False, True])
def test_training_is_mxnets(is_train: bool) -> None:
    symbol, arrays = network()
    module = tt.from_mxnet(symbol, arrays).train(is_train)
    assert module.inputs == ("data",)
    executor = symbol.simple_bind(mx.cpu(), data=(2, 3, 5, 5), label=(2, 2, 6, 6))
    executor.copy_params_from(
        *({n: mx.nd.array(arrays[n]) for n in names if n in arrays}
          for names in (symbol.list_arguments(), symbol.list_auxiliary_states()))
    )  # fmt: skip
    x = np.random.default_rng(1).random((2, 3, 5, 5), np.float32)
    label = np.zeros((2, 2, 6, 6), np.float32)
    (expected,) = executor.forward(is_train=is_train, data=mx.nd.array(x), label=mx.nd.array(label))
    found = module(torch.from_numpy(x))
    np.testing.assert_allclose(found.detach().numpy(), expected.asnumpy(), rtol=1e-5, atol=1e-5)
    if is_train:
        executor.backward()
        (0.5 * found.square().sum() / (2 * 6 * 6)).backward()
        for name, parameter in module.named_parameters():
            gradient = executor.grad_dict[name].asnumpy()
            # Ahead of a normalisation, a bias has no gradient but rounding.
            limit = 1e-6 + 1e-4 * float(np.abs(gradient).max())
            np.testing.assert_allclose(parameter.grad.numpy(), gradient, rtol=1e-3, atol=limit)
        for name, buffer in module.named_buffers():
            np.testing.assert_allclose(buffer.numpy(), executor.aux_dict[name].asnumpy(), rtol=1e-5)


def test_saved_and_loaded(tmp_path: Any) -> None:
    symbol, arrays = network()
    module = tt.from_mxnet(symbol, arrays).eval()
    x = torch.randn(2, 3, 5, 5)
    expected = module(x)
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(again(data=x), expected)
    other = tt.from_mxnet(symbol, {name: 0 * array for name, array in arrays.items()}).eval()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), expected)
    assert "in.conv_weight" in module.state_dict()
    symbol.save(str(tmp_path / "net-symbol.json"))
    states = symbol.list_auxiliary_states()
    kinds = {f"{'aux' if n in states else 'arg'}:{n}": mx.nd.array(a) for n, a in arrays.items()}
    mx.nd.save(str(tmp_path / "net-0000.params"), kinds)
    read = tt.from_mxnet(tmp_path / "net-symbol.json", tmp_path / "net-0000.params").eval()
    assert torch.equal(read(x), expected)


def test_a_module_compiles_whole() -> None:
    symbol, arrays = network()
    module = tt.from_mxnet(symbol, arrays).eval()
    x = torch.randn(2, 3, 5, 5)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))
    torch._dynamo.reset()


def test_what_is_missing_is_told() -> None:
    x = mx.sym.Variable("x")
    with pytest.raises(MXNetError, match="symbol: got L2Normalization; need operators with a counterpart"):
        tt.from_mxnet(mx.sym.L2Normalization(x), {})
    with pytest.raises(MXNetError, match="params: got no bn_moving_mean, bn_moving_var"):
        tt.from_mxnet(mx.sym.BatchNorm(x, name="bn"), {})
    module = tt.from_mxnet(mx.sym.relu(x), {})
    for arguments, names in (((), {}), ((1, 2), {}), ((1,), {"x": 1}), ((), {"y": 1})):
        with pytest.raises(MXNetError, match="from_mxnet: inputs: got"):
            module(*arguments, **names)
