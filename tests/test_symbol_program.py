"""Programs: what runs, what is kept, what belongs to whom."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import pytest

import tconv as mx
from tconv.errors import MXNetError
from tconv.operators.registry import Array, Call, Operator, find
from tconv.symbol.node import Entry, Node
from tconv.symbol.program import Program
from tconv.symbol.symbol import Symbol

V = mx.sym.var


def floats(*entries: float) -> Array:
    return np.array(entries, np.float32)


def counted(name: str, calls: list[str], backward: bool = True) -> Operator:
    """Return an operator that doubles, and notes its calls."""

    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        calls.append(f"{name} forward")
        return [inputs[0] * 2]

    def gradient(
        call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
    ) -> Sequence[Array | None]:
        calls.append(f"{name} backward {call.wanted}")
        return [out_grads[0] * 2]

    return Operator(name, find("relu").params, ("data",), forward, gradient if backward else None)


def applied(operator: Operator, *inputs: Symbol) -> Symbol:
    node = Node(operator, operator.name, {}, operator.params.parse({}))
    node.connect(symbol.heads[0] for symbol in inputs)
    return Symbol.of([Entry(node)])


def test_only_what_is_wanted_is_differentiated() -> None:
    calls: list[str] = []
    a, b = applied(counted("left", calls), V("a")), applied(counted("right", calls), V("b"))
    program = Program(applied(counted("top", calls), a + b))
    run = program.forward({"a": floats(1), "b": floats(2)}, is_train=True)
    calls.clear()
    assert program.backward(run, [floats(1)], ["b"]) == {"b": floats(4)}
    assert calls == ["top backward (True,)", "right backward (True,)"]


def test_inference_frees_what_nobody_reads_any_more() -> None:
    freed: list[str] = []

    class Watched(np.ndarray):
        pass

    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        out = np.zeros(3, np.float32).view(Watched)
        weakref.finalize(out, freed.append, "freed")
        return [out]

    def look(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        return [floats(len(freed))]

    params = find("relu").params
    first = applied(Operator("first", params, ("data",), forward), V("x"))
    last = applied(Operator("look", params, ("data",), look), mx.sym.tanh(mx.sym.relu(first)))
    program = Program(last)
    x = {"x": floats(1)}
    assert program.forward(x).outputs[0] == 1
    freed.clear()
    assert program.forward(x, is_train=True).outputs[0] == 0


def test_run_that_kept_nothing_cannot_go_back() -> None:
    program = Program(V("x") * 2)
    run = program.forward({"x": floats(1)})
    assert not run.kept
    with pytest.raises(MXNetError, match="kept nothing"):
        program.backward(run, [floats(1)], ["x"])
    assert program.forward({"x": floats(1)}, keep=True).kept


def test_outputs_share_no_memory_with_inputs_or_each_other() -> None:
    x = V("x")
    flat = mx.sym.Flatten(x)
    program = Program(mx.sym.Group([x, flat, flat, mx.sym.BlockGrad(x)]))
    array = np.ones((2, 3), np.float32)
    outputs = program.forward({"x": array}, is_train=True).outputs
    for place, out in enumerate(outputs):
        assert not np.shares_memory(out, array)
        assert not any(np.shares_memory(out, other) for other in outputs[:place])


def test_outputs_go_where_they_are_told() -> None:
    x = V("x")
    y = x * 2
    program = Program(mx.sym.Group([x, y, y, mx.sym.split(y, num_outputs=2)[1]]))
    out = [np.full(shape, 9, np.float32) for shape in ((1, 2), (1, 2), (1, 2), (1, 1))]
    run = program.forward({"x": floats(3, 4).reshape(1, 2)}, out=out, keep=True)
    assert all(a is b for a, b in zip(run.outputs, out))
    assert [array.ravel().tolist() for array in out] == [[3, 4], [6, 8], [6, 8], [8]]
    ones = [np.ones_like(array) for array in out]
    assert program.backward(run, ones, ["x"])["x"].tolist() == [[1 + 2 + 2, 1 + 2 + 2 + 2]]


def test_given_gradients_are_not_written_into() -> None:
    x = V("x")
    program = Program(mx.sym.Group([mx.sym.identity(x), mx.sym.identity(x), x]))
    run = program.forward({"x": floats(1)}, is_train=True)
    grads = [floats(1), floats(10), floats(100)]
    for _ in range(2):
        assert program.backward(run, grads, ["x"])["x"] == 111
    assert [grad.tolist() for grad in grads] == [[1], [10], [100]]


def test_gradient_of_an_argument_nothing_depends_on_is_zero() -> None:
    program = Program(mx.sym.Group([mx.sym.zeros_like(V("a")), V("b") * 1]))
    run = program.forward({"a": floats(1, 2), "b": floats(3)}, is_train=True)
    found = program.backward(run, [floats(1, 1), floats(5)], ["a", "b"])
    assert found["a"].tolist() == [0, 0]
    assert found["b"].tolist() == [5]


def test_missing_gradient_of_an_operator_names_it() -> None:
    program = Program(applied(counted("forwards_only", [], backward=False), V("x")))
    run = program.forward({"x": floats(1)}, is_train=True)
    with pytest.raises(MXNetError, match=r"^Error in operator forwards_only: forwards_only has no gradient"):
        program.backward(run, [floats(1)], ["x"])


def test_arrays_that_do_not_fit_are_refused_before_anything_runs() -> None:
    calls: list[str] = []
    program = Program(applied(counted("first", calls), V("a")) + V("b"))
    with pytest.raises(MXNetError, match="b: missing"):
        program.forward({"a": floats(1)})
    with pytest.raises(MXNetError, match=r"^Error in operator _plus"):
        program.forward({"a": floats(1), "b": floats(1, 2)})
    with pytest.raises(MXNetError, match="got c; the arguments are a, b"):
        program.backward(program.forward({"a": floats(1), "b": floats(1)}, is_train=True), [floats(1)], ["c"])
    assert calls == ["first forward"]


def test_new_shapes_are_solved_anew() -> None:
    program = Program(mx.sym.Deconvolution(V("x"), kernel=(2,), num_filter=1, name="d"))
    weight = np.ones((1, 1, 2), np.float32)
    for size in (*range(1, 80), 1):
        out = program.forward({"x": np.ones((1, 1, size), np.float32), "d_weight": weight}).outputs[0]
        assert out.shape == (1, 1, size + 1)


def test_deep_graph_runs_both_ways() -> None:
    s = V("x")
    for _ in range(10_000):
        s = s + 1
    program = Program(s)
    run = program.forward({"x": floats(0)}, is_train=True)
    assert run.outputs[0] == 10_000
    assert program.backward(run, [floats(3)], ["x"])["x"] == 3
