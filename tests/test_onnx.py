"""Models that leave for ONNX, against onnxruntime: public ones, and every operator as recorded from MXNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shared_models
import tconv as mx
from tconv.errors import MXNetError, ParameterError
from tconv.onnx.graph import CONVERTERS, ExportError, Graph
from tconv.onnx.writer import to_proto
from tconv.operators.registry import Call, find, names, solve
from tconv.symbol import Symbol
from tconv.symbol.node import Entry, Node
from test_operators_golden import golden

onnx = pytest.importorskip("onnx", reason="needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

NO_COUNTERPART = {"diag", "erfinv", "gamma", "gammaln", "scatter_nd", "softmax_cross_entropy"}
UNLIKE = [
    # Parameters and inputs with which ONNX's operators are not MXNet's.
    ("LeakyReLU", {"act_type": "prelu", "input0": (2, 3), "input1": (2,)}, "slopes by sample"),
    ("_rdiv_scalar", {"scalar": "2.7"}, "onnxruntime refuses to divide a whole number by 0"),
    ("clip", {"a_min": "2.0", "a_max": "-2.0"}, "an empty range"),
    ("one_hot", {"depth": "0"}, "onnxruntime takes a depth of 0 for a negative one"),
    ("rcbrt", {}, "the sign of infinity at -0"),
    ("sign", {}, "the sign of NaN"),
]


def run(graph: Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a graph that onnx.checker accepts through onnxruntime."""
    model = to_proto(graph)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {one.name: inputs[one.name] for one in session.get_inputs()})
    return found


def assert_same(symbol: Symbol, params: Mapping[str, Any], inputs: Mapping[str, np.ndarray], dims: Any) -> None:
    """Compare what tconv and onnxruntime make of a symbol."""
    arrays = {name: mx.nd.array(array, dtype=array.dtype) for name, array in {**params, **inputs}.items()}
    want = [array.asnumpy() for array in symbol.eval(**arrays)]
    for got, wanted in zip(run(mx.onnx.to_model(symbol, params, dims), inputs), want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * max(1, np.abs(wanted).max()))


@shared_models.every_model
@pytest.mark.parametrize("varies", [False, True], ids=["fixed", "varying"])
def test_public_model(name: str, varies: bool) -> None:
    model = shared_models.load(name)
    words = (None if name in ONE_SAMPLE_ONLY else "batch", None, "height", "width")
    dims = {
        key: tuple(
            word if varies and word and (size > 1 or word == "batch") else size
            for word, size in zip(words, array.shape)
        )
        for key, array in model.inputs.items()
    }
    graph = mx.onnx.to_model(model.symbol, model.params, dims)
    assert [value.name for value in graph.outputs] == model.symbol.list_outputs()
    for got, want, tolerance in zip(run(graph, model.inputs), model.outputs, model.tolerances, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


ONE_SAMPLE_ONLY = {"sesr_2x"}
"""Models that make a fixed 1 of the number of samples, by Reshape."""


@pytest.mark.parametrize("name", ["lapsrn_2x", "waifu2x_upconv7", "noise2noise_unet", "ssh_vgg16_face"])
def test_varying_sizes_vary(name: str) -> None:
    if name not in shared_models.NAMES:
        pytest.skip("the public models are not beside the checkout")
    model = shared_models.load(name)
    params = {key.split(":")[-1]: array for key, array in model.params.items()}
    channels = model.inputs["data"].shape[1]
    data = np.random.default_rng(0).random((1, channels, 96, 128), np.float32)
    dims = {"data": ("batch", channels, "height", "width")}
    assert_same(model.symbol, params, {"data": data}, dims)


def skipped(op: str, case: dict[str, Any]) -> bool:
    described = {**case["params"], **{f"input{n}": tuple(ref[2]) for n, ref in enumerate(case["inputs"])}}
    return any(
        op == row and all(described.get(key) == value for key, value in params.items()) for row, params, _ in UNLIKE
    )


def cases(op: str) -> list[dict[str, Any]]:
    found = [case for case in golden().cases.get(op, []) if case["what"] == "call" and "error" not in case]
    kinds = ("float32", "int32", "int64", "uint8")
    found = [case for case in found if all(kind in kinds for kind, *_ in case["inputs"])]
    return [case for case in found if not skipped(op, case)]


def alone(op: str, params: dict[str, str], inputs: Sequence[np.ndarray]) -> Symbol:
    """Return the symbol of one operator over variables x0, x1, ..."""
    operator = find(op)
    node = Node(operator, "node", dict(params), operator.params.parse(params))
    node.inputs = [Entry(Node(None, f"x{place}", {})) for place in range(len(inputs))]
    return Symbol.of(Entry(node, place) for place in range(operator.visible_outputs(node.params)))


@pytest.mark.parametrize("op", sorted(CONVERTERS))
def test_operator_as_recorded(op: str) -> None:
    operator = find(op)
    done = refused = 0
    for case in cases(op):
        inputs = [golden().array(reference).copy() for reference in case["inputs"]]
        params = operator.params.parse(case["params"])
        try:
            solve(operator, params, tuple(x.shape for x in inputs), tuple(x.dtype for x in inputs))
            want = operator.forward(Call(params), [array.copy() for array in inputs])
        except MXNetError:
            continue
        given = {f"x{place}": array for place, array in enumerate(inputs)}
        shapes = {name: array.shape for name, array in given.items()}
        dtypes = {name: array.dtype for name, array in given.items()}
        try:
            graph = mx.onnx.to_model(alone(op, case["params"], inputs), {}, shapes, dtypes)
        except ExportError:
            refused += 1
            continue
        for got, wanted in zip(run(graph, given), want):
            assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), case
            size = np.abs(wanted[np.isfinite(wanted)]).max(initial=1)
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * size, err_msg=str(case))
        done += 1
    assert done or not cases(op), f"all {refused} cases are refused"


def test_every_operator_has_a_converter_or_none_in_onnx() -> None:
    assert {find(name).name for name in names()} - CONVERTERS.keys() == NO_COUNTERPART


LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
PROBLEMS = [
    {"kernel": 3, "stride": 2, "pad": 1, "adj": 1},
    {"kernel": 3, "stride": 3, "adj": 2, "num_group": 2},
    {"kernel": 4, "stride": 2, "pad": 1, "dilate": 2},
    {"kernel": 2, "stride": 1, "pad": 0, "num_group": 4, "num_filter": 4},
    {"kernel": 4, "stride": 2, "target_shape": 11},
    {"kernel": 5, "stride": 2, "target_shape": 10, "num_group": 2},
    {"kernel": 3, "stride": 2, "pad": 4},
    {"kernel": 2, "stride": 3, "adj": 2, "pad": 1},
]


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_deconvolution(problem: dict[str, int], rank: int, last: bool) -> None:
    words = {key: (value,) * rank for key, value in problem.items() if not key.startswith("num")}
    words |= {"num_filter": 6, "no_bias": False, "layout": LAYOUTS[rank][last]}
    words |= {key: value for key, value in problem.items() if key.startswith("num")}
    symbol = mx.sym.Deconvolution(mx.sym.var("data"), name="up", **words)
    spatial = (6, 5, 7)[:rank]
    shape = (2, *spatial, 4) if last else (2, 4, *spatial)
    rng = np.random.default_rng(rank)
    data = rng.standard_normal(shape, np.float32)
    found, _, _ = symbol.infer_shape(data=shape)
    params = {
        name: rng.standard_normal(size, np.float32) for name, size in zip(symbol.list_arguments()[1:], found[1:])
    }
    varying = (
        shape
        if "target_shape" in problem
        else tuple(size if size == 4 else f"d{axis}" for axis, size in enumerate(shape))
    )
    for dims in (shape, ("batch", *shape[1:]), varying):
        assert_same(symbol, params, {"data": data}, {"data": dims})


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if "adj" not in p and "target_shape" not in p], ids=str)
def test_convolution_with_channels_last(problem: dict[str, int]) -> None:
    words = {key: (value,) * 2 for key, value in problem.items() if not key.startswith("num")}
    words |= {"num_filter": 4, "layout": "NHWC", "num_group": problem.get("num_group", 1)}
    symbol = mx.sym.Convolution(mx.sym.var("data"), name="down", **words)
    rng = np.random.default_rng(2)
    data = rng.standard_normal((2, 9, 8, 4), np.float32)
    found, _, _ = symbol.infer_shape(data=data.shape)
    params = {
        name: rng.standard_normal(size, np.float32) for name, size in zip(symbol.list_arguments()[1:], found[1:])
    }
    assert_same(symbol, params, {"data": data}, {"data": ("n", "h", "w", 4)})


def test_sizes_that_cannot_vary_are_refused_by_name() -> None:
    up = mx.sym.Deconvolution(mx.sym.var("x"), kernel=(4,), stride=(2,), target_shape=(9,), num_filter=1, name="up")
    with pytest.raises(MXNetError, match=r"up.*target_shape needs every spatial size"):
        mx.onnx.to_model(up, {}, {"x": ("batch", 3, "length"), "up_weight": (3, 1, 4)})


def test_a_batch_that_cannot_vary_is_refused() -> None:
    flat = mx.sym.Reshape(mx.sym.var("x"), shape=(1, -1), name="flat")
    out = mx.sym.FullyConnected(flat, mx.sym.var("w"), num_hidden=2, no_bias=True, name="fc")
    params = {"w": np.ones((2, 12), np.float32)}
    with pytest.raises(ExportError, match="the graph does not allow 2: Error in operator fc"):
        mx.onnx.to_model(out, params, {"x": ("batch", 3, 4)})
    assert mx.onnx.to_model(out, params, {"x": (1, 3, 4)}).nodes


def test_operators_without_counterpart_are_listed_together() -> None:
    x = mx.sym.var("x")
    with pytest.raises(ExportError, match="got erfinv, gamma; ONNX has no counterpart"):
        mx.onnx.to_model(mx.sym.erfinv(mx.sym.gamma(x)), {}, {"x": (2,)})


def test_labels_dead_nodes_and_equal_heads() -> None:
    x = mx.sym.var("x")
    out = mx.sym.SoftmaxOutput(mx.sym.Dropout(x), name="softmax")
    group = mx.sym.Group([out, out, x])
    graph = mx.onnx.to_model(group, {}, {"x": ("batch", 3)})
    assert [value.name for value in graph.inputs] == ["x"]
    assert len({value.name for value in graph.outputs}) == 3
    data = np.float32([[1, 2, 3]])
    first, second, third = run(graph, {"x": data})
    assert (first == second).all()
    assert (third == data).all()


def test_missing_shape_and_unknown_input() -> None:
    x = mx.sym.var("x")
    with pytest.raises(ParameterError, match="x: missing"):
        mx.onnx.to_model(x + 1, {}, {})
    with pytest.raises(ParameterError, match="got y; the inputs are x"):
        mx.onnx.to_model(x + 1, {}, {"y": (2,)})


def test_export_model_as_scripts_call_it(tmp_path: Path) -> None:
    up = mx.sym.Deconvolution(mx.sym.var("data"), kernel=(4, 4), stride=(2, 2), num_filter=3, name="up")
    params = {"up_weight": mx.nd.ones((8, 3, 4, 4))}
    prefix = str(tmp_path / "model")
    mx.model.save_checkpoint(prefix, 0, up, params, {})
    path = mx.onnx.export_model(
        f"{prefix}-symbol.json", f"{prefix}-0000.params", [(1, 8, 6, 5)], np.float32, f"{prefix}.onnx"
    )
    model = onnx.load(path)
    assert model.opset_import[0].version >= 17
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 8, 6, 5]
    mx.onnx.export_model(up, params, [(1, 8, 6, 5)], onnx_file_path=path, dynamic=True)
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 8, 6, 5]
    mx.onnx.export_model(up, params, onnx_file_path=path, dynamic=True, dynamic_input_shapes=[("n", 8, None, "w")])
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["n", 8, "data_2", "w"]
