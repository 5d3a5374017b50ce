"""`deconvolution`, its gradients and `convolution` on arrays of any kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tconv
from oracles import DTYPES, Example, assert_close, by_backend, by_engine, example
from strategies import examples
from tconv import convolution, deconvolution, deconvolution_gradients, knobs
from tconv.api import Gradients
from tconv.backends import reference
from tconv.dtypes import as_dtype
from tconv.errors import (
    DTypeError,
    FrameworkError,
    MXNetError,
    OutOfMemoryError,
    ParameterError,
    ShapeError,
)
from tconv.geometry import Geometry

Array = np.ndarray[Any, Any]

LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}


def words(geometry: Geometry) -> dict[str, Any]:
    """Spell a geometry with equal pads in the arguments of `deconvolution`."""
    axes = geometry.axes
    return {
        "stride": tuple(axis.stride for axis in axes),
        "pad": tuple(axis.pad_lo for axis in axes),
        "dilate": tuple(axis.dilation for axis in axes),
        "num_group": geometry.groups,
        "layout": LAYOUTS[len(axes)][geometry.channels_last],
    }


def adjs(geometry: Geometry) -> tuple[int, ...]:
    return tuple(axis.adj for axis in geometry.axes)


@st.composite
def calls(draw: st.DrawFn) -> Example:
    """Draw a problem the words of MXNet can say: pads equal at both ends."""
    case = draw(examples())
    axes = tuple(
        axis._replace(out=axis.out + axis.pad_hi - axis.pad_lo, pad_hi=axis.pad_lo) for axis in case.geometry.axes
    )
    axes = tuple(
        axis if axis.out > 0 else axis._replace(out=axis.out + 2 * axis.pad_lo, pad_lo=0, pad_hi=0) for axis in axes
    )
    geometry = replace(case.geometry, axes=axes)
    return example(geometry, case.small.dtype.name, draw(st.integers(0, 99)), bias=draw(st.booleans()))


@settings(max_examples=120)
@given(calls())
def test_agrees_with_the_reference(case: Example) -> None:
    geometry, dtype = case.geometry, case.small.dtype
    wide = case.map(lambda array: array.astype(np.float64))
    said = words(geometry)
    y = deconvolution(case.small, case.weight, case.large_bias, adj=adjs(geometry), **said)
    assert_close("forward", y, case, by_backend(reference, "forward", wide))
    gradients = deconvolution_gradients(case.small, case.weight, case.large, adj=adjs(geometry), **said)
    plain, plain_wide = replace(case, small_bias=None), replace(wide, small_bias=None)
    assert_close("data_gradient", gradients.data, plain, by_backend(reference, "data_gradient", plain_wide))
    assert_close("weight_gradient", gradients.weight, case, by_backend(reference, "weight_gradient", wide))
    assert gradients.bias.dtype == dtype
    assert gradients.bias.shape == (geometry.filters,)
    if all(axis.adj < axis.stride for axis in geometry.axes):
        x = convolution(case.large, case.weight, case.small_bias, **said)
        assert_close("data_gradient", x, case, by_backend(reference, "data_gradient", wide))


def test_one_int_goes_for_every_axis() -> None:
    x, w = np.ones((1, 2, 4, 5)), np.ones((2, 3, 3, 3))
    one = deconvolution(x, w, stride=2, pad=1, dilate=2, adj=1)
    assert one.shape == (1, 3, 10, 12)
    np.testing.assert_array_equal(
        one, deconvolution(x, w, stride=(2, 2), pad=[1, 1], dilate=np.array([2, 2]), adj=(1, 1))
    )


def test_target_shape_replaces_pad_and_adj() -> None:
    generator = np.random.default_rng(1)
    x, w = generator.standard_normal((2, 3, 5)), generator.standard_normal((3, 2, 4))
    full = deconvolution(x, w, stride=3)
    assert full.shape[2] == 16
    for target in range(1, 17):
        got = deconvolution(x, w, stride=3, target_shape=target, pad=7, adj=2)
        total = 16 - target
        cut = (total + 1) // 2
        expected = np.pad(full, ((0, 0), (0, 0), (0, 1)))[:, :, cut : cut + target]
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        gradients = deconvolution_gradients(x, w, got, stride=3, target_shape=target)
        assert gradients.data.shape == x.shape


def test_layouts_say_the_same() -> None:
    generator = np.random.default_rng(2)
    for rank, (first, last) in LAYOUTS.items():
        x = generator.standard_normal((2, 4, *range(3, 3 + rank)))
        w, bias = generator.standard_normal((4, 3, *[3] * rank)), generator.standard_normal(6)
        plain = deconvolution(x, w, bias, stride=2, num_group=2)
        np.testing.assert_array_equal(plain, deconvolution(x, w, bias, stride=2, num_group=2, layout=first))
        turned = deconvolution(
            np.moveaxis(x, 1, -1), np.moveaxis(w, 1, -1), bias, stride=2, num_group=2, layout=last
        )
        np.testing.assert_allclose(np.moveaxis(turned, -1, 1), plain, rtol=1e-12, atol=1e-12)


def test_empty_batch() -> None:
    x, w = np.empty((0, 2, 3), np.float32), np.ones((2, 3, 2), np.float32)
    assert deconvolution(x, w).shape == (0, 3, 4)
    gradients = deconvolution_gradients(x, w, np.empty((0, 3, 4), np.float32))
    assert gradients.data.shape == x.shape
    assert (gradients.weight == np.zeros((2, 3, 2))).all()
    assert (gradients.bias == np.zeros(3)).all()
    assert convolution(np.empty((0, 3, 4), np.float32), w).shape == (0, 2, 3)


def test_empty_output() -> None:
    x, w = np.ones((1, 2, 3), np.float32), np.ones((2, 3, 2), np.float32)
    assert deconvolution(x, w, pad=2).shape == (1, 3, 0)
    gradients = deconvolution_gradients(x, w, np.empty((1, 3, 0), np.float32), pad=2)
    for gradient, shape in zip(gradients, (x.shape, w.shape, (3,))):
        assert gradient.shape == shape
        assert (gradient == 0).all()


def test_only_wanted_gradients_are_computed() -> None:
    x, w, dy = np.ones((1, 2, 3)), np.ones((2, 3, 2)), np.ones((1, 3, 4))
    full = deconvolution_gradients(x, w, dy)
    for want in (["data"], {"weight"}, ("bias", "data"), iter(["weight", "bias"]), []):
        names = list(want)
        got = deconvolution_gradients(x, w, dy, want=iter(names) if names else [])
        for name in tconv.Gradients._fields:
            if name in names:
                np.testing.assert_array_equal(getattr(got, name), getattr(full, name))
            else:
                assert getattr(got, name) is None


def test_gradients_are_numeric_gradients() -> None:
    generator = np.random.default_rng(3)
    x, w, bias = generator.standard_normal((2, 4, 3, 3)), generator.standard_normal((4, 2, 3, 2)), np.zeros(4)
    said: dict[str, Any] = {"stride": (2, 3), "pad": (1, 0), "adj": (1, 2), "dilate": (1, 2), "num_group": 2}
    dy = generator.standard_normal(deconvolution(x, w, bias, **said).shape)
    gradients = deconvolution_gradients(x, w, dy, **said)
    arrays = {"data": x, "weight": w, "bias": bias}

    def value(**moved: Array) -> float:
        at = {**arrays, **moved}
        return float(np.vdot(deconvolution(at["data"], at["weight"], at["bias"], **said), dy))

    for name, array in arrays.items():
        for index in list(np.ndindex(array.shape))[::3]:
            step = np.zeros_like(array)
            step[index] = 0.5
            slope = value(**{name: array + step}) - value(**{name: array - step})
            assert getattr(gradients, name)[index] == pytest.approx(slope, rel=1e-9, abs=1e-9), (name, index)


# Weights packed once, and what would run.


@settings(max_examples=60)
@given(calls())
def test_prepared_agrees_with_the_reference(case: Example) -> None:
    geometry = case.geometry
    up = tconv.prepare(case.weight, case.large_bias, adj=adjs(geometry), **words(geometry))
    expected = by_backend(reference, "forward", case.map(lambda array: array.astype(np.float64)))
    for _ in range(2):
        assert_close("forward", up(case.small), case, expected)


def test_prepared_serves_any_batch_and_size() -> None:
    generator = np.random.default_rng(7)
    w, bias = (generator.standard_normal(shape).astype(np.float32) for shape in ((5, 4, 4, 4), (8,)))
    weights = w.copy()
    up = tconv.prepare(weights[:4], bias, stride=2, pad=1, num_group=2)
    weights[...] = 0
    for shape in ((1, 4, 3, 3), (7, 4, 1, 1), (2, 4, 40, 3), (0, 4, 5, 5), (1, 4, 3, 3)):
        x = generator.standard_normal(shape).astype(np.float32)
        expected = deconvolution(x, w[:4], bias, stride=2, pad=1, num_group=2)
        got = up(x)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        out = np.empty_like(got)
        assert up(x, out=out) is out
        assert out.tobytes() == got.tobytes()
    assert up.nbytes >= w[:4].nbytes


@pytest.mark.parametrize("sizes", [[(n, 5) for n in range(2, 12)], [(3, 4, n) for n in range(3, 9)]], ids=str)
def test_prepared_computes_alike_whatever_sizes_came_before(sizes: list[tuple[int, ...]]) -> None:
    generator = np.random.default_rng(8)
    w = generator.standard_normal((40, 36, *(4 for _ in sizes[0]))).astype(np.float32)
    up = tconv.prepare(w, stride=2, pad=1)
    for size in sizes:
        x = generator.standard_normal((1, 40, *size)).astype(np.float32)
        alone = tconv.prepare(w, stride=2, pad=1)(x).tobytes()
        assert all(up(x).tobytes() == alone for _ in range(7))
        # An array that has to be copied, on the way that takes care.
        assert up(np.repeat(x, 2, axis=-1)[..., ::2]).tobytes() == alone


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("kernel", "options", "shapes"),
    [
        ((4,), {"stride": 2, "pad": ((1, 2),), "adj": 1}, [(1, 6, 9), (2, 6, 10), (1, 6, 1), (3, 6, 40)]),
        ((5,), {"stride": 3, "pad": -1, "dilate": 2}, [(1, 6, 4), (1, 6, 5), (1, 6, 1)]),
        ((4, 4), {"stride": 2, "pad": 1}, [(1, 6, 8, 8), (1, 6, 8, 9), (2, 6, 1, 9), (1, 6, 7, 1)]),
        # Axes that change nothing at some sizes, and axes that never do.
        ((1, 3), {"stride": (2, 1)}, [(1, 6, 3, 5), (1, 6, 1, 5), (1, 6, 3, 6), (1, 6, 2, 1)]),
        ((1, 3), {}, [(1, 6, 1, 5), (1, 6, 1, 6), (1, 6, 2, 6), (1, 6, 1, 7)]),
        ((2, 1, 3), {"stride": 2}, [(1, 6, 2, 1, 3), (1, 6, 3, 1, 3), (1, 6, 1, 2, 4), (1, 6, 2, 2, 2)]),
        # Pads that depend on the size.
        ((3, 3), {"stride": 2, "target_shape": (8, 9)}, [(1, 6, 4, 4), (1, 6, 5, 4), (1, 6, 4, 5)]),
        ((3,), {"pad": 1, "pad_mode": "circular"}, [(1, 6, 4), (1, 6, 5)]),
        # Pads that cut everything at some sizes.
        ((2,), {"pad": 2}, [(1, 6, 9), (1, 6, 3), (1, 6, 4)]),
    ],
)
def test_each_shape_is_computed_as_if_it_were_the_first(
    kernel: tuple[int, ...], options: dict[str, Any], shapes: list[tuple[int, ...]], last: bool
) -> None:
    generator = np.random.default_rng(10)

    def laid(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], *shape[2:], shape[1]) if last else shape

    layout = LAYOUTS[len(kernel)][last]
    w = generator.standard_normal(laid((6, 4, *kernel))).astype(np.float32)
    up = tconv.prepare(w, layout=layout, **options)
    for shape in shapes:
        x = generator.standard_normal(laid(shape)).astype(np.float32)
        first = tconv.prepare(w, layout=layout, **options)
        assert up(x).shape == first(x).shape == up.explain(x.shape).geometry.large_shape
        assert up(x).tobytes() == first(x).tobytes()
        # An array that needs care goes another way.
        careful = np.empty((*x.shape, 2), np.float32)[..., 0]
        careful[...] = x
        once, solved = (tconv.deconvolution(array, w, layout=layout, **options) for array in (x, careful))
        assert once.shape == solved.shape
        assert once.tobytes() == solved.tobytes()


def test_a_shape_is_refused_whatever_came_before() -> None:
    generator = np.random.default_rng(11)
    w = generator.standard_normal((6, 4, 1, 5)).astype(np.float32)
    up = tconv.prepare(w, pad=(0, 3))
    for shape in ((1, 6, 1, 9), (1, 6, 1, 1), (1, 6, 9), (1, 5, 1, 9), (1, 6, 0, 9), (1, 6, 1, 1, 9), (6,)):
        x = np.zeros(shape, np.float32)
        if shape == (1, 6, 1, 9):
            assert up(x).shape == tconv.deconvolution(x, w, pad=(0, 3)).shape == (1, 4, 1, 7)
            continue
        with pytest.raises(ShapeError) as here:
            up(x)
        with pytest.raises(ShapeError) as anew:
            tconv.prepare(up.weights.plain, pad=(0, 3))(x)
        assert str(here.value) == str(anew.value)
        with pytest.raises(ShapeError, match="deconvolution: "):
            tconv.deconvolution(x, w, pad=(0, 3))


def test_prepared_changes_no_bit_between_threads_and_parts() -> None:
    generator = np.random.default_rng(8)
    x = generator.standard_normal((6, 32, 12, 12)).astype(np.float32)
    w = generator.standard_normal((32, 32, 4, 4)).astype(np.float32)
    for workspace in (0, 1, 512):
        ups = [tconv.prepare(w, stride=2, pad=1, threads=n, workspace=workspace) for n in (1, 2, 7)]
        whole = ups[0](x)
        for up in ups[1:]:
            assert up(x).tobytes() == whole.tobytes()
            assert up(x[2:5]).tobytes() == whole[2:5].tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_prepared_weights_that_are_not_finite(value: float) -> None:
    w = np.zeros((16, 16, 4, 4), np.float32)
    w[0, 0, 0, 0] = value
    x = np.ones((1, 16, 6, 6), np.float32)
    got = tconv.prepare(w, stride=2, pad=1)(x)
    np.testing.assert_array_equal(got, deconvolution(x, w, stride=2, pad=1))
    # Padding meets no weight: only what the tap reaches is touched, one filter at every other position.
    assert not np.isfinite(got[0, 0, 1:10:2, 1:10:2]).any()
    assert np.isfinite(got[0, 0, 11, 11])
    assert np.isfinite(got[0, 1:]).all()
    assert np.isfinite(got[0, 0, ::2]).all()


def test_prepared_refuses() -> None:
    for kind, sentence, ask in (
        (FrameworkError, "prepare: w: got list; need", lambda: tconv.prepare([1.0])),
        (DTypeError, "prepare: w: got int64; need a floating", lambda: tconv.prepare(W.astype(int))),
        (DTypeError, "prepare: bias: got float64; need float32", lambda: tconv.prepare(W, B.astype(float))),
        (ShapeError, "prepare: bias: got shape (3,); need (4,)", lambda: tconv.prepare(W, B[:3])),
        (ShapeError, "prepare: stride: got (0,); each", lambda: tconv.prepare(W, stride=0)),
        (ShapeError, "prepare: adj: got (2,) with stride (2,)", lambda: tconv.prepare(W, stride=2, adj=2)),
        (ParameterError, "prepare: threads: got 0; need", lambda: tconv.prepare(W, threads=0)),
        (ShapeError, "prepared deconvolution: data: got", lambda: tconv.prepare(W)(X[0])),
        (
            ShapeError,
            "prepared deconvolution: w: got shape (3, 4, 3); need (2,",
            lambda: tconv.prepare(W)(X[:, :2]),
        ),
        (DTypeError, "prepared deconvolution: x: got float64", lambda: tconv.prepare(W)(X.astype(float))),
        (ShapeError, "prepared deconvolution: out: got shape", lambda: tconv.prepare(W)(X, out=Y)),
        (FrameworkError, "prepared deconvolution: x: got NoneType", lambda: tconv.prepare(W)(None)),
    ):
        with pytest.raises(kind, match=rf"^{re.escape(sentence)}"):
            ask()


def test_explanation_tells_what_runs() -> None:
    x, w = np.ones((1, 8, 8, 8), np.float32), np.ones((8, 8, 4, 4), np.float32)
    for told in (tconv.explain(x, w, stride=2, pad=1), tconv.prepare(w, stride=2, pad=1).explain(x.shape)):
        assert (told.backend, told.flops) == ("native", 2 * x.size * 8 * 16)
        assert told.geometry.large_shape == (1, 8, 16, 16)
        assert told.algorithm not in told.refusals
        assert told.algorithm in str(told)
        assert all(name in str(told) and reason in str(told) for name, reason in told.refusals.items())
        assert 0 <= told.details["workspace_bytes"] <= 512 * 2**20
        assert told.algorithm in told.expected
        assert told.expected.keys().isdisjoint(told.refusals)
    tight = tconv.explain(x, w, stride=2, pad=1, workspace=0)
    assert tight.algorithm == "direct"
    assert "workspace" in tight.refusals[told.algorithm]


@pytest.mark.parametrize("gradient", [None, "data", "weight"])
def test_explanation_measures_on_request(gradient: str | None) -> None:
    x, w = np.ones((1, 8, 8), np.float16), np.ones((8, 8, 4), np.float16)
    told = tconv.explain(x, w, stride=2, pad=1, threads=1, gradient=gradient, measure=True)
    assert told.algorithm in told.measured
    assert told.measured.keys() <= told.expected.keys()
    assert told.details["share_of_peak"] > 0
    assert not tconv.explain(x, w, stride=2, pad=1, gradient=gradient).measured
    with pytest.raises(ParameterError, match="explain: gradient: got 'bias'; need None, 'data' or 'weight'"):
        tconv.explain(x, w, gradient="bias")


def test_explanation_measures_no_more_than_fits_in_memory() -> None:
    x, w = np.broadcast_to(np.float32(1), (1 << 20, 8, 1 << 20)), np.ones((8, 1, 3), np.float32)
    assert tconv.explain(x, w).algorithm
    with pytest.raises(OutOfMemoryError, match="explain: arrays to measure with do not fit in memory"):
        tconv.explain(x, w, measure=True)


@pytest.mark.parametrize("shape", [(0, 3, 5), (1, 3, 1)])
def test_explanation_of_what_is_empty(shape: tuple[int, ...]) -> None:
    pad = 1 if shape[0] == 0 else 2
    told = tconv.explain(np.empty(shape, np.float32), np.ones((3, 4, 4), np.float32), pad=pad)
    assert 0 in told.geometry.large_shape
    assert (told.algorithm, told.flops) == ("none", 0)
    assert "none by native" in str(told)


# Arrays of other makes.


class Exporter:
    """The least an array can offer: its memory through DLPack."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


X = np.random.default_rng(4).standard_normal((2, 3, 5)).astype(np.float32)
W = np.random.default_rng(5).standard_normal((3, 4, 3)).astype(np.float32)
B = np.random.default_rng(6).standard_normal(4).astype(np.float32)
Y = deconvolution(X, W, B, stride=2)


def test_array_that_only_exports_dlpack() -> None:
    got = deconvolution(Exporter(X), Exporter(W), Exporter(B), stride=2)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, Y)


def test_out_that_only_exports_dlpack() -> None:
    out = Exporter(np.zeros_like(Y))
    assert deconvolution(X, W, B, stride=2, out=out) is out
    np.testing.assert_array_equal(out.array, Y)


class Kind:
    """An array of a package that knows the array API: results come back through its `from_dlpack`."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __array_namespace__(self) -> type[Kind]:
        return Kind

    @classmethod
    def from_dlpack(cls, array: Array) -> Kind:
        return cls(np.from_dlpack(array))


def test_result_is_of_the_kind_of_x() -> None:
    got = deconvolution(Kind(X), W, B, stride=2)
    assert type(got) is Kind
    np.testing.assert_array_equal(got.array, Y)
    gradients = deconvolution_gradients(Kind(X), W, Y, stride=2)
    assert {type(gradient) for gradient in gradients} == {Kind}
    assert type(deconvolution(X, Exporter(W), stride=2)) is np.ndarray


class Sub(np.ndarray[Any, Any]):
    pass


def test_subclass_of_numpy_gives_a_plain_array() -> None:
    got = deconvolution(X.view(Sub), W.view(Sub), B, stride=2)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, Y)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_ndarray_of_mxnets_kind(dtype: str) -> None:
    x, w, b = (tconv.nd.array(array, dtype=dtype) for array in (X, W, B))
    got = deconvolution(x, w, b, stride=2)
    assert type(got) is tconv.nd.NDArray
    expected = deconvolution(X.astype(dtype), W.astype(dtype), B.astype(dtype), stride=2)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got.asnumpy(), expected)
    assert type(deconvolution_gradients(x, w, got, stride=2).weight) is tconv.nd.NDArray


def test_ndarray_of_bfloat16() -> None:
    x, w = (tconv.nd.array(array).astype("bfloat16") for array in (X, W))
    got = deconvolution(x, w, stride=2)
    assert type(got) is tconv.nd.NDArray
    bfloat16 = as_dtype("bfloat16")
    expected = deconvolution(X.astype(bfloat16), W.astype(bfloat16), stride=2)
    np.testing.assert_array_equal(got.asnumpy().astype(float), expected.astype(float))


def test_ndarray_as_out_is_written() -> None:
    out = tconv.nd.zeros(Y.shape)
    assert deconvolution(X, W, B, stride=2, out=out) is out
    np.testing.assert_array_equal(out.asnumpy(), Y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_tensor(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x, w, b = (torch.from_numpy(array).to(getattr(torch, dtype)) for array in (X, W, B))
    x.requires_grad_()
    got = deconvolution(x, w, b, stride=2)
    assert isinstance(got, torch.Tensor)
    assert (got.dtype, got.requires_grad) == (x.dtype, False)
    numpy = [array.astype(as_dtype(dtype)) for array in (X, W, B)]
    expected = deconvolution(*numpy, stride=2)
    np.testing.assert_array_equal(got.double().numpy(), expected.astype(float))
    out = torch.empty_like(got)
    assert deconvolution(x, w, b, stride=2, out=out) is out
    assert torch.equal(out, got)
    strided = torch.empty(2, 5, 3, dtype=x.dtype).transpose(1, 2)
    strided.copy_(x.detach())
    assert torch.equal(deconvolution(strided, w, b, stride=2), got)


def test_torch_tensor_numpy_cannot_read() -> None:
    torch = pytest.importorskip("torch")
    w = torch.ones(3, 4, 3)
    for x in (torch.ones(2, 3, 5, device="meta"), torch.ones(2, 3, 5).to_sparse()):
        with pytest.raises(FrameworkError, match=r"^deconvolution: x: got Tensor that NumPy cannot read: "):
            deconvolution(x, w)


TORCH = {1: "conv_transpose1d", 2: "conv_transpose2d", 3: "conv_transpose3d"}


@settings(max_examples=60)
@given(calls())
def test_torch_agrees(case: Example) -> None:
    torch = pytest.importorskip("torch")
    geometry = case.geometry
    if geometry.channels_last or 0 in case.small.shape or 0 in case.large.shape or min(words(geometry)["pad"]) < 0:
        return
    if any(axis.adj >= max(axis.stride, axis.dilation) for axis in geometry.axes):
        return
    x, w, dy = (
        torch.from_numpy(array.astype(np.float64)).requires_grad_(side != "large")
        for side, array in (("small", case.small), ("weight", case.weight), ("large", case.large))
    )
    function = getattr(torch.nn.functional, TORCH[len(geometry.axes)])
    said = words(geometry)
    y = function(
        x,
        w,
        None if case.large_bias is None else torch.from_numpy(case.large_bias.astype(np.float64)),
        stride=said["stride"],
        padding=said["pad"],
        output_padding=adjs(geometry),
        groups=geometry.groups,
        dilation=said["dilate"],
    )
    y.backward(dy)
    assert_close("forward", by_engine("forward", case), case, y.detach().numpy())
    plain = replace(case, small_bias=None)
    assert_close("data_gradient", by_engine("data_gradient", plain), plain, x.grad.numpy())
    assert_close("weight_gradient", by_engine("weight_gradient", case), case, w.grad.numpy())


class TestRepeatedCalls:
    """A call that repeats an earlier one goes a short way, and gives what it would have given first."""

    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    w = np.arange(36, dtype=np.float32).reshape(2, 3, 3, 2)

    def call(self, **changed: Any) -> Array:
        said: dict[str, Any] = {"x": self.x, "w": self.w, "stride": (2, 1), "pad": 1, **changed}
        return deconvolution(said.pop("x"), said.pop("w"), said.pop("bias", None), **said)

    def test_give_the_same_in_new_memory(self) -> None:
        first, again = self.call(), self.call()
        np.testing.assert_array_equal(again, first)
        assert not np.shares_memory(again, first)

    def test_take_other_arrays(self) -> None:
        first = self.call()
        offset = np.array([1, 2, 3], np.float32)
        np.testing.assert_array_equal(self.call(bias=offset), first + offset[:, None, None])
        into = np.empty_like(first)
        assert self.call(out=into) is into
        np.testing.assert_array_equal(into, first)
        np.testing.assert_array_equal(self.call(x=self.x[:, ::-1], w=self.w[::-1]), first)
        np.testing.assert_array_equal(self.call(x=2 * self.x), 2 * first)
        np.testing.assert_array_equal(self.call(x=self.x.astype(">f4")), first)

    @pytest.mark.parametrize("stride", [(2.0, 1), (2, True), 2.0])
    def test_tell_equal_words_of_other_types_apart(self, stride: Any) -> None:
        self.call()
        self.call(stride=2)
        with pytest.raises(ParameterError, match="stride: got"):
            self.call(stride=stride)

    def test_refuse_what_the_first_would(self) -> None:
        first = self.call()
        with pytest.raises(ShapeError, match="bias: got shape"):
            self.call(bias=np.ones(2, np.float32))
        with pytest.raises(DTypeError, match="bias: got float64"):
            self.call(bias=np.ones(3))
        with pytest.raises(DTypeError, match="w: got float64"):
            self.call(w=self.w.astype(np.float64))
        with pytest.raises(ShapeError, match="out: got shape"):
            self.call(out=np.empty((1, 3, 5), np.float32))
        with pytest.raises(ParameterError, match="out: got a read-only array"):
            self.call(out=read_only(first))

    def test_words_that_may_change_are_read_anew(self) -> None:
        stride = [2, 1]
        for _ in range(2):
            np.testing.assert_array_equal(self.call(stride=stride), self.call())
        stride[0] = 1
        np.testing.assert_array_equal(self.call(stride=stride), self.call(stride=1))

    def test_words_that_are_spelt_in_part_are_told_apart(self) -> None:
        x, w = np.ones((1, 1, 2, 2, 2), np.float32), np.ones((1, 1, 1, 1, 1), np.float32)
        with np.printoptions(threshold=0, edgeitems=1):
            for middle in (1, 2):
                assert deconvolution(x, w, stride=np.array([1, middle, 1])).shape == (1, 1, 2, 1 + middle, 2)

    def test_of_convolution_as_well(self) -> None:
        x = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
        first, again = (convolution(x, self.w, pad=1) for _ in range(2))
        np.testing.assert_array_equal(again, first)
        assert not np.shares_memory(again, first)
        offset = np.array([1, 2], np.float32)
        np.testing.assert_array_equal(convolution(x, self.w, offset, pad=1), first + offset[:, None, None])
        for size in (4, 3):
            y = convolution(x[..., :size], self.w, pad=1)
            np.testing.assert_array_equal(y[..., : size - 1], first[..., : size - 1])
        with pytest.raises(ShapeError, match="bias: got shape"):
            convolution(x, self.w, np.ones(3, np.float32), pad=1)


class TestRepeatedGradients:
    """Gradients that repeat earlier ones go a short way, and are what they would have been first."""

    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    w = np.arange(36, dtype=np.float32).reshape(2, 3, 3, 2)
    dy = np.arange(45, dtype=np.float32).reshape(1, 3, 5, 3)

    def call(self, **changed: Any) -> Gradients:
        said: dict[str, Any] = {"x": self.x, "w": self.w, "dy": self.dy, "stride": (2, 1), "pad": 1, **changed}
        return deconvolution_gradients(said.pop("x"), said.pop("w"), said.pop("dy"), **said)

    def same(self, found: Gradients, wanted: Gradients) -> None:
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(got, want)

    def test_give_the_same_in_new_memory(self) -> None:
        first, again = self.call(), self.call()
        self.same(again, first)
        assert not any(np.shares_memory(*pair) for pair in zip(again, first, strict=True))

    @pytest.mark.parametrize("want", [("data",), ("weight",), ("bias",), ("bias", "data"), ()])
    def test_give_those_that_are_wanted(self, want: tuple[str, ...]) -> None:
        whole = self.call()
        for _ in range(2):
            found = self.call(want=want)
            self.same(found, Gradients(*(whole[i] if n in want else None for i, n in enumerate(Gradients._fields))))

    def test_read_anew_what_is_wanted_once(self) -> None:
        for _ in range(2):
            assert self.call(want=(name for name in ("data",))).weight is None
            assert self.call(want=["data"]).data is not None

    def test_take_other_arrays(self) -> None:
        first = self.call()
        self.same(
            self.call(x=self.x[:, ::-1], w=self.w[::-1]),
            first._replace(data=first.data[:, ::-1], weight=first.weight[::-1]),
        )
        self.same(self.call(x=self.x.astype(">f4")), first)
        for strided in (self.dy.astype(">f4"), np.asfortranarray(self.dy)):
            self.same(self.call(dy=strided), first)
        wide = [array.astype(np.float64) for array in (self.x, self.w, self.dy)]
        assert self.call(**dict(zip(("x", "w", "dy"), wide, strict=True))).bias.dtype == np.float64

    def test_refuse_what_the_first_would(self) -> None:
        self.call()
        with pytest.raises(ShapeError, match="dy: got shape"):
            self.call(dy=self.dy[:, :2])
        with pytest.raises(DTypeError, match="dy: got float64"):
            self.call(dy=self.dy.astype(np.float64))
        with pytest.raises(DTypeError, match="w: got float64"):
            self.call(w=self.w.astype(np.float64))
        with pytest.raises(ParameterError, match="stride: got"):
            self.call(stride=(2, True))


# What is refused; every array stays as it is.

x, w, b = np.ones((1, 2, 3), np.float32), np.ones((2, 4, 3), np.float32), np.ones(4, np.float32)
out = np.full((1, 4, 5), 7, np.float32)


def read_only(array: Array) -> Array:
    array = array.copy()
    array.flags.writeable = False
    return array


REFUSED: list[tuple[type[MXNetError], str, Callable[[], Any]]] = [
    (
        FrameworkError,
        "x: got list; need an array of numpy, tconv, torch or with __dlpack__",
        lambda: deconvolution([1.0], w),
    ),
    (FrameworkError, "x: got NoneType; need an array of", lambda: deconvolution(None, w, out=out)),
    (FrameworkError, "w: got str; need an array of", lambda: deconvolution(x, "w", out=out)),
    (FrameworkError, "bias: got int; need an array of", lambda: deconvolution(x, w, 1, out=out)),
    (FrameworkError, "out: got list; need an array of", lambda: deconvolution(x, w, out=[1])),
    (
        DTypeError,
        "x: got int64; need a floating point type of 16",
        lambda: deconvolution(x.astype(int), w.astype(int)),
    ),
    (DTypeError, "x: got bool; need a floating point type", lambda: deconvolution(x > 0, w > 0)),
    (DTypeError, "x: got complex64; need a floating", lambda: deconvolution(x.astype("F"), w.astype("F"))),
    (DTypeError, "x: got object; need a floating", lambda: deconvolution(x.astype(object), w)),
    (DTypeError, "w: got float64; need float32, as the first array has", lambda: deconvolution(x, w.astype(float))),
    (DTypeError, "bias: got float64; need float32", lambda: deconvolution(x, w, b.astype(float), out=out)),
    (DTypeError, "out: got float64; need float32", lambda: deconvolution(x, w, out=out.astype(float))),
    (ShapeError, "w: got shape (4,); need 3, 4 or 5 dimensions", lambda: deconvolution(x, b)),
    (ShapeError, "w: got shape (1, 1, 1, 1, 1, 1); need 3, 4", lambda: deconvolution(x, np.ones((1,) * 6))),
    (ShapeError, "w: got shape (2, 0, 3); need a size of at least 1", lambda: deconvolution(x, w[:, :0])),
    (ShapeError, "w: got shape (2, 4, 0); need a size of at least 1", lambda: deconvolution(x, w[:, :, :0])),
    (ShapeError, "w: got shape (0, 4, 3); need a size of at least 1", lambda: deconvolution(x[:, :0], w[:0])),
    (ShapeError, "x: got shape (1, 2, 1, 3); need 3 dimensions", lambda: deconvolution(x[:, :, None], w)),
    (ShapeError, "x: got shape (); need 3 dimensions, as w has", lambda: deconvolution(np.float32(1), w)),
    (ShapeError, "w: got shape (2, 4, 3); need (1, 4, 3)", lambda: deconvolution(x[:, :1], w)),
    (ShapeError, "data: got size 0 on spatial axis 0; need at least 1", lambda: deconvolution(x[:, :, :0], w)),
    (ShapeError, "bias: got shape (3,); need (4,)", lambda: deconvolution(x, w, b[:3], out=out)),
    (ShapeError, "bias: got shape (1, 4); need (4,)", lambda: deconvolution(x, w, b[None])),
    (ShapeError, "out: got shape (1, 4, 4); need (1, 4, 5)", lambda: deconvolution(x, w, out=out[:, :, :4])),
    (ParameterError, "out: got a read-only array; need one that", lambda: deconvolution(x, w, out=read_only(out))),
    (ShapeError, "stride: got (0,); each entry must be at least 1", lambda: deconvolution(x, w, stride=0, out=out)),
    (ShapeError, "dilate: got (-1,); each entry must be", lambda: deconvolution(x, w, dilate=-1, out=out)),
    (ShapeError, "adj: got (2,) with stride (2,); each", lambda: deconvolution(x, w, stride=2, adj=2, out=out)),
    (ShapeError, "pad: got ((9, 9),); the output on axis 0", lambda: deconvolution(x, w, pad=9, out=out)),
    (ShapeError, "target_shape: got (6,) (too big target", lambda: deconvolution(x, w, target_shape=6, out=out)),
    (
        ShapeError,
        f"target_shape: got (4,); the full size {2**63 + 3} of axis 0 passes 64 bits",
        lambda: deconvolution(x, w, stride=2**62, target_shape=4),
    ),
    (ShapeError, "target_shape: got (4,); at stride 1, axis 0", lambda: deconvolution(x, w, target_shape=4)),
    (ShapeError, "num_group: got 0; need at least 1", lambda: deconvolution(x, w, num_group=0, out=out)),
    (ShapeError, "data: got 2 channels; need a multiple of num_group 3", lambda: deconvolution(x, w, num_group=3)),
    (
        ShapeError,
        "pad: got ((2147483648, -2147483647),); pad_mode replicate continues an axis by 1048576 positions at most",
        lambda: deconvolution(x, w, pad=((2**31, 1 - 2**31),), pad_mode="replicate"),
    ),
    (ParameterError, "stride: got 1.5; need a 64-bit int", lambda: deconvolution(x, w, stride=1.5, out=out)),
    (ParameterError, "stride: got (1, 1); need a 64-bit int", lambda: deconvolution(x, w, stride=(1, 1), out=out)),
    (ParameterError, "pad: got True; need a 64-bit int", lambda: deconvolution(x, w, pad=True, out=out)),
    (ParameterError, "layout: got 'NHWC'; need a layout of 1", lambda: deconvolution(x, w, layout="NHWC", out=out)),
    (ParameterError, "layout: got 'WNC'; need a layout of 1", lambda: deconvolution(x, w, layout="WNC", out=out)),
    (ParameterError, "layout: got 3; need a layout of 1", lambda: deconvolution(x, w, layout=3, out=out)),  # type: ignore[arg-type]
    (ParameterError, "pad_mode: got array([1, 2]); need one of", lambda: deconvolution(x, w, pad_mode=np.r_[1, 2])),  # type: ignore[arg-type]
    (ParameterError, "workspace: got 0.5; need a 64-bit int", lambda: deconvolution(x, w, workspace=0.5, out=out)),  # type: ignore[arg-type]
    (ParameterError, "threads: got 0; need 1 to 4096", lambda: deconvolution(x, w, threads=0, out=out)),
    (ParameterError, "threads: got -2; need 1 to 4096", lambda: deconvolution(x, w, threads=-2, out=out)),
    (ParameterError, "threads: got 99999; need 1 to 4096", lambda: deconvolution(x, w, threads=99999, out=out)),
    (OutOfMemoryError, "output: shape (1, 4, ", lambda: deconvolution(x, w, stride=2**62)),
]


@pytest.mark.parametrize(("kind", "sentence", "ask"), REFUSED, ids=[row[1] for row in REFUSED])
def test_refused(kind: type[MXNetError], sentence: str, ask: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=rf"^deconvolution: {re.escape(sentence)}") as caught:
        ask()
    assert "\n" not in str(caught.value)
    assert (x == 1).all()
    assert (w == 1).all()
    assert (b == 1).all()
    assert (out == 7).all()


def test_as_many_threads_as_one_may_ask_for_serve() -> None:
    got = deconvolution(X, W, B, stride=2, threads=knobs.MOST_THREADS)
    np.testing.assert_array_equal(got, Y)


def test_gradients_refuse() -> None:
    dy = np.ones((1, 4, 5), np.float32)
    name = "deconvolution_gradients"
    for kind, sentence, ask in (
        (
            ShapeError,
            "dy: got shape (1, 4, 3); need (1, 4, 5)",
            lambda: deconvolution_gradients(x, w, dy[:, :, 2:]),
        ),
        (DTypeError, "dy: got float64; need float32", lambda: deconvolution_gradients(x, w, dy.astype(float))),
        (FrameworkError, "dy: got NoneType; need", lambda: deconvolution_gradients(x, w, None)),
        (ParameterError, "want: got ['dx']; need some of", lambda: deconvolution_gradients(x, w, dy, want=["dx"])),
        (
            ParameterError,
            "want: got ['d', 'a', 't', 'a']; need",
            lambda: deconvolution_gradients(x, w, dy, want="data"),
        ),
        (ParameterError, "want: got [3]; need", lambda: deconvolution_gradients(x, w, dy, want=3)),  # type: ignore[arg-type]
        (ShapeError, "w: got shape (2, 4, 3); need", lambda: deconvolution_gradients(x[:, :1], w, dy)),
    ):
        with pytest.raises(kind, match=rf"^{name}: {re.escape(sentence)}"):
            ask()


def test_convolution_refuses() -> None:
    for kind, sentence, ask in (
        (
            ShapeError,
            "data: got size 2 on spatial axis 0; with pad (0, 0) the",
            lambda: convolution(out[:, :, :2], w),
        ),
        (ShapeError, "w: got shape (2, 4, 3); need (2, 3, 3)", lambda: convolution(out[:, :3], w)),
        (ShapeError, "bias: got shape (4,); need (2,)", lambda: convolution(out, w, b)),
        (
            ShapeError,
            "num_filter: got 2; it must divide by num_group 4",
            lambda: convolution(out, w[:, :1], num_group=4),
        ),
        (ShapeError, "out: got shape (1, 4, 5); need (1, 2, 3)", lambda: convolution(out, w, out=out)),
    ):
        with pytest.raises(kind, match=rf"^convolution: {re.escape(sentence)}"):
            ask()


def test_deconvolution_undoes_shapes_of_convolution() -> None:
    large = np.ones((1, 4, 11), np.float32)
    small = convolution(large, w, stride=3, pad=1)
    assert small.shape == (1, 2, 4)
    # The position that convolution's stride left over is what adj brings back.
    assert deconvolution(small, w, stride=3, pad=1, adj=1).shape == large.shape


def test_symbol_is_no_array() -> None:
    symbol = tconv.sym.Variable("x")
    with pytest.raises(FrameworkError, match=r"^deconvolution: x: got Symbol that NumPy cannot read"):
        deconvolution(symbol, W)
