"""Module and the batches it takes: what MXNet's scripts do with them, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tconv as mx
from tconv.errors import ArgumentError, DTypeError, FormatError, MXNetError, ShapeError


def network() -> mx.sym.Symbol:
    up = mx.sym.Deconvolution(mx.sym.var("data"), kernel=(2,), stride=(2,), num_filter=2, no_bias=False, name="up")
    return mx.sym.LinearRegressionOutput(mx.sym.BatchNorm(up, name="bn"), mx.sym.var("label"), name="loss")


def bound(batch: int = 2, **arguments: Any) -> mx.mod.Module:
    module = mx.mod.Module(network(), label_names=["label"])
    module.bind([("data", (batch, 3, 4))], [("label", (batch, 2, 8))], **arguments)
    module.init_params(mx.init.Constant(0.5))
    return module


def batch(size: int = 2, fill: float = 1.0) -> mx.io.DataBatch:
    return mx.io.DataBatch([mx.nd.full((size, 3, 4), fill)], [mx.nd.zeros((size, 2, 8))])


def test_what_a_module_tells() -> None:
    module = bound()
    assert (module.data_names, module.label_names, module.output_names) == (["data"], ["label"], ["loss_output"])
    assert module.data_shapes == [("data", (2, 3, 4))]
    assert module.label_shapes == [mx.io.DataDesc("label", (2, 2, 8))]
    assert module.output_shapes == [("loss_output", (2, 2, 8))]
    assert module.binded
    assert module.params_initialized
    assert not module.optimizer_initialized
    assert module.symbol is not None
    args, states = module.get_params()
    assert (list(args), list(states)) == (
        ["up_weight", "up_bias", "bn_gamma", "bn_beta"],
        ["bn_moving_mean", "bn_moving_var"],
    )


def test_parameters_are_copies() -> None:
    module = bound()
    args, _ = module.get_params()
    args["up_weight"][:] = 7
    module.forward(batch(), is_train=False)
    module._changed_since_copied = True
    assert module.get_params()[0]["up_weight"].asnumpy().max() == 0.5


def test_batches_of_another_size_reshape() -> None:
    module = bound()
    for size in (2, 5, 1, 2):
        module.forward(batch(size), is_train=False)
        assert module.get_outputs()[0].shape == (size, 2, 8)
        assert module.get_params()[0]["up_weight"].shape == (3, 2, 2)


def test_gradients_of_inputs() -> None:
    module = bound(inputs_need_grad=True)
    module.forward(batch(fill=2))
    module.backward()
    (grad,) = module.get_input_grads()
    assert grad.shape == (2, 3, 4)
    assert module.get_input_grads(merge_multi_context=False)[0][0] is grad
    with pytest.raises(ArgumentError, match="get_input_grads: got a module without them"):
        bound().get_input_grads()


def test_fixed_and_added_gradients() -> None:
    module = mx.mod.Module(network(), label_names=["label"], fixed_param_names=["up_bias"])
    module.bind([("data", (2, 3, 4))], [("label", (2, 2, 8))], grad_req="add")
    module.init_params()
    grads = module._bound("").grad_dict
    assert grads["up_bias"] is None
    rng = np.random.default_rng(0)
    some = mx.io.DataBatch([mx.nd.array(rng.normal(size=(2, 3, 4)))], [mx.nd.array(rng.normal(size=(2, 2, 8)))])
    module.forward_backward(some)
    once = grads["bn_beta"].asnumpy()
    module.forward_backward(some)
    np.testing.assert_allclose(grads["bn_beta"].asnumpy(), 2 * once, rtol=1e-5)


def test_two_modules_share_parameters() -> None:
    first = bound()
    first.init_optimizer(optimizer="sgd", optimizer_params={"learning_rate": 1.0})
    second = mx.mod.Module(network(), label_names=["label"])
    second.bind([("data", (1, 3, 4))], [("label", (1, 2, 8))], shared_module=first)
    assert second.params_initialized
    assert second.optimizer_initialized
    second.forward_backward(batch(1))
    second.update()
    first._changed_since_copied = True
    assert (first.get_params()[0]["bn_beta"].asnumpy() == second.get_params()[0]["bn_beta"].asnumpy()).all()


def test_training_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    prefix = str(tmp_path / "net")
    settings = {"optimizer": "sgd", "optimizer_params": {"learning_rate": 0.1, "momentum": 0.9}}
    whole = bound()
    whole.init_optimizer(**settings)
    for _ in range(2):
        whole.forward_backward(batch())
        whole.update()
    mx.callback.module_checkpoint(whole, prefix, save_optimizer_states=True)(1)
    again = mx.mod.Module.load(prefix, 2, load_optimizer_states=True, label_names=["label"])
    again.bind([("data", (2, 3, 4))], [("label", (2, 2, 8))])
    again.init_optimizer(**settings)
    for module in (whole, again):
        module.forward_backward(batch())
        module.update()
    expected, got = whole.get_params(), again.get_params()
    for a, b in zip(expected, got):
        assert all((a[name].asnumpy() == b[name].asnumpy()).all() for name in a)
    whole.save_params(prefix + ".params")
    fresh = bound()
    fresh.load_params(prefix + ".params")
    assert (fresh.get_params()[0]["up_bias"].asnumpy() == expected[0]["up_bias"].asnumpy()).all()
    mx.nd.save(prefix + ".params", {"up_weight": mx.nd.ones((1,))})
    with pytest.raises(FormatError, match="need arg: or aux: before it"):
        fresh.load_params(prefix + ".params")


def test_predictions_leave_the_filling_out() -> None:
    module = mx.mod.Module(mx.sym.var("data") * 2, label_names=None)
    data = np.arange(5, dtype=np.float32).reshape(5, 1)
    batches = mx.io.NDArrayIter(data, batch_size=2)
    module.bind(batches.provide_data, for_training=False)
    module.init_params()
    assert (module.predict(batches).asnumpy() == 2 * data).all()
    assert (module.predict(data).asnumpy() == 2 * data).all()
    parts = module.predict(batches, num_batch=2, merge_batches=False)
    assert [part[0].shape for part in parts] == [(2, 1), (2, 1)]
    assert module.predict(batches, always_output_list=True)[0].shape == (5, 1)
    assert [(number, filled.pad) for _, number, filled in module.iter_predict(batches)] == [(0, 0), (1, 0), (2, 1)]


def test_fit_tells_what_it_does(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    data = np.ones((6, 3, 4), np.float32)
    batches = mx.io.NDArrayIter(data, np.zeros((6, 2, 8)), batch_size=2, label_name="label", shuffle=True)
    module = mx.mod.Module(network(), label_names=["label"])
    ends: list[int] = []
    module.fit(
        batches,
        eval_data=batches,
        eval_metric="mse",
        num_epoch=2,
        batch_end_callback=[
            mx.callback.Speedometer(2, frequent=1),
            mx.callback.log_train_metric(1, auto_reset=True),
            mx.callback.ProgressBar(3, 10),
        ],
        eval_end_callback=mx.callback.LogValidationMetricsCallback(),
        epoch_end_callback=lambda epoch, symbol, args, states: ends.append(len(args) + len(states)),
    )
    text = caplog.text
    assert ends == [6, 6]
    for words in (
        "Epoch[1] Train-mse=",
        "Epoch[0] Time cost=",
        "Epoch[0] Validation-mse=",
        "samples/sec",
        "Iter[0]",
    ):
        assert words in text
    assert capsys.readouterr().out.endswith("[=======---] 67%\r")


def test_variables_that_are_states() -> None:
    state = mx.sym.var("state", shape=(2, 1))
    module = mx.mod.Module(mx.sym.var("data") + state, label_names=None, state_names=["state"])
    module.bind([("data", (2, 1))], for_training=False)
    module.init_params()
    module.set_states(value=3)
    assert module.predict(np.zeros((2, 1), np.float32)).asnumpy().tolist() == [[3], [3]]
    module.set_states(states=[[mx.nd.array([[1], [2]])]])
    assert module.get_states()[0].asnumpy().tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mx.mod.Module(network(), data_names=["picture"]), ArgumentError, "data_names: got picture"),
        (lambda: mx.mod.Module(network(), label_names=["label"]).get_outputs(), ArgumentError, "need bind"),
        (lambda: mx.mod.Module(network(), label_names=["label"]).get_params(), ArgumentError, "need init_params"),
        (lambda: mx.mod.Module(network(), label_names=["label"]).forward(batch()), ArgumentError, "not ready"),
        (lambda: bound().update(), ArgumentError, "update: got a module without an optimizer"),
        (lambda: bound(for_training=False, inputs_need_grad=True), ArgumentError, "inputs_need_grad: got True"),
        (lambda: bound().bind([("x", (1,))], force_rebind=True), ArgumentError, "data_shapes: got x; need data"),
        (lambda: bound().set_params({}, {}), MXNetError, "bn_beta: missing"),
        (lambda: bound().set_params({"x": mx.nd.ones(1)}, {}, allow_missing=True), ArgumentError, "got x; no para"),
        (
            lambda: bound().set_params({"up_bias": mx.nd.ones(1)}, {}, allow_missing=True),
            ArgumentError,
            r"up_bias: got shape \(1,\); need \(2,\)",
        ),
        (lambda: bound().forward(mx.io.DataBatch([])), ArgumentError, "data: got 0 arrays; need 1: data"),
        (lambda: bound().fit(None), ArgumentError, "num_epoch: missing"),
        (lambda: mx.io.DataBatch(mx.nd.ones(1)), DTypeError, "data: got NDArray; need a list"),
        (lambda: mx.io.NDArrayIter(np.ones(3), np.ones(2)), ShapeError, "need one length"),
        (lambda: mx.io.NDArrayIter(np.ones(3), batch_size=4), ShapeError, "batch_size: got 4; need 1 to 3"),
        (lambda: mx.io.NDArrayIter(None), ArgumentError, "data: got no array"),
        (lambda: mx.io.NDArrayIter("x"), DTypeError, "data: got str"),
        (lambda: mx.io.NDArrayIter(["x"]), DTypeError, "data: got str"),
        (lambda: mx.io.NDArrayIter(np.ones(3), last_batch_handle="x"), ArgumentError, "last_batch_handle: got 'x'"),
    ],
)
def test_refusals(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_warnings() -> None:
    with pytest.warns(UserWarning, match="label_names: got softmax_label; the symbol has no such argument"):
        mx.mod.Module(network())
    module = bound()
    with pytest.warns(UserWarning, match="the parameters have values already"):
        module.init_params()
    with pytest.warns(UserWarning, match="got rescale_grad 1.0"):
        module.init_optimizer(optimizer=mx.optimizer.SGD())


@pytest.mark.parametrize(
    ("handle", "expected"),
    [
        ("pad", [[[0, 1], [2, 3], [4, 0]]] * 3),
        ("discard", [[[0, 1], [2, 3]]] * 3),
        ("roll_over", [[[0, 1], [2, 3]], [[4, 0], [1, 2], [3, 4]], [[0, 1], [2, 3]]]),
    ],
)
def test_what_becomes_of_the_last_batch(handle: str, expected: Any) -> None:
    batches = mx.io.NDArrayIter(np.arange(5.0), batch_size=2, last_batch_handle=handle)
    for rounds in expected:
        assert [one.data[0].asnumpy().tolist() for one in batches] == rounds
        batches.reset()


def test_batches_in_another_order_and_number() -> None:
    np.random.seed(0)  # noqa: NPY002 - as scripts do
    batches = mx.io.NDArrayIter({"a": np.arange(6), "b": mx.nd.arange(6)}, batch_size=3, shuffle=True)
    assert [desc.name for desc in batches.provide_data] == ["a", "b"]
    (first, second), again = list(batches), mx.io.ResizeIter(batches, 3)
    assert (first.data[0].asnumpy() == first.data[1].asnumpy()).all()
    assert sorted([*first.index, *second.index]) == list(range(6))
    batches.reset()
    assert len(list(again)) == 3
    again.reset()
    assert len(list(again)) == 3
    assert "[(3,), (3,)]" in str(first)
