"""Passes that record nothing: they compute what the plain way computes, by less, and never with old weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tconv as mx
from tconv.symbol.passes import Streamlined
from tconv.symbol.program import Program

V = mx.sym.var
DATA = V("data")


def filled(symbol: mx.sym.Symbol, dtype: str = "float32", **shapes: Any) -> dict[str, np.ndarray]:
    """Return arrays for every variable, variances above 0."""
    rng = np.random.default_rng(0)
    arg_shapes, _, aux_shapes = symbol.infer_shape(**shapes)
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    arrays = {}
    for name, shape in zip(names, [*arg_shapes, *aux_shapes]):
        array = rng.standard_normal(shape).astype(dtype)
        arrays[name] = np.abs(array) + 0.5 if name.endswith("var") else array
    return arrays


def conv(data: mx.sym.Symbol, name: str, filters: int = 6, **params: Any) -> mx.sym.Symbol:
    return mx.sym.Convolution(data, kernel=(3, 3), num_filter=filters, name=name, **params)


def up(data: mx.sym.Symbol, name: str, filters: int = 6, **params: Any) -> mx.sym.Symbol:
    return mx.sym.Deconvolution(data, kernel=(4, 4), stride=(2, 2), num_filter=filters, name=name, **params)


def norm(data: mx.sym.Symbol, name: str, **params: Any) -> mx.sym.Symbol:
    return mx.sym.BatchNorm(data, name=name, **params)


def leaky(data: mx.sym.Symbol, slope: float = 0.2) -> mx.sym.Symbol:
    return mx.sym.LeakyReLU(data, act_type="leaky", slope=slope)


def residual() -> mx.sym.Symbol:
    x = leaky(conv(DATA, "a", pad=(1, 1)))
    return mx.sym.relu(mx.sym.broadcast_add(x, norm(conv(x, "b", pad=(1, 1)), "n") * 0.1))


def squeezed() -> mx.sym.Symbol:
    x = conv(DATA, "a")
    part = mx.sym.sigmoid(
        conv(mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="avg"), "b", pad=(1, 1))
    )
    return mx.sym.broadcast_mul(x, mx.sym.Reshape(part, shape=(0, -1, 1, 1)))


def rows() -> mx.sym.Symbol:
    x = mx.sym.broadcast_add(up(DATA, "a", no_bias=True), mx.sym.Reshape(V("b", shape=(6,)), shape=(1, 6, 1, 1)))
    return mx.sym.tanh(mx.sym.broadcast_sub(x, V("c", shape=(1, 6, 1, 1))))


GRAPHS: dict[str, mx.sym.Symbol] = {
    "conv bn relu": mx.sym.Activation(norm(conv(DATA, "a", num_group=2), "n", fix_gamma=False), act_type="relu"),
    "deconv bn leaky": leaky(norm(up(DATA, "a", num_group=2, no_bias=False), "n", fix_gamma=False, eps=1e-5)),
    "deconv bn bn": norm(norm(up(DATA, "a"), "n"), "m", fix_gamma=False),
    "read twice": mx.sym.Group([conv(DATA, "a"), norm(conv(DATA, "b"), "n")]),
    "conv as a head": mx.sym.Group([(head := conv(DATA, "a")), norm(head, "n")]),
    "bn alone": leaky(norm(DATA, "n")),
    "bn of the last axis": norm(conv(DATA, "a"), "n", axis=3),
    "prelu": mx.sym.LeakyReLU(conv(DATA, "a"), act_type="prelu", name="p"),
    "elu": mx.sym.LeakyReLU(conv(DATA, "a"), act_type="elu"),
    "residual": residual(),
    "squeezed": squeezed(),
    "rows": rows(),
    "margins": conv(mx.sym.Pad(DATA, mode="constant", pad_width=(0, 0, 0, 0, 1, 2, 3, 0)), "a", pad=(1, 1)),
    "margins of ones": conv(
        mx.sym.Pad(DATA, mode="constant", constant_value=1, pad_width=(0, 0, 0, 0, 1, 1, 1, 1)), "a"
    ),
    "edges": conv(mx.sym.Pad(DATA, mode="edge", pad_width=(0, 0, 0, 0, 1, 1, 1, 1)), "a"),
    "margins of channels": conv(
        mx.sym.Pad(DATA, mode="constant", pad_width=(0, 0, 1, 1, 1, 1, 1, 1)), "a", filters=4
    ),
    "in place": mx.sym.relu((DATA * 2 + 1) + mx.sym.sigmoid(DATA)) - DATA,
    "views": mx.sym.Group([mx.sym.Reshape((y := DATA * 2), shape=(0, -1)), mx.sym.relu(y), y]),
    "itself": (z := DATA + 1) + z,
    "heads": mx.sym.Group([DATA, (h := mx.sym.relu(DATA)), h, mx.sym.Dropout(h), h * 1]),
    "dropout": conv(mx.sym.Dropout(mx.sym.BlockGrad(DATA)), "a"),
    "weights computed": mx.sym.Convolution(
        DATA, V("w", shape=(6, 4, 3, 3)) * 2, kernel=(3, 3), num_filter=6, no_bias=True, name="a"
    ),
    "reversed": 1 - mx.sym.relu(3 - DATA),
    "pooling": mx.sym.Pooling(conv(DATA, "a"), kernel=(3, 2), stride=(2, 1), pad=(1, 1), pool_type="avg"),
    "channels last": norm(
        mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=6, layout="NHWC", name="a"), "n", axis=3
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", GRAPHS)
def test_streamlined_computes_the_same(name: str, dtype: str) -> None:
    program = Program(GRAPHS[name])
    arrays = filled(GRAPHS[name], data=(2, 4, 7, 9))
    arrays = {key: value.astype(dtype if ("n_" not in key and "m_" not in key) or dtype != "float16" else "float32")
              for key, value in arrays.items()}  # fmt: skip
    before = {key: value.copy() for key, value in arrays.items()}
    expected = program.forward(arrays).outputs
    streamlined = Streamlined(program)
    tolerance = {"float64": 1e-10, "float32": 1e-4, "float16": 2e-2}[dtype]
    for _ in range(2):
        for got, wanted in zip(streamlined(arrays), expected, strict=True):
            assert got.dtype == wanted.dtype
            np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * max(1, np.abs(wanted).max()))
            assert not any(np.shares_memory(got, array) for array in arrays.values())
    into = [np.empty_like(array) for array in expected]
    for got, array in zip(streamlined(arrays, into), into):
        assert got is array
    assert all((arrays[key] == value).all() for key, value in before.items())


@pytest.mark.parametrize("name", ["a_weight", "a_bias", "n_gamma", "n_beta", "n_moving_mean", "n_moving_var"])
def test_weights_are_never_old(name: str) -> None:
    symbol = GRAPHS["deconv bn leaky"]
    arrays = filled(symbol, data=(1, 4, 5, 5))
    executor = symbol.bind(
        mx.cpu(),
        {key: mx.nd.NDArray(arrays[key]) for key in symbol.list_arguments()},
        aux_states={key: mx.nd.NDArray(arrays[key]) for key in symbol.list_auxiliary_states()},
    )
    first = executor.forward()[0].asnumpy()
    # Behind the back of every NDArray.
    arrays[name].flat[-1] += 1
    second = executor.forward()[0].asnumpy()
    assert (first != second).any()
    np.testing.assert_allclose(second, Program(symbol).forward(arrays).outputs[0], rtol=1e-4, atol=1e-4)
    arrays[name].flat[-1] -= 1
    np.testing.assert_allclose(executor.forward()[0].asnumpy(), first, rtol=1e-5, atol=1e-6)


def test_steps_are_drawn_together() -> None:
    program = Program(residual())
    streamlined = Streamlined(program)
    streamlined(filled(residual(), data=(1, 6, 8, 8)))
    (plan,) = streamlined._plans.values()
    assert len(program.steps) == 7
    assert [(work.geometry is not None, work.pointwise) for work in plan.works] == [(True, False)] * 2 + [
        (False, True)
    ]


def test_shapes_share_weights() -> None:
    symbol = GRAPHS["conv bn relu"]
    streamlined = Streamlined(Program(symbol))
    arrays = filled(symbol, data=(1, 4, 8, 8))
    for size in (8, 9):
        streamlined({**arrays, "data": np.ones((1, 4, size, size), np.float32)})
    assert len(streamlined._plans) == 2
    assert len(streamlined._kept) == 1


def test_a_monitor_sees_every_operator() -> None:
    symbol = GRAPHS["conv bn relu"]
    seen: list[str] = []
    executor = symbol.simple_bind(mx.cpu(), data=(1, 4, 8, 8))
    executor.set_monitor_callback(lambda name, array: seen.append(name))
    executor.forward()
    assert [name for name in seen if name.endswith("_output")] == ["a_output", "n_output", symbol.list_outputs()[0]]
    executor.backward(mx.nd.ones(executor.outputs[0].shape))
