"""Deconvolution and Convolution as operators: through the registry, as array functions, as symbols."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tconv as mx
from oracles import DTYPES, Example, assert_close, by_backend, example
from strategies import examples
from tconv.backends import reference
from tconv.dtypes import as_dtype
from tconv.errors import DTypeError, MXNetError, OutOfMemoryError, ParameterError, ShapeError
from tconv.geometry import Geometry
from tconv.operators import registry

Array = np.ndarray[Any, Any]

LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}


def spelt(geometry: Geometry, bias: bool) -> dict[str, Any]:
    """Spell the parameters that Deconvolution and Convolution share."""
    axes = geometry.axes
    return {
        "kernel": tuple(axis.kernel for axis in axes),
        "stride": tuple(axis.stride for axis in axes),
        "dilate": tuple(axis.dilation for axis in axes),
        "pad": tuple(axis.pad_lo for axis in axes),
        "num_group": geometry.groups,
        "layout": LAYOUTS[len(axes)][geometry.channels_last],
        "no_bias": not bias,
    }


def deconvolution_words(geometry: Geometry, bias: bool) -> dict[str, Any]:
    adj = tuple(axis.adj for axis in geometry.axes)
    return {**spelt(geometry, bias), "adj": adj, "num_filter": geometry.filters}


def convolution_words(geometry: Geometry, bias: bool) -> dict[str, Any]:
    return {**spelt(geometry, bias), "num_filter": geometry.channels}


@st.composite
def problems(draw: st.DrawFn) -> Example:
    """Draw a problem MXNet can spell: pads equal and not negative, no empty output."""
    case = draw(examples())
    axes = []
    for axis in case.geometry.axes:
        full = axis.out + axis.pad_lo + axis.pad_hi
        pad = draw(st.integers(0, min(3, (full - 1) // 2)))
        axes.append(axis._replace(out=full - 2 * pad, pad_lo=pad, pad_hi=pad))
    geometry = replace(case.geometry, axes=tuple(axes))
    return example(geometry, case.small.dtype.name, draw(st.integers(0, 99)), bias=draw(st.booleans()))


def nd(array: Array) -> Any:
    return mx.nd.NDArray(array.copy())


def wide(case: Example) -> Example:
    return case.map(lambda array: array.astype(np.float64))


class Face:
    """One operator over a problem: which array is its data, which its output, which pass computes what."""

    def __init__(self, case: Example, transposed: bool) -> None:
        self.case = case
        self.name = "Deconvolution" if transposed else "Convolution"
        sides = ("small", "large") if transposed else ("large", "small")
        self.data, self.grad = getattr(case, sides[0]), getattr(case, sides[1])
        self.bias = case.large_bias if transposed else case.small_bias
        passes = ("forward", "data_gradient") if transposed else ("data_gradient", "forward")
        self.forward, self.data_gradient = passes
        words = deconvolution_words if transposed else convolution_words
        self.words = words(case.geometry, self.bias is not None)

    @property
    def arrays(self) -> list[Array]:
        return [self.data, self.case.weight, *([] if self.bias is None else [self.bias])]

    def check(self, out: Array, grads: list[Array]) -> None:
        """Hold an output and the gradients of its inputs against the reference."""
        assert_close(self.forward, out, self.case, by_backend(reference, self.forward, wide(self.case)))
        plain = replace(self.case, small_bias=None, large_bias=None)
        for name, got in zip((self.data_gradient, "weight_gradient"), grads):
            assert_close(name, got, plain, by_backend(reference, name, wide(plain)))
        if self.bias is not None:
            axis = self.grad.ndim - 1 if self.case.geometry.channels_last else 1
            others = tuple(a for a in range(self.grad.ndim) if a != axis)
            expected = self.grad.astype(np.float64).sum(axis=others)
            assert grads[2].dtype == self.grad.dtype
            slack = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3}[self.grad.dtype.name]
            scale = 1 + np.abs(self.grad.astype(np.float64)).sum(axis=others)
            assert (np.abs(grads[2].astype(np.float64) - expected) <= slack * scale).all()


@settings(max_examples=80)
@given(problems(), st.booleans())
def test_array_function_agrees_with_the_reference(case: Example, transposed: bool) -> None:
    face = Face(case, transposed)
    arrays = [nd(array) for array in face.arrays]
    for array in arrays:
        array.attach_grad()
    with mx.autograd.record():
        out = getattr(mx.nd, face.name)(*arrays, **face.words)
    out.backward(nd(face.grad))
    face.check(out._data, [array.grad._data for array in arrays])


@settings(max_examples=80)
@given(problems(), st.booleans(), st.sampled_from(["write", "add"]))
def test_symbol_agrees_with_the_reference(case: Example, transposed: bool, grad_req: str) -> None:
    face = Face(case, transposed)
    symbol = getattr(mx.sym, face.name)(mx.sym.Variable("data"), name="layer", **face.words)
    names = symbol.list_arguments()
    assert names == ["data", "layer_weight", "layer_bias"][: len(face.arrays)]
    if len(face.data):  # 0 stands for an unknown size there
        shapes, out_shapes, _ = symbol.infer_shape(data=face.data.shape)
        assert shapes == [array.shape for array in face.arrays]
        assert out_shapes == [face.grad.shape]
    args = dict(zip(names, map(nd, face.arrays)))
    before = 3.0 if grad_req == "add" else 7.0
    grads = {name: nd(np.full_like(array._data, before)) for name, array in args.items()}
    executor = symbol.bind(mx.cpu(), args, grads, grad_req)
    (out,) = executor.forward(is_train=True)
    executor.backward(nd(face.grad))
    found = [grads[name]._data for name in names]
    if grad_req == "add":
        plain = symbol.bind(mx.cpu(), args, {name: nd(array._data) for name, array in args.items()})
        plain.forward(is_train=True)
        plain.backward(nd(face.grad))
        written = [plain.grad_dict[name]._data for name in names]
        for added, alone in zip(found, written):
            slack = {"float16": 2e-3, "bfloat16": 2e-2}.get(alone.dtype.name, 1e-5)
            expected = alone.astype(np.float64) + before
            np.testing.assert_allclose(added.astype(np.float64), expected, rtol=slack, atol=slack * before)
        found = written
    face.check(out._data, found)


def numeric_gradients(value: Callable[[list[Array]], float], arrays: list[Array]) -> list[Array]:
    """Differentiate; the operators are linear in each array, so a step of any size is exact."""
    slopes = []
    for position, array in enumerate(arrays):
        slope = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[index] = 0.5
            up, down = [*arrays], [*arrays]
            up[position], down[position] = array + step, array - step
            slope[index] = value(up) - value(down)
        slopes.append(slope)
    return slopes


NUMERIC = [
    ("Deconvolution", (2, 4, 3), {"kernel": 3, "stride": 2, "pad": 1, "adj": 1, "num_filter": 6, "num_group": 2}),
    (
        "Deconvolution",
        (1, 3, 4, 2),
        {"kernel": (2, 3), "stride": (3, 2), "dilate": (2, 3), "num_filter": 2, "layout": "NHWC"},
    ),
    (
        "Deconvolution",
        (1, 2, 2, 3, 2),
        {"kernel": (2, 1, 2), "dilate": (2, 1, 1), "stride": (1, 2, 2), "num_filter": 2},
    ),
    ("Deconvolution", (1, 2, 3, 3), {"kernel": (3, 3), "stride": (2, 2), "target_shape": (6, 6), "num_filter": 2}),
    ("Convolution", (2, 4, 7), {"kernel": 3, "stride": 2, "pad": 1, "num_filter": 6, "num_group": 2}),
    (
        "Convolution",
        (1, 5, 6, 4),
        {"kernel": (2, 3), "stride": (1, 2), "dilate": (2, 1), "num_filter": 2, "layout": "NHWC"},
    ),
    ("Convolution", (1, 2, 4, 3, 4), {"kernel": (2, 1, 2), "dilate": (2, 1, 1), "num_filter": 2}),
]


@pytest.mark.parametrize(("name", "shape", "words"), NUMERIC)
def test_gradients_are_numeric_gradients(name: str, shape: tuple[int, ...], words: dict[str, Any]) -> None:
    words = {**words, "no_bias": False}
    symbol = getattr(mx.sym, name)(mx.sym.Variable("data"), name="layer", **words)
    shapes, (out_shape,), _ = symbol.infer_shape(data=shape)
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(s) for s in shapes]
    weights = generator.standard_normal(out_shape)

    def value(at: list[Array]) -> float:
        return float((getattr(mx.nd, name)(*map(nd, at), **words)._data * weights).sum())

    slopes = numeric_gradients(value, arrays)
    taped = [nd(array) for array in arrays]
    for array in taped:
        array.attach_grad()
    with mx.autograd.record():
        total = (getattr(mx.nd, name)(*taped, **words) * nd(weights)).sum()
    total.backward()
    executor = symbol.bind(
        mx.cpu(), [nd(array) for array in arrays], args_grad=[nd(np.zeros_like(array)) for array in arrays]
    )
    executor.forward(is_train=True)
    executor.backward(nd(weights))
    for slope, array, grad in zip(slopes, taped, executor.grad_arrays):
        np.testing.assert_allclose(array.grad._data, slope, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(grad._data, slope, rtol=1e-9, atol=1e-9)


# Spellings.


X = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
W = np.arange(3 * 2 * 3 * 3, dtype=np.float32).reshape(3, 2, 3, 3)
Y = mx.nd.Deconvolution(X, W, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=2).asnumpy()

SAME: list[dict[str, Any]] = [
    {"kernel": "(3,3)", "stride": "[2, 2]", "pad": " (1,1) ", "num_filter": "2"},
    {"kernel": [3, 3], "stride": [2, 2], "pad": [1, 1], "num_filter": 2},
    {"kernel": (np.int64(3), np.int8(3)), "stride": (2, np.uint8(2)), "pad": (1, 1), "num_filter": np.int32(2)},
    {"kernel": "(3L, 3L)", "stride": "(+2,02,)", "pad": (1, 1), "num_filter": "+2", "num_group": "01"},
    {"no_bias": True, "workspace": -1, "cudnn_tune": "off", "cudnn_off": 1, "layout": "NCHW"},
    {
        "no_bias": "TRUE",
        "workspace": 0,
        "cudnn_tune": None,
        "cudnn_off": False,
        "layout": None,
        "target_shape": None,
    },
    {"dilate": (), "adj": (), "target_shape": (0, 0), "workspace": 2**64 - 1, "num_group": np.uint16(1)},
    {"pad": (0, 0), "adj": (1, 1), "target_shape": (7, 9)},
    {"bias": None, "name": "ignored"},
]


@pytest.mark.parametrize("words", SAME)
def test_spellings_mean_the_same(words: dict[str, Any]) -> None:
    said = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1), "num_filter": 2, **words}
    np.testing.assert_array_equal(mx.nd.Deconvolution(X, W, **said).asnumpy(), Y)
    said.pop("bias", None)
    symbol = mx.sym.Deconvolution(mx.sym.Variable("x"), mx.sym.Variable("w"), **said)
    executor = symbol.bind(mx.cpu(), {"x": nd(X), "w": nd(W)})
    np.testing.assert_array_equal(executor.forward()[0].asnumpy(), Y)


def test_arguments_in_their_order() -> None:
    bias = np.array([1, -1], np.float32)
    got = mx.nd.Deconvolution(
        X, W, bias, (3, 3), (2, 2), (1, 1), (1, 1), (0, 0), (0, 0), 2, 1, 512, False, "off", False, "NCHW"
    )
    np.testing.assert_array_equal(got.asnumpy(), Y + bias.reshape(2, 1, 1))


def test_symbol_keeps_the_text_of_parameters() -> None:
    symbol = mx.sym.Deconvolution(kernel=[3, 3], num_filter=np.int64(2), no_bias=False, workspace=16, name="d")
    assert symbol.list_attr() == {"kernel": "[3, 3]", "num_filter": "2", "no_bias": "False", "workspace": "16"}


def test_out_is_written() -> None:
    out = mx.nd.full(Y.shape, 7)
    got = mx.nd.Deconvolution(X, W, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_filter=2, out=out)
    assert got is out
    np.testing.assert_array_equal(out.asnumpy(), Y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_numpy_and_of_mxnet_mix(dtype: str) -> None:
    x, w = X.astype(as_dtype(dtype)), (W / 8).astype(as_dtype(dtype))
    words = {"kernel": (3, 3), "num_filter": 2}
    results = [
        mx.nd.Deconvolution(one, other, **words)._data
        for one, other in ((x, w), (nd(x), w), (x, nd(w)), (nd(x), nd(w)))
    ]
    assert results[0].dtype == x.dtype
    for result in results[1:]:
        assert result.tobytes() == results[0].tobytes()


def test_empty_batch() -> None:
    x, w = nd(X[:0]), nd(W)
    for array in (x, w):
        array.attach_grad()
    with mx.autograd.record():
        out = mx.nd.Deconvolution(x, w, kernel=(3, 3), num_filter=2)
    assert out.shape == (0, 2, 6, 7)
    out.backward()
    assert x.grad.shape == (0, 3, 4, 5)
    assert (w.grad.asnumpy() == 0).all()


def test_training_makes_no_difference() -> None:
    symbol = mx.sym.Deconvolution(mx.sym.Variable("x"), mx.sym.Variable("w"), kernel=(3, 3), num_filter=2)
    executor = symbol.bind(mx.cpu(), {"x": nd(X), "w": nd(W)})
    calm = executor.forward(is_train=False)[0].asnumpy()
    np.testing.assert_array_equal(executor.forward(is_train=True)[0].asnumpy(), calm)


# What is refused, and when.

GOOD: dict[str, Any] = {"kernel": (3, 3), "num_filter": 2}

AT_CREATION: list[tuple[str, dict[str, Any]]] = [
    ("kernel: missing", {"kernel": ...}),
    ("num_filter: missing", {"num_filter": ...}),
    ("foo: unknown argument", {"foo": 1}),
    ("kernel: got", {"kernel": (3, 3, 3, 3)}),
    ("kernel: got", {"kernel": ()}),
    ("kernel: got", {"kernel": None}),
    ("kernel: got", {"kernel": "3,3"}),
    ("kernel: got", {"kernel": (3.0, 3)}),
    ("kernel: got", {"kernel": np.array([3, 3])}),
    ("stride: got", {"stride": 2}),
    ("dilate: got", {"dilate": (1, 1, 1)}),
    ("pad: got", {"pad": (1,)}),
    ("adj: got", {"adj": None}),
    ("target_shape: got", {"target_shape": "all"}),
    ("num_filter: got 0; need at least 1", {"num_filter": 0}),
    ("num_filter: got '2.0'", {"num_filter": 2.0}),
    ("num_filter: got 'True'", {"num_filter": True}),
    ("num_group: got", {"num_group": 2**32}),
    ("workspace: got", {"workspace": "1MB"}),
    ("no_bias: got '2'", {"no_bias": 2}),
    ("cudnn_tune: got 'best'", {"cudnn_tune": "best"}),
    ("cudnn_off: got 'None'", {"cudnn_off": None}),
    ("layout: got 'nchw'", {"layout": "nchw"}),
    ("layout: got 'NWC'", {"layout": "NWC"}),
]


def words_of(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}


@pytest.mark.parametrize(("sentence", "changes"), AT_CREATION)
def test_refused_at_creation(sentence: str, changes: dict[str, Any]) -> None:
    pattern = rf"^Deconvolution: {re.escape(sentence)}"
    with pytest.raises(MXNetError, match=pattern):
        mx.sym.Deconvolution(mx.sym.Variable("x"), **words_of(changes))
    with pytest.raises(ParameterError, match=pattern):
        mx.nd.Deconvolution(X, W, **words_of(changes))


AT_INFERENCE: list[tuple[str, dict[str, Any], type[MXNetError]]] = [
    ("data: got shape (2, 3, 4, 5); kernel (3,) needs 3 dimensions", {"kernel": 3}, ShapeError),
    ("target_shape: got (60, 6) (too big target shape)", {"target_shape": (60, 6)}, ShapeError),
    ("target_shape: got (5, 6); at stride 1", {"target_shape": (5, 6)}, ShapeError),
    ("target_shape: got (4,); need 2 sizes", {"target_shape": 4}, ShapeError),
    ("target_shape: got (-4, 5); need 2 sizes", {"target_shape": (-4, 5)}, ShapeError),
    ("data: got 3 channels; need a multiple of num_group 2", {"num_group": 2}, ShapeError),
    ("num_filter: got 2; it must divide by num_group 3", {"num_group": 3}, ShapeError),
    ("num_group: got 0; need at least 1", {"num_group": 0}, ShapeError),
    ("num_group: got -1; need at least 1", {"num_group": -1}, ShapeError),
    ("num_filter: got -2; need at least 1", {"num_filter": -2}, ShapeError),
    ("kernel: got (0, 3); each entry", {"kernel": (0, 3)}, ShapeError),
    ("stride: got (0, 1); each entry", {"stride": (0, 1)}, ShapeError),
    ("dilate: got (1, 0); each entry", {"dilate": (1, 0)}, ShapeError),
    ("adj: got (1, 0) with stride (1, 1)", {"adj": (1, 0)}, ShapeError),
    ("adj: got (-1, 0); no entry", {"adj": (-1, 0)}, ShapeError),
    ("pad: got (-1, 0); no entry", {"pad": (-1, 0)}, ParameterError),
    ("pad: got ((9, 9), (0, 0)); the output on axis 0", {"pad": (9, 0)}, ShapeError),
    ("layout: got 'NCDHW'; need a layout of 2", {"layout": "NCDHW"}, ParameterError),
    ("layout: got 'NCW'; need a layout of 2", {"layout": "NCW"}, ParameterError),
]


@pytest.mark.parametrize(("sentence", "changes", "kind"), AT_INFERENCE)
def test_refused_at_inference(sentence: str, changes: dict[str, Any], kind: type[MXNetError]) -> None:
    symbol = mx.sym.Deconvolution(mx.sym.Variable("x"), name="layer", **words_of(changes))
    x, w, out = nd(X), nd(W), mx.nd.full((2, 2, 6, 7), 7)
    for ask in (lambda: symbol.infer_shape(x=X.shape), lambda: symbol.simple_bind(mx.cpu(), x=X.shape)):
        # simple_bind raises a plain RuntimeError, as MXNet does.
        with pytest.raises(RuntimeError, match=re.escape(f"Error in operator layer: Deconvolution: {sentence}")):
            ask()
    with pytest.raises(kind, match=rf"^{re.escape(f'Deconvolution: {sentence}')}"):
        mx.nd.Deconvolution(x, w, out=out, **words_of(changes))
    assert (x.asnumpy() == X).all()
    assert (w.asnumpy() == W).all()
    assert (out.asnumpy() == 7).all()


def test_weight_and_bias_of_another_shape() -> None:
    bias = np.zeros(2, np.float32)
    for sentence, arrays in (
        (r"weight: .*\(3, 2, 3, 2\).*\(3, 2, 3, 3\)", (X, W[..., :2], bias)),
        (r"weight: .*\(2, 2, 3, 3\).*\(3, 2, 3, 3\)", (X, W[:2], bias)),
        (r"bias: .*\(1,\).*\(2,\)", (X, W, bias[:1])),
    ):
        with pytest.raises(ShapeError, match=rf"Deconvolution: {sentence}"):
            mx.nd.Deconvolution(*arrays, no_bias=False, **GOOD)
        names = ("x", "w", "b")
        symbol = mx.sym.Deconvolution(*map(mx.sym.Variable, names), no_bias=False, **GOOD)
        with pytest.raises(MXNetError, match=sentence):
            symbol.infer_shape(**{name: array.shape for name, array in zip(names, arrays)})


def test_number_of_inputs() -> None:
    with pytest.raises(MXNetError, match="bias"):
        mx.nd.Deconvolution(X, W, np.zeros(2, np.float32), **GOOD)
    with pytest.raises(MXNetError, match="bias"):
        mx.sym.Deconvolution(*map(mx.sym.Variable, "xwb"), **GOOD)
    with pytest.raises(MXNetError, match="bias"):
        mx.nd.Deconvolution(X, W, no_bias=False, **GOOD)
    with pytest.raises(MXNetError, match="weight"):
        mx.nd.Deconvolution(X, **GOOD)


def test_types_have_to_agree() -> None:
    with pytest.raises(DTypeError, match=r"Deconvolution: weight: got float64; .* float32"):
        mx.nd.Deconvolution(X, W.astype(np.float64), **GOOD)
    with pytest.raises(DTypeError, match=r"Deconvolution: data: got int32; need a floating point type"):
        mx.nd.Deconvolution(X.astype(np.int32), W.astype(np.int32), **GOOD)


def test_sizes_beyond_memory() -> None:
    for stride in (2**31, 2**40, 2**62):
        with pytest.raises(OutOfMemoryError):
            mx.nd.Deconvolution(X, W, stride=(stride, stride), **GOOD)
    with pytest.raises(MXNetError):
        mx.nd.Deconvolution(X, W, kernel=(2**62, 3), num_filter=2)
    # Inference has no limit but the numbers themselves.
    symbol = mx.sym.Deconvolution(mx.sym.Variable("x"), kernel=(2**40, 1), num_filter=2**32 - 1)
    arguments, outputs, _ = symbol.infer_shape(x=(1, 1, 2, 2))
    assert arguments[1] == (1, 2**32 - 1, 2**40, 1)
    assert outputs == [(1, 2**32 - 1, 2**40 + 1, 2)]


def test_text_of_thousands_of_digits() -> None:
    for name in ("kernel", "num_filter", "workspace"):
        with pytest.raises(ParameterError, match=rf"^Deconvolution: {name}: got "):
            mx.nd.Deconvolution(X, W, **{**GOOD, name: 10**5000})


# Inference of what is partly known.


@settings(max_examples=60)
@given(problems(), st.booleans(), st.data())
def test_partial_shapes(case: Example, transposed: bool, data: st.DataObject) -> None:
    face = Face(case, transposed)
    known = [data.draw(st.booleans()) for _ in face.data.shape]
    partial = tuple(size if told and size else 0 for size, told in zip(face.data.shape, known))
    symbol = getattr(mx.sym, face.name)(mx.sym.Variable("data"), name="layer", **face.words)
    arguments, (out,), _ = symbol.infer_shape_partial(data=partial)
    last = case.geometry.channels_last
    maps = len(partial) - 1 if last else 1
    expected = [0 if not size else whole for size, whole in zip(partial, face.grad.shape)]
    expected[maps] = face.grad.shape[maps]
    assert list(out) == expected
    weight = list(case.weight.shape)
    if not partial[maps]:
        weight[0 if transposed else maps] = 0
    assert list(arguments[1]) == weight


def test_registry_knows_the_operators() -> None:
    for name, order in (
        ("Deconvolution", "kernel stride dilate pad adj target_shape num_filter num_group workspace no_bias"),
        ("Convolution", "kernel stride dilate pad num_filter num_group workspace no_bias"),
    ):
        operator = registry.find(name)
        assert operator.name == name
        rows = [row.name for row in operator.params.rows()]
        assert rows == [*order.split(), "cudnn_tune", "cudnn_off", "layout"]
        params = operator.params.parse({"kernel": "(2, 2)", "num_filter": "2", "no_bias": "0"})
        assert operator.input_names(params) == ("data", "weight", "bias")
        assert operator.output_names(params) == ("output",)


def test_type_inference_goes_from_data_or_back_from_the_output() -> None:
    operator = registry.find("Deconvolution")
    params = operator.params.parse({"kernel": "(2, 2)", "num_filter": "2"})
    half, none = np.dtype("float16"), None
    assert registry.infer_dtypes(operator, params, [half, none], [none]) == ([half, half], [half])
    assert registry.infer_dtypes(operator, params, [none, none], [half]) == ([half, half], [half])
    assert registry.infer_dtypes(operator, params, [none, half], [none]) == ([none, half], [none])
