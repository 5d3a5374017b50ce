"""Shapes and types over whole graphs: from every direction, partly known, contradicting, deep."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tconv as mx
from tconv.errors import MXNetError
from tconv.symbol.inference import Shapes, to_inner, to_outer

V = mx.sym.var


def test_from_outputs_back_to_variables() -> None:
    s = mx.sym.relu(mx.sym.tanh(V("a"))) + V("b")
    assert s.infer_shape(b=(3, 2)) == ([(3, 2), (3, 2)], [(3, 2)], [])
    assert s.infer_type(b="float64")[0] == [np.float64, np.float64]


def test_both_sides_complete_each_other() -> None:
    assert (V("a") + V("b")).infer_shape(a=(2, 0), b=(0, 3)) == ([(2, 3), (2, 3)], [(2, 3)], [])


def test_backwards_through_a_long_chain() -> None:
    s = V("a")
    for _ in range(3000):
        s = mx.sym.relu(s)
    assert (s + V("b")).infer_shape_partial(b=(4, 0))[0] == [(4, 0), (4, 0)]


def test_one_entry_used_twice_by_one_operator() -> None:
    a = V("a")
    assert (a + a).infer_shape(a=(2, 3))[1] == [(2, 3)]
    assert mx.sym.dot(a, a).infer_shape(a=(3, 3))[1] == [(3, 3)]


def test_variables_of_one_name_get_one_shape() -> None:
    assert (V("d") + V("d")).infer_shape(d=(2, 3)) == ([(2, 3), (2, 3)], [(2, 3)], [])


def test_auxiliary_states_and_hidden_outputs() -> None:
    s = mx.sym.BatchNorm(V("x"), name="n")
    assert s.infer_shape(x=(2, 3, 4)) == ([(2, 3, 4), (3,), (3,)], [(2, 3, 4)], [(3,), (3,)])
    assert s.infer_type(x="float16")[2] == [np.float32, np.float32]
    assert s.infer_shape_partial(n_moving_mean=(4,))[2][0] == (4,)


@pytest.mark.parametrize(
    ("shape", "given", "found"),
    [
        ((2, 3), {}, (2, 3)),
        ((2, 3), {"x": (4, 5)}, (4, 5)),
        ((2, 0), {"x": (0, 3)}, (2, 3)),
        ((2,), {"x": (0, 3)}, (2,)),
    ],
)
def test_shape_of_a_variable_fills_in(shape: Any, given: Any, found: Any) -> None:
    assert mx.sym.relu(V("x", shape=shape)).infer_shape(**given)[1] == [found]


def test_type_of_a_variable_fills_in() -> None:
    s = V("x", dtype="float16") + V("y")
    assert s.infer_type()[0] == [np.float16, np.float16]
    assert s.infer_type(x="float32")[0] == [np.float32, np.float32]
    assert (V("x", dtype="bfloat16") + 1).infer_type()[1] == [ml_dtypes.bfloat16]


@pytest.mark.parametrize(
    ("attr", "text"),
    [
        ({"__shape__": "odd"}, "variable x: __shape__: got 'odd'"),
        ({"__dtype__": "odd"}, "variable x: __dtype__: got 'odd'"),
    ],
)
def test_unreadable_attributes_of_a_variable(attr: dict[str, str], text: str) -> None:
    s = mx.sym.relu(V("x", attr=attr))
    with pytest.raises(MXNetError, match=text):
        s.infer_shape() if "__shape__" in attr else s.infer_type()


def test_positional_values() -> None:
    s = V("a") + V("b")
    assert s.infer_shape(None, (2, 3))[0] == [(2, 3), (2, 3)]
    assert s.infer_type("float64")[1] == [np.float64]
    for infer, value in ((s.infer_shape, (2,)), (s.infer_type, "float32")):
        with pytest.raises(ValueError, match="one or the other"):
            infer(value, b=value)
        with pytest.raises(MXNetError, match="got 3 values by position; there are 2 arguments"):
            infer(value, value, value)


@pytest.mark.parametrize(
    ("shape", "error", "text"),
    [
        ([2, 3], TypeError, "a: got list; need a tuple"),
        (None, TypeError, "a: got NoneType; need a tuple"),
        ((2.0, 3), TypeError, "sizes must be whole numbers"),
        ((-2, 3), MXNetError, "each size must be from -1"),
        ((2**63, 3), MXNetError, "each size must be from -1"),
    ],
)
def test_shapes_that_are_none(shape: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mx.sym.relu(V("a")).infer_shape(a=shape)


@pytest.mark.parametrize("dtype", ["floaty", "complex64", object])
def test_types_that_are_none(dtype: Any) -> None:
    with pytest.raises(TypeError, match="infer_type: a"):
        mx.sym.relu(V("a")).infer_type(a=dtype)


def test_unknown_names_are_refused() -> None:
    for infer, value in ((V("a").infer_shape, (2,)), (V("a").infer_type_partial, "float32")):
        with pytest.raises(MXNetError, match="got nosuch; the inputs are a"):
            infer(nosuch=value)


def test_contradictions_name_the_operator() -> None:
    s = mx.sym.FullyConnected(V("a"), num_hidden=3, name="fc")
    with pytest.raises(MXNetError, match=r"^Error in operator fc: .*weight.*\(3, 4\).*\(3, 3\)"):
        s.infer_shape(a=(2, 3), fc_weight=(3, 4))
    with pytest.raises(MXNetError, match=r"^Error in operator fc: .*float64.*float32"):
        s.infer_type(a="float32", fc_weight="float64")
    twice = mx.sym.dot(V("a"), V("a"), name="twice")
    with pytest.raises(MXNetError, match=r"^Error in operator twice: "):
        twice.infer_shape(a=(2, 3))


def test_what_is_unknown_is_listed() -> None:
    s = mx.sym.FullyConnected(V("a"), num_hidden=3, name="fc") + V("b")
    with pytest.warns(UserWarning, match=r"shape of these inputs(.|\n)*a: \(0, 4\)\n\tb: \(0, 3\)$"):
        assert s.infer_shape(a=(0, 4)) == (None, None, None)
    with pytest.warns(UserWarning, match=r"type of these inputs(.|\n)*fc_bias: None"):
        assert s.infer_type() == (None, None, None)
    many = mx.sym.add_n(*(V(f"v{number}") for number in range(20)))
    with pytest.warns(UserWarning, match=r"v9: \(\)\n\t\.\.\.$"):
        many.infer_shape()


def test_partial_inference_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = mx.sym.Deconvolution(V("a"), kernel=(2,), num_filter=3, name="d")
        assert s.infer_shape_partial(a=(0, 2, 0)) == ([(0, 2, 0), (2, 3, 2)], [(0, 3, 0)], [])
        assert s.infer_type_partial() == ([None, None], [None], [])


def test_empty_axis_is_known_and_0_is_not() -> None:
    s = mx.sym.Deconvolution(V("a"), kernel=(2,), pad=(1,), num_filter=3)
    assert s.infer_shape(a=(1, 1, 1))[1] == [(1, 3, 0)]
    assert Shapes(s.heads, {"a": (0, 2, 5)}).of_heads() == [(0, 3, 4)]


def test_words_of_mxnet_are_translated_at_the_door() -> None:
    assert to_inner((2, 0, -1, np.int64(3)), "x") == (2, None, None, 3)
    assert (to_inner((), "x"), to_outer(None), to_outer((None, 2))) == (None, (), (0, 2))


def test_graph_without_variables() -> None:
    assert (mx.sym.zeros((2, 3)) + 1).infer_shape() == ([], [(2, 3)], [])
    assert V("a").infer_shape(a=(2,)) == ([(2,)], [(2,)], [])
