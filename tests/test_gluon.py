"""Blocks and parameters: names, shapes, errors, files, and that a graph computes what its block computes."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pytest

import tconv as mx
from tconv.gluon import nn


@pytest.fixture(autouse=True)
def _fresh_names():
    with mx.name.NameManager():
        mx.random.seed(7)
        yield


def randn(*shape, seed=0):
    return mx.nd.array(np.random.RandomState(seed).randn(*shape).astype("float32"))


def up(channels, **kwargs):
    return nn.Conv2DTranspose(channels, 4, strides=2, padding=1, **kwargs)


def decoder(**kwargs):
    net = nn.HybridSequential(**kwargs)
    with net.name_scope():
        net.add(up(4, activation="relu"), nn.Conv2D(3, 3, padding=1), up(2, use_bias=False))
    return net


class Skip(mx.gluon.HybridBlock):
    """Two inputs, two outputs, a parameter of its own and children."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.scale = self.params.get("scale", shape=(1,), init=mx.init.Constant(2))
            self.body = nn.HybridSequential()
            with self.body.name_scope():
                self.body.add(up(3), nn.Activation("tanh"))

    def hybrid_forward(self, F, x, skip, scale):
        y = self.body(x)
        return F.broadcast_mul(y + skip, scale), [F.relu(y), y]


# Names recorded from MXNet 1.9.1.


def test_names_of_nested_blocks():
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Conv2D(3, 3), nn.Conv2DTranspose(3, 3, activation="relu"), nn.Dense(4), nn.HybridSequential())
        net.add(nn.Activation("tanh"), nn.Flatten())
        with net[3].name_scope():
            net[3].add(nn.Conv3DTranspose(2, 2), nn.Dense(1, prefix="mine_"))
    assert [block.prefix for block in net] == [
        "hybridsequential0_conv0_",
        "hybridsequential0_conv1_",
        "hybridsequential0_dense0_",
        "hybridsequential0_hybridsequential0_",
        "hybridsequential0_tanh0_",
        "hybridsequential0_flatten0_",
    ]
    assert net[1].act.prefix == "hybridsequential0_conv1_relu_"
    assert [block.name for block in net[3]] == [
        "hybridsequential0_hybridsequential0_conv0",
        "hybridsequential0_hybridsequential0_mine",
    ]
    assert list(net.collect_params("hybridsequential0_conv")) == [
        "hybridsequential0_conv0_weight",
        "hybridsequential0_conv0_bias",
        "hybridsequential0_conv1_weight",
        "hybridsequential0_conv1_bias",
    ]
    assert list(net.collect_params(".*dense.*weight|.*mine_bias")) == [
        "hybridsequential0_dense0_weight",
        "hybridsequential0_hybridsequential0_mine_bias",
    ]


def test_names_outside_of_scopes_and_shared():
    stack = nn.Sequential()
    stack.add(nn.Dense(4))
    bare = nn.HybridSequential(prefix="")
    with bare.name_scope():
        bare.add(nn.Conv1D(2, 2))
    with stack.name_scope():
        sharing = nn.Dense(4, params=stack[0].params)
    assert [stack.prefix, stack[0].prefix, bare.prefix, bare[0].prefix] == ["sequential0_", "dense0_", "", "conv0_"]
    assert sharing.prefix == "sequential0_dense0_"
    assert list(sharing.collect_params()) == ["dense0_weight", "dense0_bias"]
    assert sharing.weight is stack[0].weight
    with mx.name.Prefix("zz_"):
        assert nn.Dense(3).prefix == "zz_dense0_"


def test_names_of_symbols_inside_a_block():
    class Net(mx.gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            return F.relu(F.relu(x) + 1)

    net = Net(prefix="n0_")
    for _ in range(2):
        names = net(mx.sym.var("x")).get_internals().list_outputs()
        assert names == ["x", "n0_relu0_output", "n0__plusscalar0_output", "n0_relu1_output"]


def test_counters_of_a_scope_go_on():
    net = nn.HybridSequential(prefix="net_")
    for _ in range(2):
        with net.name_scope():
            net.add(nn.Dense(1))
    assert [block.prefix for block in net] == ["net_dense0_", "net_dense1_"]


def test_repr():
    net = decoder(prefix="d_")
    assert repr(net) == (
        "HybridSequential(\n"
        "  (0): Conv2DTranspose(4 -> 0, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1), Activation(relu))\n"
        "  (1): Conv2D(None -> 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n"
        "  (2): Conv2DTranspose(2 -> 0, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1), bias=False)\n"
        ")"
    )
    assert repr(nn.Dense(4, in_units=3)) == "Dense(3 -> 4, linear)"
    assert repr(nn.Dense(4, activation="relu")) == "Dense(None -> 4, Activation(relu))"
    assert repr(nn.HybridLambda("tanh")) == "HybridLambda(tanh)"
    assert repr(net.collect_params("d_conv0")).splitlines()[:2] == [
        "d_ (",
        "  Parameter d_conv0_weight (shape=(0, 4, 4, 4), dtype=<class 'numpy.float32'>)",
    ]


# Eager and hybridized.


def both(net, *inputs, train=True):
    """Return outputs and gradients, computed array by array and as a graph."""
    results = []
    for active in (False, True):
        net.hybridize(active)
        arrays = [x.copy() for x in inputs]
        for x in arrays:
            x.attach_grad()
        with mx.autograd.record(train_mode=train):
            out = net(*arrays)
            flat = list(leaves(out))
            loss = sum(((y * y).sum() for y in flat), mx.nd.zeros(()))
        loss.backward()
        grads = [p.grad().asnumpy().copy() for p in net.collect_params().values() if p.grad_req != "null"]
        results.append(([y.asnumpy() for y in flat], [x.grad.asnumpy() for x in arrays], grads))
    return results


def leaves(value):
    if isinstance(value, (list, tuple)):
        for element in value:
            yield from leaves(element)
    else:
        yield value


def assert_same(first, second):
    for a, b in zip(leaves(first), leaves(second), strict=True):
        assert a.shape == b.shape
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_graph_computes_what_the_block_computes(train):
    net = decoder()
    net.initialize(mx.init.Xavier())
    eager, graph = both(net, randn(2, 3, 4, 5), train=train)
    assert eager[0][0].shape == (2, 2, 16, 20)
    assert_same(eager, graph)
    assert all(np.abs(grad).max() > 0 for grad in eager[1] + eager[2])


def test_graph_with_several_inputs_and_nested_outputs():
    net = Skip()
    net.initialize()
    eager, graph = both(net, randn(1, 2, 3, 3), randn(1, 3, 6, 6, seed=1))
    assert len(graph[0]) == 3
    assert_same(eager, graph)
    net.hybridize()
    out = net(randn(1, 2, 3, 3), randn(1, 3, 6, 6))
    assert isinstance(out, list)
    assert [type(part) for part in out] == [mx.nd.NDArray, list]


def test_graph_follows_new_sizes_and_new_values():
    net = up(1, in_channels=1)
    net.initialize()
    net.hybridize()
    assert net(randn(1, 1, 3, 3)).shape == (1, 1, 6, 6)
    assert net(randn(4, 1, 5, 2)).shape == (4, 1, 10, 4)
    net.weight.set_data(mx.nd.zeros(net.weight.shape))
    assert net(randn(1, 1, 3, 3)).asnumpy().max() == 0
    net.cast("float64")
    assert net(randn(1, 1, 3, 3).astype("float64")).dtype == np.float64


def test_graph_runs_hybrid_forward_once():
    calls = []

    class Net(mx.gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            calls.append(F)
            return F.relu(x)

    net = Net()
    net(randn(2))
    net.hybridize()
    for _ in range(3):
        net(randn(2))
    assert calls == [mx.nd, mx.sym]


def test_graph_within_a_graph_and_new_children():
    net = decoder()
    net.initialize()
    net[0].hybridize()
    x = randn(1, 2, 2, 2)
    before = net(x).asnumpy()
    net.hybridize()
    assert np.allclose(net(x).asnumpy(), before, atol=1e-6)
    net.add(nn.HybridLambda(lambda F, x: x * 2))
    assert np.allclose(net(x).asnumpy(), 2 * before, atol=1e-6)


def test_gradients_add_and_stop():
    net = up(1, in_channels=1)
    net.initialize()
    net.hybridize()
    x = randn(1, 1, 2, 2)

    def gradient():
        with mx.autograd.record():
            y = net(x)
        y.backward()
        return net.weight.grad().asnumpy().copy()

    once = gradient()
    net.collect_params().setattr("grad_req", "add")
    net.collect_params().zero_grad()
    gradient()
    assert np.allclose(gradient(), 2 * once)
    net.weight.grad_req = "null"
    with pytest.raises(RuntimeError, match="no gradient, because grad_req is 'null'"):
        net.weight.grad()


def test_retain_graph_and_grad():
    net = up(1, in_channels=1, use_bias=False)
    net.initialize()
    net.hybridize()
    x = randn(1, 1, 2, 2)
    with mx.autograd.record():
        y = net(x)
    y.backward(retain_graph=True)
    first = net.weight.grad().asnumpy().copy()
    y.backward()
    assert np.array_equal(net.weight.grad().asnumpy(), first)
    with mx.autograd.record():
        y = net(x)
    (grad,) = mx.autograd.grad(y, [net.weight.data()])
    assert np.array_equal(grad.asnumpy(), first)


def test_training_an_auto_encoder_lowers_the_loss():
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Conv2D(6, 3, strides=2, padding=1, activation="relu"), up(1))
    net.initialize(mx.init.Xavier(magnitude=2))
    net.hybridize()
    grid = np.linspace(0, 3, 8)
    x = mx.nd.array(np.sin(grid[:, None] + grid + np.arange(4).reshape(4, 1, 1, 1)).astype("float32"))
    losses = []
    for _ in range(60):
        with mx.autograd.record():
            loss = ((net(x) - x) ** 2).mean()
        loss.backward()
        for param in net.collect_params().values():
            param.set_data(param.data() - 0.5 * param.grad())
        losses.append(loss.asscalar())
    assert losses[-1] < 0.2 * losses[0]


def test_symbols():
    net = decoder(prefix="net_")
    out = net(mx.sym.var("x"))
    assert out.list_arguments() == ["x", *net.collect_params()]
    assert out.name == "net_conv2_fwd"
    nested = Skip()(mx.sym.var("a"), mx.sym.var("b"))
    assert [type(part) for part in nested] == [mx.sym.Symbol, list]
    with pytest.raises(ValueError, match="got arrays and symbols"):
        Skip()(mx.sym.var("a"), randn(1))
    with pytest.raises(ValueError, match="got neither arrays nor symbols"):
        net(3)


# Shapes that come later.


def test_deferred_shapes():
    net = decoder(prefix="net_")
    assert net[0].weight.shape == (0, 4, 4, 4)
    net.initialize()
    with pytest.raises(mx.gluon.DeferredInitializationError, match="net_conv0_weight"):
        net[0].weight.data()
    net(randn(1, 5, 2, 2))
    assert [param.shape for param in net.collect_params(".*weight").values()] == [
        (5, 4, 4, 4),
        (3, 4, 3, 3),
        (3, 2, 4, 4),
    ]


def test_deferred_shapes_of_a_graph_at_once():
    net = decoder()
    net.initialize()
    net.infer_shape(randn(1, 5, 2, 2))
    assert net[2].weight.shape == (3, 2, 4, 4)
    with pytest.raises(mx.gluon.DeferredInitializationError):
        net[2].weight.data()
    net.hybridize()
    net(randn(1, 5, 2, 2))
    assert net[2].weight.data().shape == (3, 2, 4, 4)


def test_value_set_before_the_shape_is_known():
    net = up(1)
    net.initialize()
    net.weight.set_data(mx.nd.ones((2, 1, 4, 4)))
    assert net(mx.nd.ones((1, 2, 3, 3))).asnumpy()[0, 0, 2, 2] == 8


def test_groups_before_channels_are_known():
    net = nn.Conv1DTranspose(4, 3, groups=2, use_bias=False)
    net.initialize()
    assert net(randn(1, 6, 5)).shape == (1, 4, 7)
    assert net.weight.shape == (6, 2, 3)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv2DTranspose(3, 4, 2, 1, layout="NHWC"), (2, 5, 6, 4)),
        (lambda: nn.Conv2D(3, 3, padding=1, layout="NHWC"), (2, 5, 6, 4)),
        (lambda: nn.Conv1DTranspose(3, 4, 2, 1, layout="NWC"), (2, 5, 4)),
        (lambda: nn.Conv3DTranspose(3, 2, 2, layout="NDHWC"), (1, 2, 3, 2, 4)),
    ],
)
def test_channels_last(layer, shape):
    last = layer()
    last.initialize(mx.init.Normal(1))
    x = randn(*shape)
    y = last(x)
    assert y.shape[-1] == 3
    layout = last._kwargs["layout"].replace("C", "").replace("N", "NC")
    options = {"layout": layout, "strides": last._kwargs["stride"], "padding": last._kwargs["pad"]}
    first = type(last)(3, last._kwargs["kernel"], **options)
    first.initialize()
    swapped = mx.nd.array(np.moveaxis(x.asnumpy(), -1, 1))
    first(swapped)
    first.weight.set_data(mx.nd.array(np.moveaxis(last.weight.data().asnumpy(), -1, 1)))
    assert np.allclose(np.moveaxis(first(swapped).asnumpy(), 1, -1), y.asnumpy(), atol=1e-5)


# Files.


def test_parameters_of_a_layer_and_of_a_network(tmp_path):
    path = str(tmp_path / "net.params")
    net, other = decoder(prefix="a_"), decoder(prefix="b_")
    net.initialize(mx.init.Normal(1))
    x = randn(1, 2, 3, 3)
    y = net(x).asnumpy()
    net.save_parameters(path)
    assert sorted(mx.nd.load(path)) == ["0.bias", "0.weight", "1.bias", "1.weight", "2.weight"]
    other.load_parameters(path)
    assert np.array_equal(other(x).asnumpy(), y)
    net[0].save_parameters(path)
    assert sorted(mx.nd.load(path)) == ["bias", "weight"]
    fresh = up(4, activation="relu")
    fresh.load_parameters(path)
    assert np.array_equal(fresh(x).asnumpy(), net[0](x).asnumpy())


@pytest.mark.parametrize("strip", [False, True])
def test_parameters_saved_by_name(tmp_path, strip):
    path = str(tmp_path / "net.params")
    net = decoder(prefix="a_")
    net.initialize(mx.init.Normal(1))
    y = net(randn(1, 2, 3, 3)).asnumpy()
    net.collect_params().save(path, strip_prefix="a_" if strip else "")
    again = decoder(prefix="a_")
    again.load_parameters(path)
    assert np.array_equal(again(randn(1, 2, 3, 3)).asnumpy(), y)
    again.collect_params().load(path, restore_prefix="a_" if strip else "")
    if strip:
        moved = decoder(prefix="b_")
        moved.collect_params().load(path, restore_prefix="b_")
        assert np.array_equal(moved(randn(1, 2, 3, 3)).asnumpy(), y)


def test_shared_parameters_are_saved_once_or_under_each_path(tmp_path):
    path = str(tmp_path / "net.params")
    net = nn.HybridSequential()
    net.add(nn.Dense(2, in_units=2))
    net.add(nn.Dense(2, in_units=2, params=net[0].params))
    net.initialize()
    net.save_parameters(path)
    assert len(mx.nd.load(path)) == 4
    net.save_parameters(path, deduplicate=True)
    assert sorted(mx.nd.load(path)) == ["1.bias", "1.weight"]
    before = net[0].weight.data().asnumpy().copy()
    net[0].weight.set_data(mx.nd.zeros((2, 2)))
    net.load_parameters(path)
    assert np.array_equal(net[0].weight.data().asnumpy(), before)


def test_names_and_shapes_of_files_are_checked(tmp_path):
    path = str(tmp_path / "net.params")
    small = nn.HybridSequential()
    small.add(nn.Dense(2, in_units=3))
    small.initialize()
    small.save_parameters(path)
    large = nn.HybridSequential()
    large.add(nn.Dense(2), nn.Dense(1))
    with pytest.raises(AssertionError, match=r"Parameter 1\.weight: missing in file"):
        large.load_parameters(path)
    large.load_parameters(path, allow_missing=True)
    assert large[0].weight.shape == (2, 3)
    empty = nn.HybridSequential()
    with pytest.raises(ValueError, match=r"Parameter 0\.weight: in file .*; need the same paths, or ignore_extra"):
        empty.load_parameters(path)
    empty.load_parameters(path, ignore_extra=True)
    wrong = nn.HybridSequential()
    wrong.add(nn.Dense(5))
    with pytest.raises(AssertionError, match=r"got a saved shape \(2, 3\); need \(5, 0\)"):
        wrong.load_parameters(path)


def test_types_of_files(tmp_path):
    path = str(tmp_path / "net.params")
    net = nn.Dense(2, in_units=3, dtype="float64")
    net.initialize()
    net.save_parameters(path)
    other = nn.Dense(2, in_units=3)
    with pytest.raises(AssertionError, match="got a saved type float64; need float32, or cast_dtype=True"):
        other.load_parameters(path)
    other.load_parameters(path, cast_dtype=True)
    assert other.weight.data().dtype == np.float32
    third = nn.Dense(2, in_units=3)
    third.load_parameters(path, cast_dtype=True, dtype_source="saved")
    assert third.weight.data().dtype == np.float64


def test_export_and_imports(tmp_path):
    net = Skip(prefix="skip_")
    net.initialize(mx.init.Normal(1))
    net.hybridize()
    inputs = randn(1, 2, 3, 3), randn(1, 3, 6, 6)
    expected = list(leaves(net(*inputs)))
    net.export(str(tmp_path / "skip"), epoch=12)
    assert sorted(mx.nd.load(str(tmp_path / "skip-0012.params"))) == sorted(
        f"arg:{n}" for n in net.collect_params()
    )
    files = str(tmp_path / "skip-symbol.json"), ["data0", "data1"], str(tmp_path / "skip-0012.params")
    again = mx.gluon.SymbolBlock.imports(*files)
    for y, z in zip(expected, again(*inputs), strict=True):
        assert np.array_equal(y.asnumpy(), z.asnumpy())
    symbol, args, states = mx.model.load_checkpoint(str(tmp_path / "skip"), 12)
    assert states == {}
    outputs = symbol.eval(data0=inputs[0], data1=inputs[1], **args)
    assert np.array_equal(outputs[0].asnumpy(), expected[0].asnumpy())
    loaded = Skip(prefix="skip_")
    loaded.load_parameters(files[2])
    assert np.allclose(loaded(*inputs)[0].asnumpy(), expected[0].asnumpy(), rtol=1e-6)


# Recorded from MXNet 1.9.1.
EXPORTED = {
    "nodes": [
        {"op": "null", "name": "data", "inputs": []},
        {
            "op": "null",
            "name": "m_weight",
            "attrs": {
                "__dtype__": "0",
                "__lr_mult__": "1.0",
                "__shape__": "(2, 0)",
                "__storage_type__": "0",
                "__wd_mult__": "1.0",
            },
            "inputs": [],
        },
        {
            "op": "null",
            "name": "m_bias",
            "attrs": {
                "__dtype__": "0",
                "__init__": "zeros",
                "__lr_mult__": "1.0",
                "__shape__": "(2,)",
                "__storage_type__": "0",
                "__wd_mult__": "1.0",
            },
            "inputs": [],
        },
        {
            "op": "FullyConnected",
            "name": "m_fwd",
            "attrs": {"flatten": "True", "no_bias": "False", "num_hidden": "2"},
            "inputs": [[0, 0, 0], [1, 0, 0], [2, 0, 0]],
        },
    ],
    "arg_nodes": [0, 1, 2],
    "node_row_ptr": [0, 1, 2, 3, 4],
    "heads": [[3, 0, 0]],
    "attrs": {"mxnet_version": ["int", 10901]},
}


def test_exported_json_is_mxnets(tmp_path):
    net = nn.Dense(2, prefix="m_")
    net.initialize()
    net.hybridize()
    net(randn(1, 3))
    net.export(str(tmp_path / "m"))
    assert json.loads((tmp_path / "m-symbol.json").read_text()) == EXPORTED


def test_export_of_running_averages(tmp_path):
    net = nn.HybridSequential(prefix="n_")
    with net.name_scope():
        net.add(up(2), nn.BatchNorm(momentum=0.5), nn.Dropout(0.5))
    net.initialize()
    net.hybridize()
    with mx.autograd.record():
        y = net(randn(2, 1, 3, 3))
    y.backward()
    x = randn(2, 1, 4, 4)
    expected = net(x).asnumpy()
    net.export(str(tmp_path / "n"))
    _, args, states = mx.model.load_checkpoint(str(tmp_path / "n"), 0)
    assert sorted(states) == ["n_batchnorm0_running_mean", "n_batchnorm0_running_var"]
    assert sorted(args) == ["n_batchnorm0_beta", "n_batchnorm0_gamma", "n_conv0_bias", "n_conv0_weight"]
    assert states["n_batchnorm0_running_mean"].asnumpy().any()
    again = mx.gluon.SymbolBlock.imports(str(tmp_path / "n-symbol.json"), "data", str(tmp_path / "n-0000.params"))
    assert np.array_equal(again(x).asnumpy(), expected)
    assert again.params["n_batchnorm0_running_var"].grad_req == "null"
    outer = nn.HybridSequential(prefix="o_")
    outer.add(again, nn.Dense(1, prefix="o_dense_"))
    outer[1].initialize()
    outer.hybridize()
    assert outer(x).shape == (2, 1)
    outer.export(str(tmp_path / "o"))
    assert sorted(mx.nd.load(str(tmp_path / "o-0000.params"))) == [
        "arg:n_batchnorm0_beta",
        "arg:n_batchnorm0_gamma",
        "arg:n_conv0_bias",
        "arg:n_conv0_weight",
        "arg:o_dense_bias",
        "arg:o_dense_weight",
        "aux:n_batchnorm0_running_mean",
        "aux:n_batchnorm0_running_var",
    ]


def test_deep_copies_are_independent():
    net = decoder()
    net.initialize(mx.init.Normal(1))
    x = randn(1, 2, 3, 3)
    before = net(x).asnumpy()
    copied = copy.deepcopy(net)
    net[0].weight.set_data(mx.nd.zeros(net[0].weight.shape))
    assert np.array_equal(copied(x).asnumpy(), before)
    assert list(copied.collect_params()) == list(net.collect_params())


def test_export_without_a_graph():
    with pytest.raises(RuntimeError, match=r"call hybridize\(\) and then the block once"):
        decoder().export("nowhere")


def test_symbol_block_of_inner_outputs():
    x = mx.sym.var("x")
    net = decoder(prefix="net_")
    net.initialize()
    y = net(randn(1, 2, 3, 3)).asnumpy()
    internals = net(x).get_internals()
    block = mx.gluon.SymbolBlock(
        [internals["net_conv0_fwd_output"], internals["net_conv2_fwd_output"]], x, params=net.collect_params()
    )
    inner, last = block(randn(1, 2, 3, 3))
    assert np.allclose(last.asnumpy(), y, atol=1e-6)
    assert inner.shape == (1, 4, 6, 6)
    assert block.params["net_conv0_weight"] is net[0].weight
    composed = block(mx.sym.var("z") * 2)
    assert composed[1].list_arguments()[0] == "z"
    with pytest.raises(ValueError, match="need a variable"):
        mx.gluon.SymbolBlock(x * 2, x + 1)


def test_symbol_block_learns():
    x = mx.sym.var("x")
    block = mx.gluon.SymbolBlock(mx.sym.Deconvolution(x, kernel=(2,), num_filter=1, name="up"), x)
    block.initialize(mx.init.One())
    with mx.autograd.record():
        y = block(mx.nd.ones((1, 1, 3)))
    y.backward()
    assert block.params["up_weight"].grad().asnumpy().tolist() == [[[3, 3]]]


# Parameters.


def test_parameter_errors_have_mxnets_classes():
    made = mx.gluon.Parameter("w", shape=(2, 3))
    cases = [
        (RuntimeError, made.data),
        (RuntimeError, made.list_ctx),
        (AssertionError, lambda: made.set_data(mx.nd.ones((2, 3)))),
        (AssertionError, lambda: setattr(made, "shape", (3, 3))),
        (AssertionError, lambda: mx.gluon.Parameter("w", grad_req="x")),
        (AssertionError, lambda: mx.gluon.Parameter("w", stype="x")),
        (ValueError, lambda: mx.gluon.Parameter("w", shape=(2, 0)).initialize()),
        (ValueError, lambda: made.reset_ctx(mx.cpu())),
        (ValueError, lambda: nn.HybridSequential().add(nn.Sequential())),
        (TypeError, lambda: setattr(nn.Dense(2), "weight", 3)),
        (TypeError, lambda: nn.Conv2D(2, 3, nosuch=1)),
        (AssertionError, lambda: nn.Conv2D(2, (3, 3, 3))),
        (AssertionError, lambda: nn.Conv2DTranspose(2, 3, layout="NCW")),
        (AssertionError, lambda: nn.LeakyReLU(-1)),
        (AssertionError, lambda: nn.HybridLambda("nosuch")),
        (ValueError, lambda: nn.Lambda(3)),
        (KeyError, lambda: mx.gluon.ParameterDict().get_constant("k")),
    ]
    for error, call in cases:
        with pytest.raises(error):
            call()


def test_parameter_on_two_devices():
    param = mx.gluon.Parameter("w", shape=(2,))
    param.initialize("ones", ctx=[mx.cpu(0), mx.cpu(1)])
    assert [data.context for data in param.list_data()] == [mx.cpu(0), mx.cpu(1)]
    assert param.data().context == mx.cpu(0)
    assert param.data(mx.cpu_pinned(1)).context == mx.cpu(1)
    with mx.cpu(1):
        assert param.data().context == mx.cpu(1)
    with pytest.raises(RuntimeError, match=r"got cpu\(2\); it was initialized on cpu\(0\), cpu\(1\) only"):
        param.data(mx.cpu(2))
    param.data(mx.cpu(1))[:] = 3
    param.reset_ctx(mx.cpu(0))
    assert param.data().asnumpy().tolist() == [2, 2]


def test_initializing_again_needs_to_be_asked_for():
    param = mx.gluon.Parameter("w", shape=(2,))
    param.initialize("ones")
    with pytest.warns(UserWarning, match="force_reinit=True"):
        param.initialize("zeros")
    assert param.data().asnumpy().tolist() == [1, 1]
    param.initialize("zeros", force_reinit=True)
    assert param.data().asnumpy().tolist() == [0, 0]


def test_own_initializer_is_stronger():
    net = nn.Conv2D(1, 1, in_channels=1, weight_initializer=mx.init.Constant(3), bias_initializer="ones")
    net.initialize(mx.init.Zero())
    assert [net.weight.data().asscalar(), net.bias.data().asscalar()] == [3, 1]


def test_seed_decides_on_initial_values():
    def weights():
        mx.random.seed(11)
        net = decoder()
        net.initialize(mx.init.Xavier())
        net(mx.nd.ones((1, 2, 3, 3)))
        return [param.data().asnumpy() for param in net.collect_params().values()]

    for a, b in zip(weights(), weights(), strict=True):
        assert np.array_equal(a, b)


def test_parameter_dict():
    params = mx.gluon.ParameterDict("a_")
    first = params.get("w", shape=(2, 0))
    assert params.get("w", shape=(0, 3)) is first
    assert first.shape == (2, 3)
    with pytest.raises(AssertionError, match=r"a_w: shape: got \(4, 3\); it exists with \(2, 3\)"):
        params.get("w", shape=(4, 3))
    constant = params.get_constant("k", [[1, 2]])
    assert params.get_constant("k", [[1, 2]]) is constant
    with pytest.raises(AssertionError, match="a_k: it exists with another value"):
        params.get_constant("k", [[1, 3]])
    with pytest.raises(AssertionError, match="a_w: it exists and is no constant"):
        params.get_constant("w", [1])
    sharing = mx.gluon.ParameterDict("a_", shared=params)
    assert sharing.get("w") is first
    clash = mx.gluon.ParameterDict()
    clash.get("a_w")
    with pytest.raises(AssertionError, match="a_w: two different parameters"):
        params.update(clash)
    params.setattr("lr_mult", 0.5)
    assert first.lr_mult == 0.5
    params.initialize("ones")
    assert params.list_ctx() == [mx.cpu()]
    with pytest.raises(ValueError, match="does not begin with the prefix 'b_'"):
        params.save("nowhere", strip_prefix="b_")


def test_constant_stays_as_it_is():
    class Blur(mx.gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.kernel = self.params.get_constant("kernel", np.full((1, 1, 2), 0.5, "float32"))

        def hybrid_forward(self, F, x, kernel):
            return F.Deconvolution(x, kernel, kernel=(2,), num_filter=1)

    net = Blur()
    net.initialize()
    eager, graph = both(net, mx.nd.array([[[2, 4]]]))
    assert_same(eager, graph)
    assert eager[0][0].tolist() == [[[1, 3, 2]]]
    with pytest.warns(UserWarning, match="grad_req 'write' is ignored"):
        net.kernel.grad_req = "write"


# Blocks.


def test_hooks():
    seen = []
    net = decoder()
    net.initialize()
    before = net.register_forward_pre_hook(lambda block, inputs: seen.append(("before", inputs[0].shape)))
    with net.register_forward_hook(lambda block, inputs, out: seen.append(("after", out.shape))):
        net(randn(1, 2, 3, 3))
    net(randn(1, 2, 3, 3))
    before.detach()
    before.detach()
    net(randn(1, 2, 3, 3))
    assert seen == [("before", (1, 2, 3, 3)), ("after", (1, 2, 12, 12)), ("before", (1, 2, 3, 3))]
    net.register_forward_hook(lambda *args: None)
    with pytest.warns(UserWarning, match="hybridized while it has hooks"):
        net.hybridize()


def test_apply_visits_children_first():
    names = []
    net = decoder(prefix="n_")
    assert net.apply(lambda block: names.append(block.name)) is net
    assert names == ["n_conv0_relu", "n_conv0", "n_conv1", "n_conv2", "n"]


def test_slices_and_iteration():
    net = decoder(prefix="n_")
    part = net[1:]
    assert len(part) == 2
    assert part[0] is net[1]
    assert part.prefix == "n_"
    assert list(net) == [net[0], net[1], net[2]]


def test_blocks_hidden_in_lists_are_told():
    class Net(mx.gluon.Block):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Dense(2)]

    with pytest.warns(UserWarning, match=r"Net\.layers holds blocks that are not registered"):
        Net().collect_params()


def test_unused_inputs_and_parameters_are_told():
    class Net(mx.gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.spare = self.params.get("spare", shape=(1,))

        def hybrid_forward(self, F, x, y, spare):
            return F.relu(x)

    net = Net(prefix="net_")
    net.initialize()
    net.hybridize()
    with pytest.warns(UserWarning, match="not used") as told:
        net(randn(2), randn(2))
    assert [str(warning.message) for warning in told] == [
        "net: input 1 is not used by any computation",
        "net: 'net_spare': not used by any computation",
    ]
    net(randn(2), randn(2))


def test_none_among_the_inputs():
    class Net(mx.gluon.HybridBlock):
        def hybrid_forward(self, F, x, y=None):
            return F.relu(x) if y is None else F.relu(x) + y

    net = Net()
    net.hybridize()
    assert net(mx.nd.ones((2,)), None).asnumpy().tolist() == [1, 1]
    assert net(mx.nd.ones((2,))).asnumpy().tolist() == [1, 1]
    with pytest.raises(ValueError, match="nested as"):
        net(mx.nd.ones((2,)), mx.nd.ones((2,)))


def test_sequential_of_hybrid_blocks_suggests_the_other():
    net = nn.Sequential()
    net.add(nn.Dense(1))
    with pytest.warns(UserWarning, match="HybridSequential would make one graph"):
        net.hybridize()


def test_summary(capsys):
    net = decoder(prefix="n_")
    net.initialize()
    net(randn(1, 2, 3, 3))
    net.summary(randn(1, 2, 3, 3))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if "(1," in line] == [
        ["Input", "(1,", "2,", "3,", "3)", "0"],
        ["Activation-1", "(1,", "4,", "6,", "6)", "0"],
        ["Conv2DTranspose-2", "(1,", "4,", "6,", "6)", "132"],
        ["Conv2D-3", "(1,", "3,", "6,", "6)", "111"],
        ["Conv2DTranspose-4", "(1,", "2,", "12,", "12)", "96"],
    ]
    assert "   Total params: 339" in lines
    net.hybridize()
    with pytest.raises(AssertionError, match="summary: the block is hybridized"):
        net.summary(randn(1, 2, 3, 3))


def test_lambda_blocks():
    x = mx.nd.array([-1, 2])
    assert nn.Lambda("relu")(x).asnumpy().tolist() == [0, 2]
    assert nn.Lambda(lambda x: x * 3)(x).asnumpy().tolist() == [-3, 6]
    net = nn.HybridLambda("relu")
    net.hybridize()
    assert net(x).asnumpy().tolist() == [0, 2]
    assert repr(nn.Lambda("relu")) == "Lambda(relu)"


def test_wrong_arguments_of_calls():
    net = nn.Conv2DTranspose(2, 3, in_channels=3)
    net.initialize()
    with pytest.raises(mx.MXNetError, match="weight"):
        net(randn(1, 4, 5, 5))
    deferred = nn.Conv2DTranspose(2, 3)
    deferred.initialize()
    with pytest.raises(ValueError, match="deferred initialization cannot infer the shapes"):
        deferred(randn(1, 4, 5, 5, 2))


def test_splitting_batches():
    parts = mx.gluon.utils.split_data(mx.nd.arange(5), 2, even_split=False)
    assert [part.asnumpy().tolist() for part in parts] == [[0, 1, 2], [3, 4]]
    with pytest.raises(ValueError, match="got 5 along axis 0; need a multiple of 2"):
        mx.gluon.utils.split_data(mx.nd.arange(5), 2)
    loaded = mx.gluon.utils.split_and_load(np.zeros((2, 4)), [mx.cpu(0), mx.cpu(1)], batch_axis=1)
    assert [part.shape for part in loaded] == [(2, 2), (2, 2)]
    assert loaded[1].context == mx.cpu(1)


def test_clipping_by_the_common_norm():
    arrays = [mx.nd.array([3.0]), mx.nd.array([[4.0]])]
    assert mx.gluon.utils.clip_global_norm(arrays, 10) == 5
    assert arrays[0].asscalar() == 3
    assert mx.gluon.utils.clip_global_norm(arrays, 1) == 5
    assert np.allclose([a.asscalar() for a in arrays], [0.6, 0.8])
    with pytest.warns(UserWarning, match="not finite"):
        mx.gluon.utils.clip_global_norm([mx.nd.array([np.inf])], 1)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pixel_shuffle_moves_each_factor_to_its_axis(rank):
    factors = (2, 3, 4)[:rank]
    layer = getattr(mx.gluon.contrib.nn, f"PixelShuffle{rank}D")(factors)
    sizes = (3, 2, 2)[:rank]
    x = np.arange(2 * 2 * np.prod(factors) * np.prod(sizes), dtype="float32")
    x = x.reshape(2, -1, *sizes)
    split = x.reshape(2, 2, *factors, *sizes)
    order = [axis for i in range(rank) for axis in (2 + rank + i, 2 + i)]
    expected = split.transpose(0, 1, *order).reshape(2, 2, *(a * b for a, b in zip(sizes, factors)))
    assert np.array_equal(layer(mx.nd.array(x)).asnumpy(), expected)


def test_concurrent_and_identity():
    for container in (mx.gluon.contrib.nn.HybridConcurrent(axis=1), mx.gluon.contrib.nn.Concurrent(axis=1)):
        container.add(mx.gluon.contrib.nn.Identity(), nn.HybridLambda(lambda F, x: x * 2))
        assert container(mx.nd.ones((1, 2))).asnumpy().tolist() == [[1, 1, 2, 2]]


def test_no_warnings_in_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = decoder()
        net.initialize()
        net.hybridize()
        net(randn(1, 2, 3, 3))
