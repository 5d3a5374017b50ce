from __future__ import annotations

import inspect
import pickle
import threading

import numpy as np
import pytest

import tconv as mx
from tconv.ndarray import NDArray, functions, invoke
from tconv.ndarray.arithmetic import TABLE
from tconv.operators import registry

nd = mx.nd


@pytest.fixture
def layer():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype("float32") for shape in ((2, 4, 5), (4, 3, 3), (3,))]


@pytest.fixture
def expected(layer):
    data, weight, bias = layer
    out = np.zeros((2, 3, 7)) + bias[:, None]
    for i in range(5):
        out[:, :, i : i + 3] += np.einsum("nc,cfk->nfk", data[:, :, i], weight)
    return out


PARAMS = {"kernel": (3,), "num_filter": 3, "no_bias": False}


class TestCalls:
    def test_every_way_to_pass_inputs(self, layer, expected):
        d, w, b = (nd.array(one) for one in layer)
        for out in (
            nd.Deconvolution(d, w, b, **PARAMS),
            nd.Deconvolution(d, w, bias=b, **PARAMS),
            nd.Deconvolution(bias=b, weight=w, data=d, **PARAMS),
            nd.Deconvolution(d, w, b, (3,), (1,), (1,), (0,), (0,), None, 3, 1, 512, False),
            nd.Deconvolution(*layer, **PARAMS),
            nd.Deconvolution(d, *layer[1:], name="anything", **PARAMS),
            nd.Deconvolution(d, w, b, kernel="(3,)", num_filter="3", no_bias="False"),
            nd.Deconvolution(d, w, b, kernel=[3], num_filter=np.int64(3), no_bias=0),
            nd.op.Deconvolution(d, w, b, **PARAMS),
            nd._internal.Deconvolution(d, w, b, **PARAMS),
        ):
            assert isinstance(out, NDArray)
            assert np.allclose(out.asnumpy(), expected, atol=1e-5)

    def test_repeated_calls_are_told_apart(self, layer):
        d, w, b = (nd.array(one) for one in layer)
        for _ in range(2):
            assert nd.Deconvolution(d, w, b, **PARAMS).shape == (2, 3, 7)
            assert nd.Deconvolution(d, w, b, **{**PARAMS, "stride": (2,)}).shape == (2, 3, 11)
            assert nd.Deconvolution(d, w, kernel=(3,), num_filter=3).shape == (2, 3, 7)
            assert nd.Deconvolution(d, w, None, kernel=(3,), num_filter=3).shape == (2, 3, 7)
            # Equal and of one hash, yet spelt differently.
            for wrong in ({"num_filter": True}, {"num_filter": 3.0}, {"kernel": (3.0,)}, {"no_bias": 0.0}):
                with pytest.raises(mx.MXNetError, match=f"Deconvolution: {next(iter(wrong))}: got"):
                    nd.Deconvolution(d, w, b, **{**PARAMS, **wrong})
            with pytest.raises(mx.MXNetError, match="weight: missing"):
                nd.Deconvolution(d, bias=b, **PARAMS)

    def test_one_array_in_two_places_is_not_remembered_as_such(self):
        x, y = nd.array([5]), nd.array([3])
        for _ in range(2):
            assert nd.broadcast_sub(x, x).asscalar() == 0
            assert nd.broadcast_sub(x, y).asscalar() == 2
            assert nd.broadcast_sub(rhs=x, lhs=y).asscalar() == -2
            assert nd.concat(x, x, y, dim=0).asnumpy().tolist() == [5, 5, 3]
            assert nd.concat(y, x, x, dim=0).asnumpy().tolist() == [3, 5, 5]

    def test_memory_of_calls_is_bounded(self):
        x = nd.array([1])
        for scalar in range(3000):
            nd._internal._plus_scalar(x, scalar=scalar)
        assert nd._internal._plus_scalar(x, scalar=7).asscalar() == 8

    def test_many_inputs(self):
        x = nd.ones((2,))
        assert nd.add_n(x, x, x).asnumpy().tolist() == [3, 3]
        assert nd.ElementWiseSum(*[x] * 4).asnumpy().tolist() == [4, 4]
        assert nd.concat(x, x, dim=0).shape == nd.concat([x, x], dim=0).shape == (4,)
        assert nd.stack(x, x.asnumpy(), axis=1).shape == (2, 2)
        with pytest.raises(mx.MXNetError, match="num_args"):
            nd.concat()
        with pytest.raises(mx.MXNetError, match="num_args: got another number than 1 inputs"):
            nd.concat(x, dim=0, num_args=3)

    def test_numpy_inputs_of_any_layout(self):
        data = np.arange(12, dtype=">f4").reshape(1, 3, 4)[:, ::-1]
        weight = np.ones((3, 2, 1), ">f4")
        out = nd.Deconvolution(data, weight, kernel=(1,), num_filter=2)
        assert out.asnumpy()[0, 1].tolist() == [12, 15, 18, 21]
        with pytest.raises(TypeError, match="relu: got complex128"):
            nd.relu(np.ones(2, complex))

    def test_threads(self, layer, expected):
        d, w, b = (nd.array(one) for one in layer)
        outs: list[NDArray] = []

        def run():
            outs.extend(nd.Deconvolution(d, w, b, **PARAMS) for _ in range(50))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outs) == 200
        assert all(np.allclose(out.asnumpy(), expected, atol=1e-5) for out in outs)

    def test_symbols_give_symbols(self):
        made = nd.Deconvolution(mx.sym.Variable("d"), name="up", kernel=(3,), num_filter=1)
        assert isinstance(made, mx.sym.Symbol)
        assert made.list_arguments() == ["d", "up_weight"]
        assert isinstance(nd.concat(mx.sym.Variable("a"), mx.sym.Variable("b")), mx.sym.Symbol)


class TestOut:
    def test_gives_it_back(self, layer, expected):
        out = nd.zeros((2, 3, 7))
        memory = np.asarray(out)
        assert nd.Deconvolution(*layer, out=out, **PARAMS) is out
        assert np.shares_memory(np.asarray(out), memory)
        assert np.allclose(memory, expected, atol=1e-5)

    def test_any_memory(self, layer, expected):
        memory = np.zeros((7, 3, 2), np.float32)
        out = NDArray(memory.T)
        nd.Deconvolution(*layer, out=out, **PARAMS)
        assert np.allclose(memory.T, expected, atol=1e-5)

    def test_lists(self):
        x = nd.ones((2,))
        out = [nd.zeros((2,))]
        assert nd.relu(x, out=out) is out
        assert out[0].asnumpy().tolist() == [1, 1]
        parts = [nd.zeros((1,)), nd.zeros((1,))]
        assert nd.split(nd.array([1, 2]), 2, axis=0, out=parts) is parts
        assert [part.asscalar() for part in parts] == [1, 2]

    def test_may_be_an_input(self):
        x = nd.array([[1, -2], [-3, 4]])
        assert nd.relu(x, out=x) is x
        assert x.asnumpy().tolist() == [[1, 0], [0, 4]]
        nd.transpose(x + nd.array([[0, 5], [0, 0]]), out=x)
        assert x.asnumpy().tolist() == [[1, 0], [5, 4]]
        nd.reverse(x, axis=0, out=x)
        assert x.asnumpy().tolist() == [[5, 4], [1, 0]]
        w = nd.array([[[2.0]]])
        y = nd.array([[[1, 2, 3]]])
        nd.Deconvolution(y, w, kernel=(1,), num_filter=1, out=y)
        assert y.asnumpy().tolist() == [[[2, 4, 6]]]

    def test_may_overlap_an_input(self):
        x = nd.array([1, 2, 3, 4])
        nd.concat(x[1:2], x[0:1], dim=0, out=x[0:2])
        assert x.asnumpy().tolist() == [2, 1, 3, 4]
        nd.broadcast_add(x[:3], x[1:], out=x[:3])
        assert x.asnumpy().tolist() == [3, 4, 7, 4]
        nd.exp(x[0:2] * 0, out=x[1:3])
        assert x.asnumpy().tolist() == [3, 1, 1, 4]

    @pytest.mark.parametrize(
        ("out", "match"),
        [
            (lambda: nd.zeros((3,)), r"relu: out: got shape \(3,\); need \(2,\)"),
            (lambda: nd.zeros((2,), dtype="float64"), "relu: out: got float64; need float32"),
            (lambda: [nd.zeros((2,)), nd.zeros((2,))], "relu: out: got 2 arrays; need 1"),
            (lambda: [np.zeros(2)], "relu: out: got ndarray; need an NDArray"),
            (lambda: 5, "relu: out: got int; need an NDArray"),
        ],
    )
    def test_refusals(self, out, match):
        target = out()
        with pytest.raises(mx.MXNetError, match=match):
            nd.relu(nd.ones((2,)), out=target)
        if isinstance(target, NDArray):
            assert target.asnumpy().sum() == 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: nd.relu(), "relu: data: missing"),
        (lambda: nd.relu(nd.ones((1,)), nd.ones((1,))), "got 2 positional arguments"),
        (lambda: nd.relu(5), "relu: data: got int"),
        (lambda: nd.relu([1.0]), "relu: data: got list"),
        (lambda: nd.relu(nd.ones((1,)), foo=1), "relu: foo: unknown argument"),
        (lambda: nd.relu(nd.ones((1,)), attr={"__a__": "1"}), "relu: attr: unknown argument"),
        (lambda: nd.relu(nd.ones((1,)), data=nd.ones((1,))), "relu: data: given twice"),
        (lambda: nd.sum(nd.ones((1,)), axis=nd.ones((1,))), "sum: axis: got"),
        (lambda: nd.sum(nd.ones((1,)), axis="x"), "sum: axis: got 'x'"),
        (lambda: nd.broadcast_add(nd.ones((2,)), nd.ones((2,), dtype="float64")), "rhs: got float64"),
        (
            lambda: nd.Deconvolution(
                nd.ones((1, 1, 3)), nd.ones((1, 1, 3)), nd.ones((1,)), kernel=(3,), num_filter=1
            ),
            "Deconvolution: bias: got an array; need the inputs data, weight",
        ),
        (
            lambda: nd.Deconvolution(
                nd.ones((1, 1, 3)), nd.ones((1, 1, 3)), kernel=(3,), num_filter=1, no_bias=False
            ),
            "Deconvolution: bias: missing; need the inputs data, weight, bias",
        ),
    ],
)
def test_refusals(call, match):
    with pytest.raises(mx.MXNetError, match=match):
        call()


class TestGeneration:
    @pytest.mark.parametrize("name", sorted(registry.names()))
    def test_every_operator_is_a_documented_function(self, name):
        function = getattr(nd, name)
        assert callable(function)
        if function is not nd.__dict__.get(name) or name in {row.name for row in TABLE}:
            return
        operator = registry.find(name)
        assert function.__name__ == name
        assert operator.doc.splitlines()[0] in function.__doc__
        shown = inspect.signature(function).parameters
        assert list(shown)[-2:] == ["out", "name"]
        for row in operator.params.rows():
            assert row.name == operator.count or f"{row.name} : {row.grammar.expects}" in function.__doc__

    def test_signature(self):
        shown = str(inspect.signature(nd.Deconvolution))
        assert shown.startswith("(data=None, weight=None, bias=None, kernel=Ellipsis, stride=(),")
        assert str(inspect.signature(nd.concat)) == "(*data, dim=1, out=None, name=None)"

    def test_functions_are_made_once_and_pickle(self):
        assert nd.relu is nd.relu is functions.function("relu")
        assert pickle.loads(pickle.dumps(nd.Deconvolution)) is nd.Deconvolution

    def test_dir(self):
        assert {"Deconvolution", "relu", "array", "random", "uniform", "NDArray"} <= set(dir(nd))

    def test_invoke_runs_an_operator(self):
        operator = registry.find("Reshape")
        out = invoke(operator, operator.params.parse({"shape": "(3, -1)"}), [nd.ones((2, 3))])
        assert out.shape == (3, 2)
        with pytest.raises(mx.MXNetError, match="no operator of this name"):
            functions.function("nope")
