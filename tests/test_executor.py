"""Executors: binding, passes, gradients, requirements, sharing and reshaping."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tconv as mx
from tconv.errors import MXNetError, OutOfMemoryError, ShapeError
from tconv.symbol.executor import Executor

V = mx.sym.var
CPU = mx.cpu()


def nd(values: Any, dtype: str = "float32") -> mx.nd.NDArray:
    return mx.nd.array(values, dtype=dtype)


def dense() -> mx.sym.Symbol:
    return mx.sym.FullyConnected(V("x"), num_hidden=2, name="fc")


def arrays() -> dict[str, mx.nd.NDArray]:
    return {"x": nd(np.arange(6).reshape(2, 3)), "fc_weight": mx.nd.ones((2, 3)), "fc_bias": nd([10, 20])}


def gradients() -> dict[str, mx.nd.NDArray]:
    return {name: mx.nd.full(array.shape, 7) for name, array in arrays().items()}


def values(array: mx.nd.NDArray) -> Any:
    return array.asnumpy().tolist()


def test_bound_arrays_are_the_given_ones() -> None:
    given, grads = arrays(), gradients()
    ex = dense().bind(CPU, given, args_grad=grads)
    assert all(ex.arg_dict[name] is given[name] and ex.grad_dict[name] is grads[name] for name in given)
    assert [array.shape for array in ex.outputs] == [(2, 2)]
    given["fc_bias"][:] = 0
    assert values(ex.forward()[0]) == [[3, 3], [12, 12]]
    assert list(ex.output_dict) == ["fc_output"]
    assert ex.aux_arrays == []


def test_outputs_keep_their_memory() -> None:
    ex = dense().bind(CPU, arrays())
    before = ex.outputs[0]
    first = ex.forward()[0]
    ex.arg_dict["x"][:] = 0
    ex.forward(is_train=True)
    assert values(before) == values(first) == [[10, 20], [10, 20]]


@pytest.mark.parametrize(
    ("req", "expected"),
    [
        ("write", {"x": 2, "fc_weight": 0, "fc_bias": 2}),
        ("add", {"x": 9, "fc_weight": 7, "fc_bias": 9}),
        ("null", {"x": 7, "fc_weight": 7, "fc_bias": 7}),
        (["add", "null", "write"], {"x": 9, "fc_weight": 7, "fc_bias": 2}),
        ({"x": "add"}, {"x": 9, "fc_weight": 7, "fc_bias": 7}),
    ],
)
def test_requirements_of_gradients(req: Any, expected: dict[str, float]) -> None:
    given, grads = arrays(), gradients()
    given["x"][:] = 0
    ex = dense().bind(CPU, given, args_grad=grads, grad_req=req)
    ex.forward(is_train=True)
    ex.backward(mx.nd.ones((2, 2)))
    assert {name: grad.asnumpy().flat[0] for name, grad in grads.items()} == expected


def test_gradients_only_where_there_is_an_array() -> None:
    grad = mx.nd.zeros((2,))
    ex = dense().bind(CPU, arrays(), args_grad={"fc_bias": grad})
    ex.forward(is_train=True)
    ex.backward([nd([[1, 2], [3, 4]])])
    assert values(grad) == [4, 6]
    assert ex.grad_arrays == [None, None, grad]
    assert dense().bind(CPU, arrays()).grad_dict == {"x": None, "fc_weight": None, "fc_bias": None}


def test_variable_used_in_several_places_sums_its_gradients() -> None:
    x = V("x")
    grad = mx.nd.zeros((2,))
    ex = mx.sym.Group([x, x * 2 + x, x * x]).bind(CPU, [nd([1, 2])], args_grad=[grad])
    outs = ex.forward(is_train=True)
    assert [values(out) for out in outs] == [[1, 2], [3, 6], [1, 4]]
    ex.backward([nd([1, 1]), nd([10, 10]), nd([100, 100])])
    assert values(grad) == [1 + 30 + 200, 1 + 30 + 400]
    outs[0][:] = 9
    assert values(ex.arg_arrays[0]) == [1, 2]


def test_backward_again_and_after_inference_and_before_forward() -> None:
    grads = gradients()
    ex = dense().bind(CPU, arrays(), args_grad=grads)
    for prepare in (
        lambda: None,
        lambda: ex.forward(is_train=False),
        lambda: ex.forward(is_train=True),
        lambda: None,
    ):
        prepare()
        grads["fc_bias"][:] = 0
        ex.backward({"fc_output": mx.nd.ones((2, 2))})
        assert values(grads["fc_bias"]) == [2, 2]


def test_gradient_of_another_type_is_converted() -> None:
    grads = {"fc_bias": mx.nd.zeros((2,), dtype="float64")}
    ex = dense().bind(CPU, arrays(), args_grad=grads)
    ex.forward(is_train=True)
    ex.backward(mx.nd.ones((2, 2), dtype="float16"))
    assert values(grads["fc_bias"]) == [2, 2]
    assert grads["fc_bias"].dtype == np.float64


def test_losses_need_no_gradient() -> None:
    loss = mx.sym.MakeLoss(V("x") * 3)
    ex = loss.simple_bind(CPU, x=(2,))
    ex.forward(is_train=True)
    ex.backward()
    assert values(ex.grad_arrays[0]) == [3, 3]
    blocked = mx.sym.BlockGrad(V("x") * 3).simple_bind(CPU, x=(2,))
    blocked.grad_arrays[0][:] = 7
    blocked.backward()
    assert values(blocked.grad_arrays[0]) == [0, 0]


def test_gradients_may_be_left_out_for_losses_only() -> None:
    pair = mx.sym.Group([V("a") * 1, mx.sym.MakeLoss(V("b") * 3)])
    ex = pair.simple_bind(CPU, a=(2,), b=(2,))
    ex.forward(is_train=True)
    with pytest.raises(
        MXNetError, match=r"_mulscalar.*_output: missing; need a gradient of every output that is no loss"
    ):
        ex.backward()
    ex.backward([mx.nd.ones((2,))])
    assert [values(grad) for grad in ex.grad_arrays] == [[1, 1], [3, 3]]


def test_one_of_several_outputs() -> None:
    ex = mx.sym.split(V("x"), num_outputs=2, name="s")[1].simple_bind(CPU, x=(2, 4))
    ex.forward(is_train=True)
    ex.backward(mx.nd.ones((2, 2)))
    assert values(ex.grad_arrays[0]) == [[0, 0, 1, 1]] * 2
    assert list(ex.output_dict) == ["s_output1"]


def test_operators_without_gradient_refuse_only_when_asked() -> None:
    s = V("x") * 2 + mx.sym.argmax(V("y"), axis=1)
    ex = s.simple_bind(CPU, x=(2,), y=(2, 3), grad_req={"x": "write"})
    ex.forward(is_train=True)
    ex.backward(mx.nd.ones((2,)))
    assert values(ex.grad_dict["x"]) == [2, 2]


def test_training_changes_auxiliary_states_and_inference_does_not() -> None:
    ex = mx.sym.BatchNorm(V("x"), name="n", momentum=0.5).simple_bind(CPU, x=(2, 1))
    ex.forward(is_train=False, x=nd([[2], [4]]))
    ex.backward(mx.nd.ones((2, 1)))
    assert values(ex.aux_dict["n_moving_mean"]) == [0]
    ex.forward(is_train=True)
    ex.backward(mx.nd.ones((2, 1)))
    assert values(ex.aux_dict["n_moving_mean"]) == [1.5]


def test_forward_takes_arrays_by_name() -> None:
    ex = dense().bind(CPU, arrays())
    assert values(ex.forward(x=np.zeros((2, 3)), fc_bias=nd([1, 2], "float64"))[0]) == [[1, 2], [1, 2]]
    assert ex.arg_dict["fc_bias"].dtype == np.float32
    for kwargs, error in (
        ({"z": mx.nd.ones((1,))}, TypeError),
        ({"x": mx.nd.ones((3, 3))}, ValueError),
        ({"x": [[1]]}, ValueError),
    ):
        with pytest.raises(error, match="forward: "):
            ex.forward(**kwargs)


def bind(**kwargs: Any) -> Callable[[], Executor]:
    return lambda: dense().bind(**{"ctx": CPU, "args": arrays(), **kwargs})


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (bind(ctx="cpu"), TypeError, "ctx: got str"),
        (bind(ctx=mx.gpu()), MXNetError, "no GPU"),
        (bind(args=tuple(arrays().values())), TypeError, "args: got tuple"),
        (bind(args=[nd([1])]), ValueError, "args: got 1 arrays; need 3: x, fc_weight, fc_bias"),
        (bind(args={"x": mx.nd.ones((2, 3))}), ValueError, "args: fc_weight, fc_bias: missing"),
        (bind(args={**arrays(), "x": np.ones((2, 3))}), TypeError, "x: got ndarray; need an NDArray"),
        (bind(args={**arrays(), "x": mx.nd.ones((2, 4))}), MXNetError, "^Error in operator fc: .*weight"),
        (bind(args={**arrays(), "x": mx.nd.ones((2, 3), dtype="float64")}), MXNetError, "^Error in operator fc: "),
        (bind(args_grad=[None]), ValueError, "args_grad: got 1 arrays"),
        (bind(args_grad={"x": mx.nd.ones((1,))}), MXNetError, r"args_grad: x: got shape \(1,\); need \(2, 3\)"),
        (bind(args_grad={"x": 3}), TypeError, "args_grad: x: got int"),
        (bind(aux_states=[nd([1])]), ValueError, "aux_states: got 1 arrays; need 0"),
        (bind(grad_req="sometimes"), ValueError, "grad_req: got 'sometimes'; need one of null, write, add"),
        (bind(grad_req=["write"]), ValueError, "grad_req: got 1 entries; need 3"),
        (bind(grad_req={"x": "odd"}), ValueError, "grad_req: got 'odd'"),
        (bind(grad_req=3), ValueError, "grad_req: got int"),
        (lambda: (V("d") + V("d")).bind(CPU, {"d": nd([1])}), MXNetError, "several variables called d"),
        (lambda: dense().eval(x=nd([[1]])), ValueError, "fc_weight, fc_bias: missing"),
        (lambda: dense().simple_bind("cpu"), TypeError, "ctx: got str"),
        (lambda: dense().simple_bind(CPU), RuntimeError, r"x: \(\), fc_weight: \(\), fc_bias: \(\)"),
        (lambda: dense().simple_bind(CPU, x=(0, 3)), RuntimeError, r"x: \(0, 3\)"),
        (lambda: dense().simple_bind(CPU, x=(2, 3), fc_bias=(9,)), RuntimeError, "^simple_bind with .*operator fc"),
        (lambda: dense().simple_bind(CPU, x=(2, 3), grad_req="odd"), RuntimeError, "grad_req: got 'odd'"),
        (lambda: dense().simple_bind(CPU, x=(2, 3), type_dict={"x": "odd"}), TypeError, "type_dict: x"),
        (
            lambda: dense().simple_bind(CPU, x=(2, 3), type_dict={"x": "float64", "fc_bias": "float32"}),
            RuntimeError,
            "Error in operator fc",
        ),
        (lambda: dense().simple_bind(CPU, x=(2, 3), shared_arg_names="x"), ValueError, "shared_arg_names: got str"),
        (lambda: dense().simple_bind(CPU, x=(2, 3), shared_buffer=[]), ValueError, "shared_buffer: got list"),
    ],
)
def test_refusals_say_why(make: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("grads", "error", "text"),
    [
        (np.ones((2, 2)), TypeError, "need NDArrays|iteration|got"),
        ([np.ones((2, 2))], TypeError, "got ndarray; need NDArrays"),
        (mx.nd.ones((2, 3)), ShapeError, r"fc_output: got shape \(2, 3\); need \(2, 2\)"),
        ([mx.nd.ones((2, 2))] * 2, MXNetError, "got 2 arrays; the outputs are fc_output"),
        ({"other": mx.nd.ones((2, 2))}, MXNetError, "fc_output: missing"),
        (None, MXNetError, "fc_output: missing"),
    ],
)
def test_backward_refusals(grads: Any, error: type[Exception], text: str) -> None:
    ex = dense().bind(CPU, arrays(), args_grad=gradients())
    ex.forward(is_train=True)
    with pytest.raises(error, match=text):
        ex.backward(grads)
    assert values(ex.grad_dict["fc_bias"]) == [7, 7]


def test_simple_bind_infers_shapes_and_types() -> None:
    ex = dense().simple_bind(
        CPU, x=(2, 3), type_dict={"x": "float64"}, grad_req=["null", "write", "add"], ignored=3
    )
    assert [(array.shape, array.dtype) for array in ex.arg_arrays] == [
        ((2, 3), np.float64),
        ((2, 3), np.float64),
        ((2,), np.float64),
    ]
    assert [grad is None for grad in ex.grad_arrays] == [True, False, False]
    assert {array.dtype for array in dense().simple_bind(CPU, x=(2, 3)).arg_arrays} == {np.float32}
    declared = mx.sym.FullyConnected(V("x", dtype="float64"), num_hidden=2).simple_bind(CPU, x=(2, 3))
    assert {array.dtype for array in declared.arg_arrays} == {np.float64}


def test_simple_bind_shares_arrays() -> None:
    first = dense().simple_bind(CPU, x=(4, 3))
    second = dense().simple_bind(
        CPU, x=(2, 3), shared_exec=first, shared_arg_names=["fc_weight", "fc_bias"], shared_buffer={}
    )
    assert second.arg_dict["fc_weight"] is first.arg_dict["fc_weight"]
    assert second.grad_dict["fc_bias"] is first.grad_dict["fc_bias"]
    with pytest.raises(RuntimeError, match="shared_exec: arg x: got shape"):
        dense().simple_bind(CPU, x=(2, 3), shared_exec=first, shared_arg_names=["x"])
    pool: dict[str, mx.nd.NDArray] = {}
    large = dense().simple_bind(CPU, x=(4, 3), shared_buffer=pool)
    small = dense().simple_bind(CPU, x=(2, 3), shared_buffer=pool)
    small.arg_dict["x"][:] = 5
    assert values(large.arg_dict["x"]) == [[5] * 3] * 2 + [[0] * 3] * 2
    assert set(pool) == {"x", "fc_weight", "fc_bias"}


def test_reshaped_executors_share_memory() -> None:
    ex = dense().simple_bind(CPU, x=(4, 3))
    small = ex.reshape(x=(2, 3))
    assert small.arg_dict["fc_weight"] is ex.arg_dict["fc_weight"]
    small.arg_dict["x"][:] = 7
    small.grad_dict["x"][:] = 1
    assert values(ex.arg_dict["x"]) == [[7] * 3] * 2 + [[0] * 3] * 2
    assert values(ex.grad_dict["x"]) == [[1] * 3] * 2 + [[0] * 3] * 2
    assert small.forward()[0].shape == (2, 2)
    large = ex.reshape(allow_up_sizing=True, x=(8, 3))
    assert large.forward(is_train=True)[0].shape == (8, 2)
    large.backward(mx.nd.ones((8, 2)))
    assert values(ex.grad_dict["fc_bias"]) == [8, 8]


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"x": (8, 3)}, "x: its shape would grow"),
        ({"x": (4, 2)}, "fc_weight: its shape would change"),
        ({"x": (4,)}, "reshape: "),
        ({"z": (4, 3)}, "got z"),
        ({"x": [4, 3]}, "x: got list"),
        ({}, r"x: got shape \(\)"),
    ],
)
def test_reshape_refusals(kwargs: Any, text: str) -> None:
    ex = dense().simple_bind(CPU, x=(4, 3))
    with pytest.raises(MXNetError, match=text):
        ex.reshape(**kwargs)
    assert [array.shape for array in ex.reshape(partial_shaping=True, x=(4, 2)).arg_arrays] == [
        (4, 2),
        (2, 2),
        (2,),
    ]


def test_copy_params() -> None:
    ex = mx.sym.BatchNorm(dense(), name="n").simple_bind(CPU, x=(2, 3))
    ex.copy_params_from({"fc_bias": nd([1, 2], "float64")}, {"n_moving_mean": nd([3, 4])})
    assert values(ex.arg_dict["fc_bias"]) == [1, 2]
    assert values(ex.aux_dict["n_moving_mean"]) == [3, 4]
    with pytest.raises(ValueError, match="got odd; the arguments are"):
        ex.copy_params_from({"odd": nd([1])})
    with pytest.raises(ValueError, match="got odd; the auxiliary states are"):
        ex.copy_params_from({}, {"odd": nd([1])})
    ex.copy_params_from({"odd": nd([1])}, {"odd": nd([1])}, allow_extra_params=True)
    with pytest.raises(ShapeError, match="fc_bias: got shape"):
        ex.copy_params_from({"fc_bias": nd([1])})


def test_monitor_sees_every_array() -> None:
    ex = mx.sym.relu(dense(), name="r").bind(CPU, arrays(), args_grad={"x": mx.nd.zeros((2, 3))})
    seen: list[str] = []
    ex.set_monitor_callback(lambda name, array: seen.append(f"{name} {array.shape}"))
    ex.forward(is_train=True)
    assert seen == ["fc_output (2, 2)", "r_output (2, 2)"]
    ex.backward(mx.nd.ones((2, 2)))
    assert seen[2:] == ["r_backward_output0 (2, 2)", "fc_backward_output0 (2, 3)"]
    seen.clear()
    ex.set_monitor_callback(lambda name, array: seen.append(name), monitor_all=True)
    ex.reshape(x=(1, 3)).forward()
    first = ["x", "fc_data", "fc_weight", "fc_weight", "fc_bias", "fc_bias", "fc_output"]
    assert seen == [*first, "r_data", "r_output"]


def test_empty_batch_runs() -> None:
    s = mx.sym.Deconvolution(V("x"), kernel=(2,), num_filter=3, no_bias=False, name="d")
    args = {"x": mx.nd.zeros((0, 2, 5)), "d_weight": mx.nd.ones((2, 3, 2)), "d_bias": mx.nd.ones((3,))}
    grads = {name: mx.nd.ones(array.shape) for name, array in args.items()}
    ex = s.bind(CPU, args, args_grad=grads)
    assert ex.forward(is_train=True)[0].shape == (0, 3, 6)
    ex.backward(mx.nd.ones((0, 3, 6)))
    assert values(grads["d_bias"]) == [0, 0, 0]
    assert not grads["d_weight"].asnumpy().any()


def test_executor_keeps_the_symbol_it_was_given() -> None:
    s = dense()
    ex = s.bind(CPU, arrays())
    s._set_attr(__k__="1")
    s._compose(x=V("other"))
    assert list(ex.arg_dict) == ["x", "fc_weight", "fc_bias"]
    assert "__k__" not in ex.get_optimized_symbol().attr_dict()["fc"]
    assert ex.debug_str().endswith("Total 0 MB allocated\n")


def test_outputs_of_one_name_cannot_be_a_dict() -> None:
    ex = mx.sym.Group([V("x"), V("x") * 1]).bind
    with pytest.raises(MXNetError, match="several variables called x"):
        ex(CPU, {"x": nd([1])})
    x = V("x")
    with pytest.raises(ValueError, match="the outputs x, x"):
        mx.sym.Group([x, x]).bind(CPU, {"x": nd([1])}).output_dict  # noqa: B018


def test_one_symbol_bound_in_many_threads() -> None:
    s = mx.sym.Deconvolution(V("x"), kernel=(3,), num_filter=2, name="d")

    def run(value: int) -> float:
        ex = s.simple_bind(CPU, x=(1, 2, 4))
        ex.arg_dict["d_weight"][:] = 1
        ex.forward(is_train=True, x=mx.nd.full((1, 2, 4), value))
        ex.backward(mx.nd.ones((1, 2, 6)))
        return float(ex.outputs[0].asnumpy().max())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(16))) == [6 * value for value in range(16)]


def test_eval() -> None:
    assert values((V("a") + V("b")).eval(a=nd([1]), b=nd([2]), c=nd([3]))[0]) == [3]
    assert values((V("a") * 2).eval(ctx=CPU, a=nd([1]))[0]) == [2]


@pytest.mark.parametrize("shape", [(2**45,), (2**62, 4)])
def test_memory_that_cannot_be_had(shape: tuple[int, ...]) -> None:
    one = mx.nd.ones((1,) * len(shape))
    large = mx.sym.broadcast_to(V("x"), shape=shape, name="large")
    text = "does not fit in memory|more elements than memory can address"
    with pytest.raises(OutOfMemoryError, match=text):
        mx.sym.relu(V("x")).simple_bind(CPU, x=shape)
    with pytest.raises(OutOfMemoryError, match=text):
        large.bind(CPU, [one])
    inner = r"^Error in operator double: Unable to allocate|^large_output: bind: shape .* has more elements"
    with pytest.raises(OutOfMemoryError, match=inner):
        mx.sym.sum(mx.sym.square(large, name="double")).eval(x=one)
