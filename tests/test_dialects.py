"""Layers rewritten from one library's words to another's, held against the libraries themselves where they are."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tconv
from tconv import dialects
from tconv.dialects import DIALECTS, Layer, Translation, WeightOrder, finish
from tconv.errors import ParameterError

Array = np.ndarray[Any, Any]

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@st.composite
def layers(draw: st.DrawFn, ranks: tuple[int, ...] = (1, 2, 3), most_groups: int = 3) -> Layer:
    """Draw a layer whose cuts may be uneven, and negative."""
    rank = draw(st.sampled_from(ranks))
    per_axis = st.tuples(*[st.integers(1, 4)] * rank)
    kernel, stride = draw(st.tuples(*[st.integers(1, 5)] * rank)), draw(per_axis)
    dilation = draw(st.tuples(*[st.integers(1, 2)] * rank))
    cut = []
    for k, s, d in zip(kernel, stride, dilation):
        low = draw(st.integers(-2, 3))
        high = draw(st.one_of(st.just(low), st.integers(low - s + 1, low), st.integers(-3, 3)))
        least = 2 * s + (k - 1) * d + 1  # of three inputs
        cut.append((low, high) if low + high < least and max(low, high) < least else (0, 0))
    groups = draw(st.integers(1, most_groups))
    channels, filters = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    return Layer(kernel, stride, dilation, tuple(cut), channels, filters, groups, draw(st.booleans()))


def arrays(layer: Layer, seed: int) -> tuple[Array, Array, Array]:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 6, layer.rank)
    assert layer.channels is not None
    assert layer.filters is not None
    x = generator.standard_normal((2, layer.channels, *sizes)).astype(np.float32)
    w = generator.standard_normal((layer.channels, layer.filters // layer.groups, *layer.kernel)).astype(np.float32)
    return x, w, generator.standard_normal(layer.filters).astype(np.float32)


def ours(layer: Layer, x: Array, w: Array, bias: Array | None) -> Array:
    y: Array = tconv.deconvolution(x, w, bias, **layer.words)
    assert y.shape[2:] == dialects.output(layer, x.shape[2:])
    return y


def check(translation: Translation, layer: Layer, got: Array, x: Array, w: Array, bias: Array | None) -> None:
    assert translation.exact == (not any(size for pair in translation.cut for size in pair))
    assert bool(translation.differences) or (translation.exact and not translation.weight.filled)
    np.testing.assert_allclose(finish(got, translation.cut, bias), ours(layer, x, w, bias), **TOLERANCE)


@settings(max_examples=60)
@given(layers(), st.integers(0, 99))
def test_pytorch_gives_the_same_numbers(layer: Layer, seed: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, w, b = arrays(layer, seed)
    translation = dialects.write("torch", layer)
    module = eval(translation.text, {"torch": torch})
    module.weight.data = torch.from_numpy(translation.weight.apply(w, layer.groups).copy())
    if layer.bias:
        module.bias.data = torch.from_numpy(b)
    with torch.no_grad():
        got = module(torch.from_numpy(x)).numpy()
    check(translation, layer, got, x, w, b if layer.bias else None)
    assert dialects.read("torch", translation.text) == said(layer, translation)


@settings(max_examples=60)
@given(layers(ranks=(1, 2)), st.integers(0, 99))
def test_onnx_runtime_gives_the_same_numbers(layer: Layer, seed: int) -> None:
    pytest.importorskip("onnx", reason="ONNX is not installed")
    x, w, b = arrays(layer, seed)
    translation = dialects.write("onnx", layer)
    inputs = {"X": x, "W": translation.weight.apply(w, layer.groups), **({"B": b} if layer.bias else {})}
    got = by_onnx_runtime(translation.arguments, inputs)
    check(translation, layer, got, x, w, b if layer.bias else None)


def by_onnx_runtime(attributes: dict[str, Any], inputs: dict[str, Array]) -> Array:
    from onnx import TensorProto, helper

    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    node = helper.make_node("ConvTranspose", list(inputs), ["Y"], **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name, a in inputs.items()]
    result = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", values, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, inputs)
    return np.asarray(got)


@settings(max_examples=40)
@given(layers(), st.integers(0, 99))
def test_jax_gives_the_same_numbers(layer: Layer, seed: int) -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    x, w, _ = arrays(layer, seed)
    translation = dialects.write("jax", layer)
    spatial = "DHW"[-layer.rank :]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    got = jax.lax.conv_transpose(
        np.moveaxis(x, 1, -1),
        translation.weight.apply(w, layer.groups),
        dimension_numbers=numbers,
        precision="highest",
        **translation.arguments,
    )
    assert translation.exact
    check(translation, layer, np.moveaxis(np.asarray(got), -1, 1), x, w, None)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@settings(max_examples=40)
@given(layers(), st.integers(0, 99))
def test_keras_gives_the_same_numbers(layer: Layer, seed: int) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    x, w, b = arrays(layer, seed)
    translation = dialects.write("keras", layer)
    refuses = any("refuses" in sentence for sentence in translation.differences)
    if refuses:
        with pytest.raises(ValueError, match="dilation"):
            eval(translation.text, {"keras": keras})
        return
    module = eval(translation.text, {"keras": keras})
    module.data_format = "channels_last"
    moved = np.moveaxis(x, 1, -1)
    module.build(moved.shape)
    module.set_weights([translation.weight.apply(w, layer.groups), *([b] if layer.bias else [])])
    got = keras.ops.convert_to_numpy(module(moved))
    check(translation, layer, np.moveaxis(got, -1, 1), x, w, b if layer.bias else None)


def said(layer: Layer, translation: Translation) -> Layer:
    """Return what the words of a translation say, which is the layer less what is still to be cut."""
    cut = tuple((low - a, high - b) for (low, high), (a, b) in zip(layer.cut, translation.cut))
    return Layer(**{**vars(layer), "cut": cut})


@given(layers(), st.sampled_from(["tconv", "mxnet", "torch", "onnx", "keras", "jax", "onednn"]))
def test_what_is_written_reads_back(layer: Layer, dialect: str) -> None:
    translation = dialects.write(dialect, layer)
    # What these functions read from the weight.
    kernel = {"tconv": {"kernel": layer.kernel}, "jax": {"kernel_size": layer.kernel}}.get(dialect, {})
    back = dialects.read_arguments(dialect, {**translation.arguments, **kernel}, name=f"{layer.rank}d")
    expected = said(layer, translation)
    assert (back.kernel, back.stride, back.dilation, back.cut) == (
        expected.kernel,
        expected.stride,
        expected.dilation,
        expected.cut,
    )


@given(layers(), st.integers(0, 99))
def test_weights_in_groups_and_filled_up_say_the_same(layer: Layer, seed: int) -> None:
    x, w, b = arrays(layer, seed)
    filled = WeightOrder("IO*", filled=True).apply(w, layer.groups)
    plain = Layer(**{**vars(layer), "groups": 1})
    np.testing.assert_allclose(ours(plain, x, filled, b), ours(layer, x, w, b), **TOLERANCE)
    grouped = WeightOrder("GOI*").apply(w, layer.groups)
    assert grouped.shape[:3] == (layer.groups, w.shape[1], w.shape[0] // layer.groups)
    np.testing.assert_array_equal(grouped[-1, -1, -1], w[-1, -1])
    flipped = WeightOrder("OI*", flipped=True).apply(w[: w.shape[0] // layer.groups])
    np.testing.assert_array_equal(flipped[0, 0].ravel(), w[0, 0].ravel()[::-1])


def test_readers_know_the_rules_of_their_library() -> None:
    for dialect, text, sizes, cut in (
        ("torch", "nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1)", None, ((1, 0), (1, 0))),
        ("torch", "ConvTranspose1d(4, 4, 5, 3, output_size=(20,))", (6,), ((0, 0),)),
        ("mxnet", "mx.sym.Deconvolution(kernel=(4,), stride=(2,), pad=(1,), num_filter=8)", None, ((1, 1),)),
        ("mxnet", "Deconvolution(kernel=(4,), stride=(3,), num_filter=1, target_shape=(13,))", (5,), ((2, 1),)),
        ("mxnet", "gluon.nn.Conv2DTranspose(8, (4, 4), (2, 2), (1, 1), (1, 0))", None, ((1, 0), (1, 1))),
        ("onnx", "ConvTranspose(kernel_shape=[3], strides=[2], auto_pad='SAME_UPPER')", None, ((0, 1),)),
        ("onnx", "ConvTranspose(kernel_shape=[3], strides=[2], auto_pad='SAME_LOWER')", None, ((1, 0),)),
        ("onnx", "ConvTranspose(kernel_shape=[3], strides=[3], output_shape=[10])", (3,), ((0, -1),)),
        ("keras", "layers.Conv2DTranspose(8, 3, 2, padding='same')", None, ((0, 1), (0, 1))),
        ("keras", "Conv1DTranspose(8, 2, 3)", None, ((0, -1),)),
        ("keras", "Conv1DTranspose(8, 3, 2, 'same', 1)", None, ((0, 1),)),
        ("tensorflow", "tf.conv2d_transpose(kernel_size=4, strides=2, padding='SAME')", None, ((1, 1), (1, 1))),
        ("tensorflow", "conv1d_transpose(kernel_size=3, strides=2, output_shape=7)", (3,), ((0, 0),)),
        ("jax", "lax.conv_transpose(strides=(2,), padding='SAME', kernel_size=(4,))", None, ((1, 1),)),
        ("jax", "conv_transpose(strides=(2,), padding=[(2, 3)], kernel_size=(4,))", None, ((1, 0),)),
        ("cudnn", "cudnnConvolutionBackwardData(pad=(1,), filter=(8, 4, 3), stride=2, dx=(10,))", (5,), ((1, 0),)),
        ("onednn", "deconvolution_forward(kernel=(3,), strides=2, padding_l=1, padding_r=0)", None, ((1, 0),)),
        ("tconv", "tconv.deconvolution(kernel=(3,), stride=2, pad=((1, -1),), adj=1)", None, ((1, -2),)),
    ):  # fmt: skip
        assert dialects.read(dialect, text, sizes).cut == cut, text


def test_every_library_is_written_with_symbols() -> None:
    layer = dialects.read("torch", "ConvTranspose2d(64, 32, 4, stride=2, padding=1)")
    assert str(dialects.output(layer, ("H", 7))) == "(2*H, 14)"
    texts = {dialect: dialects.write(dialect, layer) for dialect in DIALECTS}
    assert all(translation.exact for translation in texts.values())
    assert "output_shape=[N, 2*H, 2*W, 32]" in texts["tensorflow"].text
    assert "dx=(N, 32, 2*H, 2*W)" in texts["cudnn"].text
    for dialect in DIALECTS:
        assert set(dialects.words(dialect)) == set(dialects.words("torch"))


@pytest.mark.parametrize(
    ("dialect", "text", "sentence"),
    [
        ("caffe", "f()", "dialect: got 'caffe'; need one of tconv, mxnet"),
        ("torch", "Linear(3, 4)", "layer: got 'Linear'; torch has ConvTranspose1d"),
        ("torch", "ConvTranspose2d(3, 4", "layer: got 'ConvTranspose2d(3, 4'; need a call whose"),
        ("torch", "ConvTranspose2d(3, 4, k)", "layer: got"),
        ("torch", "__import__('os').system('true')", "layer: got"),
        ("torch", "ConvTranspose2d(3, 4)", "torch: kernel_size: missing"),
        ("torch", "ConvTranspose2d(3, 4, (3,))", "kernel_size: got (3,); need an int or 2 of them"),
        ("torch", "ConvTranspose2d(3, 4, 3, strides=2)", "torch: got strides; known are"),
        ("torch", "ConvTranspose1d(3, 4, 3, padding_mode='circular')", "padding_mode: got 'circular'"),
        ("torch", "ConvTranspose1d(3, 4, 0)", "kernel: got 0; need at least 1"),
        ("torch", "ConvTranspose1d(3, 4, 3, groups=0)", "groups: got 0; need at least 1"),
        ("keras", "Conv2DTranspose(8, 3, padding='full')", "padding: got 'full'; need one of valid, same"),
        ("onnx", "ConvTranspose(kernel_shape=[3], output_shape=[5])", "output_shape: ONNX derives pads"),
        ("onnx", "ConvTranspose(strides=2)", "kernel_shape: got None; need one entry an axis"),
        ("jax", "conv_transpose(kernel_size=(3,), padding=[1])", "jax: got"),
    ],
)
def test_refuses(dialect: str, text: str, sentence: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(sentence)):
        dialects.read(dialect, text)


def onnx_node_tests() -> list[Any]:
    """Return ONNX's own tests of ConvTranspose, which a wheel of it can generate."""
    try:
        # Of this module alone: others warn while they are imported.
        import onnx.backend.test.case.node.convtranspose
    except ImportError:
        return []
    cases = onnx.backend.test.case.node._NodeTestCases
    return [case for case in cases if case.name.startswith("test_convtranspose")]


@pytest.mark.skipif(not onnx_node_tests(), reason="ONNX is not installed")
@pytest.mark.parametrize("case", onnx_node_tests(), ids=lambda case: case.name)
def test_onnx_own_node_tests(case: Any) -> None:
    from onnx import helper, numpy_helper

    def array(value: Any) -> Array:
        return value if isinstance(value, np.ndarray) else numpy_helper.to_array(value)

    (node,) = case.model.graph.node
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes = {name: v.decode() if isinstance(v, bytes) else v for name, v in attributes.items()}
    for inputs, (expected,) in case.data_sets:
        x, w, *b = map(array, inputs)
        attributes.setdefault("kernel_shape", list(w.shape[2:]))
        layer = dialects.read_arguments("onnx", attributes, x.shape[2:])
        y = ours(layer, x, w, b[0] if b else None)
        np.testing.assert_allclose(y, array(expected), rtol=1e-5, atol=1e-6)


def test_the_page_shows_what_is_known() -> None:
    page = (Path(__file__).parent.parent / "docs" / "sizes.md").read_text(encoding="utf-8")
    layer = Layer((4,), (2,), (1,), ((1, 1),))
    for dialect in DIALECTS:
        cells = [dialect, *dialects.words(dialect).values(), str(dialects.write(dialect, layer).weight)]
        assert f"| {' | '.join(cells)} |" in page
