"""Symbols: creation, composition, attributes, indexing, arithmetic, files."""

from __future__ import annotations

import copy
import inspect
import json
import operator
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tconv as mx
from tconv.errors import FormatError, MXNetError, ParameterError
from tconv.symbol import Symbol

V = mx.sym.var


def up(name: str = "up", **params: Any) -> Symbol:
    return mx.sym.Deconvolution(V("data"), name=name, **{"kernel": (3, 3), "num_filter": 4, **params})


def chain(length: int) -> Symbol:
    s = V("x")
    for _ in range(length):
        s = s + 1
    return s


def test_functions_exist_under_every_name_once() -> None:
    assert mx.sym.relu is mx.symbol.relu
    assert "Deconvolution" in dir(mx.sym)
    assert mx.sym._internal._plus(V("a"), V("b")).name.startswith("_plus")
    assert mx.sym.op.Deconvolution.__name__ == "Deconvolution"
    assert mx.sym.linalg.gemm2(V("a"), V("b")).name.startswith("gemm2")
    assert "gemm2" in dir(mx.sym.linalg)
    with pytest.raises(AttributeError, match="no operator of this name"):
        mx.sym.Deconvolutoin  # noqa: B018


def test_a_file_with_unknown_operators_is_refused_with_all_their_names() -> None:
    ops = ["null", "NoSuchThing", "relu", "Other", "NoSuchThing"]
    nodes = [{"op": op, "name": f"n{i}", "inputs": [[i - 1, 0, 0]] if i else []} for i, op in enumerate(ops)]
    text = json.dumps({"nodes": nodes, "arg_nodes": [0], "heads": [[len(ops) - 1, 0, 0]]})
    with pytest.raises(mx.MXNetError, match="op: got NoSuchThing, Other; no operator of this name is known"):
        mx.sym.load_json(text)


def test_function_describes_itself() -> None:
    names = list(inspect.signature(mx.sym.Deconvolution).parameters)
    assert names[:4] == ["data", "weight", "bias", "kernel"]
    assert names[-3:] == ["name", "attr", "kwargs"]
    assert "target_shape : Shape(tuple)" in mx.sym.Deconvolution.__doc__
    assert "num_args" in inspect.signature(mx.sym.Concat).parameters


def test_symbol_function_on_arrays_gives_arrays_and_array_function_on_symbols_symbols() -> None:
    assert mx.sym.relu(mx.nd.array([-1, 2])).asnumpy().tolist() == [0, 2]
    assert mx.nd.relu(V("x"), name="r").list_arguments() == ["x"]


def test_positional_inputs_then_parameters() -> None:
    s = mx.sym.Deconvolution(V("d"), None, V("b"), (3,), (2,), num_filter=2, no_bias=False, name="s")
    assert s.list_arguments() == ["d", "s_weight", "b"]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: up(foo=1), MXNetError, "Deconvolution: foo: unknown argument"),
        (lambda: up(num_filter="x"), MXNetError, "num_filter: got 'x'; need int"),
        (lambda: up(filter=V("w")), MXNetError, "got the inputs filter; its inputs are data, weight, bias"),
        (
            lambda: up(bias=V("b")),
            MXNetError,
            "data, bias; with these parameters it takes data, weight",
        ),
        (lambda: up(weight=3), TypeError, "weight: got int"),
        (lambda: up(data=V("e")), TypeError, "data: given twice"),
        (lambda: up(name=3), TypeError, "name: got int; need text"),
        (lambda: up(attr=3), TypeError, "attr: got int; need a dict"),
        (lambda: up(attr={"plain": "1"}), MXNetError, "plain: unknown argument"),
        (lambda: up(weight_lr_mult="1"), MXNetError, r"weight=mx.sym.var\(..., lr_mult=...\)"),
        (lambda: mx.sym.relu(mx.sym.split(V("x"), num_outputs=2)), MXNetError, "data: got a symbol of 2 outputs"),
        (
            lambda: mx.sym.BatchNorm(V("x"), moving_mean=mx.sym.relu(V("m"))),
            MXNetError,
            "moving_mean: got the output",
        ),
        (lambda: V(3), TypeError, "var: name: got int"),
        (lambda: V("x", foo=1), ValueError, "got foo; further attributes need the form __foo__"),
        (lambda: V("x", stype="odd"), ValueError, "stype: got 'odd'"),
        (lambda: V("x", dtype="floaty"), TypeError, "floaty"),
        (lambda: V("x", attr={"a": 1}), ValueError, "attr: a: got int; need text"),
        (lambda: mx.sym.Group([]), TypeError, "need a list of at least one"),
        (lambda: mx.sym.Group([1]), TypeError, "need a list of at least one"),
        (lambda: V("a") + "b", TypeError, "got str; need a Symbol or a number"),
        (lambda: V("a") == None, TypeError, "got NoneType"),  # noqa: E711
        (lambda: V("a") + True, MXNetError, "scalar: got 'True'"),
        (lambda: mx.sym.maximum("a", 1), TypeError, "maximum: got str and int"),
        (lambda: mx.sym.split_v2(V("a"), 0.5), ValueError, "split_v2: got float"),
        (lambda: mx.sym.Concat(V("a"), V("b"), num_args=1), MXNetError, "got the inputs arg0, arg1"),
        (lambda: mx.sym.load_json(3), TypeError, "load_json: got int"),
        (lambda: mx.sym.load(3), TypeError, "fname: got int"),
        (lambda: mx.sym.load("nowhere/x.json"), MXNetError, "nowhere"),
        (lambda: V("a").save(3), TypeError, "fname: got int"),
        (lambda: V("a").gradient(["a"]), MXNetError, "no symbols of gradients"),
        (lambda: V("a").optimize_for("x"), MXNetError, "backend: got 'x'"),
        (lambda: V("a").list_attr(recursive=True), DeprecationWarning, "use attr_dict"),
        (lambda: mx.sym.Group([V("a"), V("b")])._set_attr(a="1"), MXNetError, "belong to one node"),
        (lambda: V("a").asnumpy(), MXNetError, "asnumpy: symbols hold no values"),
        (lambda: operator.iadd(V("a"), 1), MXNetError, "__iadd__"),
        (lambda: V("a") in [V("b")], MXNetError, "no truth value"),
        (lambda: hash(V("a")), TypeError, "unhashable"),
    ],
)
def test_refusals_say_why(make: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_a_refused_call_changes_no_symbol() -> None:
    mean = V("m")
    with pytest.raises(MXNetError):
        mx.sym.BatchNorm(V("x"), moving_mean=mean, eps="x")
    assert mean.list_attr() == {}


@pytest.mark.parametrize("index", [2, 10])
def test_index_beyond_the_outputs_ends_iteration(index: int) -> None:
    with pytest.raises(IndexError):
        mx.sym.Group([V("a"), V("b")])[index]


def test_index_of_other_kinds() -> None:
    s = mx.sym.Group([V("a"), V("b"), V("a")])
    assert [part.name for part in s] == ["a", "b", "a"]
    assert s[1:].list_outputs() == ["b", "a"]
    assert s[::2].list_outputs() == ["a", "a"]
    assert s["b"].name == "b"
    for index, error in (
        (-1, MXNetError),
        ("a", ValueError),
        ("c", ValueError),
        (1.0, TypeError),
        (None, TypeError),
    ):
        with pytest.raises(error):
            s[index]  # type: ignore[index]


def test_numpy_scalars_and_arrays_leave_arithmetic_to_symbols() -> None:
    for number in (np.float32(2), np.int64(2), np.array(2.0)):
        if isinstance(number, np.ndarray):
            with pytest.raises(TypeError):
                number + V("a")
        else:
            assert (number * V("a")).attr("scalar") == str(number)


def test_scalar_helpers_of_numbers() -> None:
    assert (mx.sym.pow(2, 3), mx.sym.maximum(2, 3), mx.sym.minimum(2, 3), mx.sym.hypot(3, 4)) == (8, 3, 2, 5)


def test_composition_leaves_the_original_alone() -> None:
    net = up()
    inner = mx.sym.relu(V("y"), name="inner")
    new = net(data=inner, name="new")
    assert (new.list_arguments(), new.list_outputs()) == (["y", "up_weight"], ["new_output"])
    assert (net.list_arguments(), net.name) == (["data", "up_weight"], "up")
    new.get_internals()["inner_output"]._set_attr(__k__="1")
    assert inner.attr("__k__") == "1"


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "text"),
    [
        ((V("z"),), {}, MXNetError, "by position"),
        ((), {"nosuch": V("z")}, MXNetError, "got nosuch; the variables are data, up_weight"),
        ((), {"data": 3}, TypeError, "got int; need a Symbol"),
        ((V("z"),), {"data": V("z")}, TypeError, "one or the other"),
        ((), {"data": mx.sym.split(V("z"), num_outputs=2)}, MXNetError, "data: got a symbol of 2 outputs"),
    ],
)
def test_composition_refusals(args: Any, kwargs: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        up()(*args, **kwargs)


def test_attributes_are_shared_by_symbols_of_one_node() -> None:
    x = V("x")
    y = mx.sym.relu(x)
    x._set_attr(__a__="1")
    assert y.attr_dict()["x"] == {"__a__": "1"}
    copied = copy.copy(y)
    x._set_attr(__a__="2")
    assert copied.attr_dict()["x"] == {"__a__": "1"}


def test_attr_of_groups() -> None:
    s = mx.sym.Group([V("a", __k__="1"), V("b")])
    assert (s.attr("__k__"), s.name, s.list_attr()) == (None, None, {"__k__": "1"})
    parts = mx.sym.split(V("x"), num_outputs=2, name="p")
    assert (parts.attr("num_outputs"), parts.attr("name"), parts.name) == ("2", "p", "p")


class Mine(Symbol):
    __slots__ = ()


def test_copies_and_pickles_keep_the_class_and_everything_else() -> None:
    mine = Mine.of(mx.sym.amp_cast(up(lr_mult="2"), dtype="float16").heads)
    for other in (copy.copy(mine), copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)), mine()):
        assert type(other) is Mine
        assert other.tojson(remove_amp_cast=False) == mine.tojson(remove_amp_cast=False)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "net-symbol.json"
    up().save(str(path))
    assert path.read_text() == up().tojson()
    assert mx.sym.load(str(path)).tojson() == mx.sym.load(path).tojson() == up().tojson()


def test_unknown_operators_are_listed_together() -> None:
    text = mx.sym.relu(mx.sym.tanh(mx.sym.relu(V("x")))).tojson()
    text = text.replace('"op": "relu"', '"op": "Foo"').replace('"op": "tanh"', '"op": "Bar"')
    with pytest.raises(FormatError, match="op: got Bar, Foo; no operator"):
        mx.sym.load_json(text)


@pytest.mark.parametrize(
    ("old", "new", "error", "text"),
    [
        ('"num_filter": "4"', '"num_filter": "four"', ParameterError, "node 'up': .*num_filter: got 'four'"),
        ('"num_filter"', '"num_fliter"', ParameterError, "node 'up': .*num_fliter: unknown"),
        ("[[0, 0, 0], [1, 0, 0]]", "[[0, 0, 0]]", FormatError, "node 'up': got 1 inputs; Deconvolution needs 2"),
        ("[[2, 0, 0]]", "[[2, 1, 0]]", FormatError, "heads: got output 1 of 'up', which has 1"),
    ],
)
def test_damaged_graphs(old: str, new: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mx.sym.load_json(up().tojson().replace(old, new))


def test_auxiliary_state_that_is_computed_is_refused() -> None:
    graph = json.loads(mx.sym.BatchNorm(mx.sym.relu(V("x"), name="r"), name="n").tojson())
    node = graph["nodes"][-1]
    node["inputs"][3] = node["inputs"][0]
    with pytest.raises(FormatError, match="moving_mean: got the output of 'r'; need a variable"):
        mx.sym.load_json(json.dumps(graph))


def test_old_file_gets_the_inputs_it_does_not_mention() -> None:
    graph = {
        "nodes": [
            {"op": "null", "param": {}, "name": "x", "inputs": [], "backward_source_id": -1},
            {"op": "null", "param": {}, "name": "g", "inputs": [], "backward_source_id": -1},
            {
                "op": "BatchNorm",
                "param": {"eps": "0.1"},
                "name": "n",
                "inputs": [[0, 0], [1, 0]],
                "attr": {"gamma_lr_mult": "3"},
            },
        ],
        "arg_nodes": [0, 1],
        "heads": [[2, 0]],
    }
    s = mx.sym.load_json(json.dumps(graph))
    assert s.list_arguments() == ["x", "g", "n_beta"]
    assert s.attr_dict()["g"]["lr_mult"] == "3"
    assert s.list_auxiliary_states() == ["n_moving_mean", "n_moving_var"]
    assert s.attr_dict()["n_moving_var"]["__init__"] == '["one", {}]'


def test_variadic_node_without_its_count_loads() -> None:
    text = mx.sym.add_n(V("a"), V("b"), name="s").tojson().replace('"attrs": {"num_args": "2"}, ', "")
    assert mx.sym.load_json(text).infer_shape(a=(2,)) == ([(2,), (2,)], [(2,)], [])


def test_long_chains_need_no_deep_stack() -> None:
    s = chain(5000)
    loaded = pickle.loads(pickle.dumps(s))
    assert copy.deepcopy(loaded).tojson() == s.tojson()
    assert len(s.get_internals()) == 5001
    assert s.debug_str().count("Op:") == 5000


def test_symbol_of_a_recorded_graph() -> None:
    x, w = mx.nd.ones((2, 3)), mx.nd.ones((4, 3))
    x.attach_grad()
    w.attach_grad()
    with mx.autograd.record():
        y = mx.nd.FullyConnected(x, w, no_bias=True, num_hidden=4)
        z = mx.nd.split(y, num_outputs=2)[1] * 2
    s = mx.autograd.get_symbol(z)
    assert s.list_arguments() == ["var0", "var1"]
    assert s.get_internals().list_outputs()[2:] == [
        "node_0_output",
        "node_1_output0",
        "node_1_output1",
        "node_2_output",
    ]
    assert s.eval(var0=x, var1=w)[0].asnumpy().tolist() == z.asnumpy().tolist()
