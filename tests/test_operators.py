"""Operators: gradients against differences, half types, empty arrays, chance, and what the registry promises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from tconv.dtypes import as_dtype
from tconv.errors import MXNetError, ParameterError, ShapeError
from tconv.operators.compute import no_gradient, total, unbroadcast
from tconv.operators.elementwise import erf
from tconv.operators.generator import generator, seed
from tconv.operators.registry import Call, find, names, solve
from test_operators_golden import golden

LOSSES = {op for op in map(find, names()) if op.head}
CALLS = sorted(op for op, cases in golden().cases.items() if any("grads" in case for case in cases))


def parsed(op: str, **params: object):
    operator = find(op)
    return operator, operator.params.parse({key: str(value) for key, value in params.items()})


def run(op: str, *inputs: np.ndarray, train: bool = False, **params: object) -> list[np.ndarray]:
    operator, values = parsed(op, **params)
    solve(operator, values, tuple(x.shape for x in inputs), tuple(x.dtype for x in inputs))
    return list(operator.forward(Call(values, train), inputs))


def gradients(op: str, inputs: list[np.ndarray], grad: np.ndarray, train: bool = True, **params: object):
    operator, values = parsed(op, **params)
    call = Call(values, train, wanted=(True,) * len(inputs))
    outputs = operator.forward(call, inputs)
    assert operator.backward is not None
    return operator.backward(call, inputs, outputs, [grad, *(np.zeros_like(y) for y in outputs[1:])])


class Recorded(NamedTuple):
    """A recorded call that tconv computes too."""

    params: object
    inputs: list[np.ndarray]
    train: bool


def recorded(op: str) -> Iterator[Recorded]:
    """Yield the recorded calls of an operator whose inputs are finite and whose results are not random."""
    operator = find(op)
    for case in golden().cases[op]:
        if case["what"] != "call" or "error" in case or case["params"].get("act_type") == "rrelu":
            continue
        inputs = [golden().array(reference) for reference in case["inputs"]]
        params = operator.params.parse(case["params"])
        try:
            solve(operator, params, tuple(x.shape for x in inputs), tuple(x.dtype for x in inputs))
        except MXNetError:
            continue
        if all(np.isfinite(x).all() for x in inputs):
            yield Recorded(params, [x.copy() for x in inputs], case.get("train", True))


def small(array: np.ndarray) -> np.ndarray:
    """Tell where an array is neither infinite, NaN nor close to the end of its range."""
    return np.isfinite(array) & (np.abs(np.nan_to_num(array, posinf=1e9, neginf=1e9)) < 1e4)


# Of equal places scatter_nd keeps the last; casts change the type; these powers are recorded of negative numbers.
NOT_DIFFERENTIABLE = ("scatter_nd", "Cast", "cast", "_Power", "broadcast_power")


SMOOTH = [
    op
    for op in CALLS
    if find(op) not in LOSSES and find(op).backward is not no_gradient and op not in NOT_DIFFERENTIABLE
]


@pytest.mark.parametrize("op", SMOOTH)
def test_gradient_is_the_limit_of_differences(op: str) -> None:
    operator = find(op)
    assert operator.backward is not None
    rng = np.random.default_rng(0)
    checked = 0
    for params, given, train in recorded(op):
        inputs = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in given]
        # Whole numbers are indices, or have ties.
        moving = [x.dtype.kind == "f" and not np.array_equal(x, np.rint(x)) for x in inputs]
        call = Call(params, train, wanted=tuple(moving))
        outputs = operator.forward(call, inputs)
        if not any(moving) or outputs[0].dtype != np.float64 or not small(outputs[0]).all():
            continue
        head = rng.uniform(-1, 1, outputs[0].shape)
        heads = [head, *(np.zeros_like(y) for y in outputs[1:])]
        grads = operator.backward(call, [x.copy() for x in inputs], outputs, heads)

        def loss(call: Call = call, inputs: list[np.ndarray] = inputs, head: np.ndarray = head) -> float:
            return float(np.sum(operator.forward(call, inputs)[0] * head))

        for x, grad, moves in zip(inputs, grads, moving):
            for place in np.ndindex(x.shape) if moves and grad is not None else ():
                kept, step = x[place], 1e-6
                x[place] = kept + step
                above = loss()
                x[place] = kept - step
                below = loss()
                x[place] = kept
                expected = (above - below) / (2 * step)
                assert grad[place] == pytest.approx(expected, rel=2e-5, abs=2e-6), (op, params, place)
        checked += 1
    assert checked


OF_ANOTHER_TYPE = {"shape_array", "size_array", "one_hot", "Cast", "cast", "argsort", "topk", "sort"}


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("op", [op for op in CALLS if op not in OF_ANOTHER_TYPE])
def test_half_types_stay_and_come_near(op: str, kind: str) -> None:
    operator = find(op)
    assert operator.backward is not None
    dtype = as_dtype(kind)
    for params, inputs, train in recorded(op):
        if any(x.dtype != np.float32 for x in inputs) or getattr(params, "dtype", None):
            continue
        narrow = [x if op == "BatchNorm" and place else x.astype(dtype) for place, x in enumerate(inputs)]
        call = Call(params, train, wanted=(True,) * len(inputs))
        outputs = operator.forward(call, narrow)
        wide = operator.forward(call, [x.astype(np.float32) for x in narrow])
        assert outputs[0].dtype == dtype
        near = small(wide[0])
        scale = max(1.0, float(np.abs(wide[0][near]).max(initial=0)))
        error = np.abs(outputs[0].astype(np.float32)[near] - wide[0][near]).max(initial=0)
        assert error <= scale * (1e-3 if kind == "float16" else 8e-3), (op, params)
        grads = operator.backward(call, narrow, outputs, [np.ones_like(y) for y in outputs])
        assert all(g is None or g.dtype == x.dtype for g, x in zip(grads, narrow)), (op, params)


EMPTY = [
    ("elemwise_add", [(0, 3), (0, 3)], {}, (0, 3)),
    ("broadcast_mul", [(0, 3), (1, 3)], {}, (0, 3)),
    ("broadcast_sub", [(2, 0), (2, 1)], {}, (2, 0)),
    ("broadcast_power", [(0, 1), (1, 4)], {}, (0, 4)),
    ("_plus_scalar", [(0,)], {"scalar": 1}, (0,)),
    ("exp", [(2, 0)], {}, (2, 0)),
    ("erf", [(2, 0)], {}, (2, 0)),
    ("sum", [(0, 3)], {"axis": 0}, (3,)),
    ("sum", [(0, 3)], {}, (1,)),
    ("prod", [(2, 0)], {"axis": 1}, (2,)),
    ("mean", [(0, 3)], {"axis": 1}, (0,)),
    ("max", [(0, 3)], {"axis": 1}, (0,)),
    ("norm", [(0, 3)], {"axis": 1}, (0,)),
    ("Reshape", [(0, 3)], {"shape": "(0, 3, 1)"}, (0, 3, 1)),
    ("Flatten", [(0, 3, 2)], {}, (0, 6)),
    ("transpose", [(0, 3)], {}, (3, 0)),
    ("Concat", [(2, 0), (2, 3)], {"num_args": 2}, (2, 3)),
    ("SliceChannel", [(0, 4)], {"num_outputs": 2}, (0, 2)),
    ("slice", [(2, 0)], {"begin": (0,), "end": (1,)}, (1, 0)),
    ("FullyConnected", [(0, 3), (4, 3), (4,)], {"num_hidden": 4}, (0, 4)),
    ("dot", [(2, 0), (0, 3)], {}, (2, 3)),
    ("softmax", [(0, 3)], {}, (0, 3)),
    ("SoftmaxOutput", [(0, 3), (0,)], {}, (0, 3)),
    ("BatchNorm", [(0, 3, 2), (3,), (3,), (3,), (3,)], {}, (0, 3, 2)),
    ("Activation", [(0, 3)], {"act_type": "tanh"}, (0, 3)),
    ("LeakyReLU", [(0, 3), (3,)], {"act_type": "prelu"}, (0, 3)),
    ("Pooling", [(0, 2, 4, 4)], {"kernel": (2, 2)}, (0, 2, 3, 3)),
    ("take", [(3, 0), (2,)], {}, (2, 0)),
    ("Pad", [(0, 1, 2, 2)], {"mode": "edge", "pad_width": (0, 0, 0, 0, 1, 1, 1, 1)}, (0, 1, 4, 4)),
]


@pytest.mark.parametrize(("op", "shapes", "params", "expected"), EMPTY, ids=lambda value: str(value))
@pytest.mark.parametrize("train", [False, True])
def test_empty_arrays_pass(op, shapes, params, expected, train: bool) -> None:
    inputs = [np.ones(shape, np.float32) for shape in shapes]
    outputs = run(op, *inputs, train=train, **params)
    assert outputs[0].shape == expected
    grads = gradients(op, inputs, np.ones_like(outputs[0]), train=train, **params)
    assert all(g is None or g.shape == x.shape for g, x in zip(grads, inputs))


def test_gradients_of_broadcasting_sum_over_what_was_repeated() -> None:
    a, b = np.ones((2, 1, 3), np.float32), np.ones((4, 1), np.float32)
    by_a, by_b = gradients("broadcast_add", [a, b], np.ones((2, 4, 3), np.float32))
    assert np.array_equal(by_a, np.full((2, 1, 3), 4))
    assert np.array_equal(by_b, np.full((4, 1), 6))
    assert np.array_equal(unbroadcast(np.ones((0, 3), np.float32), (1, 3)), np.zeros((1, 3)))


def test_long_sums_of_float32_are_exact_to_rounding() -> None:
    values = np.full((2**21, 2), np.float32(0.1))
    expected = np.float64(np.float32(0.1)) * 2**21
    assert total(values, (0,)) == pytest.approx(expected, rel=1e-7)
    assert run("mean", values, axis=0)[0] == pytest.approx(np.float32(0.1), rel=1e-7)


def test_erf_is_exact_to_rounding() -> None:
    x = np.concatenate([np.linspace(-7, 7, 2001), [1e-300, -0.0, np.inf, -np.inf]])
    assert erf(x) == pytest.approx([math.erf(value) for value in x], rel=4e-16, abs=0)
    assert np.isnan(erf(np.array([np.nan]))).all()
    back = run("erfinv", erf(np.linspace(-3, 3, 61)))[0]
    assert back == pytest.approx(np.linspace(-3, 3, 61), rel=1e-11, abs=1e-15)


def test_whole_numbers_divide_like_c() -> None:
    a, b = np.int32([7, -7, 7, -7, 5]), np.int32([2, 2, -2, -2, 0])
    assert run("elemwise_div", a, b)[0].tolist() == [3, -3, -3, 3, 0]
    assert run("_mod", a, b)[0].tolist() == [1, 1, -1, -1, 0]
    assert run("broadcast_power", np.int32([2, 3]), np.int32([10, 0]))[0].tolist() == [1024, 1]
    assert run("_plus_scalar", np.uint8([250, 3]), scalar=10)[0].tolist() == [4, 13]


WRONG = [
    ("Reshape", [(2, 3, 4)], {"shape": (5, -1)}),
    ("Reshape", [(2, 3, 4)], {"shape": (4, 5)}),
    ("Reshape", [(2, 3, 4)], {"shape": (24, -3)}),
    ("Reshape", [(2, 3, 4)], {"shape": (-5,)}),
    ("Reshape", [(2, 3, 4)], {"shape": (2, -2), "reverse": True}),
    ("Reshape", [(2, 3)], {}),
    ("Reshape", [(0, 3)], {"shape": (0, -1, 2)}),
    ("Crop", [(1, 2, 4, 4)], {"num_args": 1, "h_w": (0, 2)}),
    ("Concat", [(2, 3), (2,)], {"num_args": 2}),
    ("SliceChannel", [(2, 3)], {"num_outputs": 2}),
    ("max", [(0, 3)], {"axis": 0}),
    ("argmax", [(0, 3)], {}),
    ("Pad", [(1, 1, 2, 2)], {"mode": "reflect", "pad_width": (0, 0, 0, 0, 2, 0, 0, 0)}),
    ("Pad", [(1, 1, 2, 2)], {"mode": "constant", "pad_width": (0, 0, 0, 0, -1, 0, 0, 0)}),
    ("Pooling", [(1, 1, 2, 2)], {"kernel": (3, 3)}),
    ("LRN", [(1, 2, 3, 3)], {"nsize": 2}),
    ("repeat", [(2, 3)], {"repeats": -1}),
    ("Dropout", [(2, 3)], {"p": 1.5}),
    ("UpSampling", [(1, 1, 2, 2)], {"scale": -1, "sample_type": "nearest", "num_args": 1}),
    ("SliceChannel", [(2, 4)], {"num_outputs": -2}),
    ("_zeros", [], {"shape": (2**40, 2**40)}),
    ("_arange", [], {"start": 0, "stop": 3, "step": -1}),
]


@pytest.mark.parametrize(("op", "shapes", "params"), WRONG, ids=lambda value: str(value))
def test_what_cannot_be_is_refused(op, shapes, params) -> None:
    with pytest.raises(MXNetError, match=rf"^{op}: \w+: "):
        run(op, *(np.ones(shape, np.float32) for shape in shapes), **params)


def test_indices_out_of_bounds() -> None:
    data = np.arange(6, dtype=np.float32).reshape(3, 2)
    with pytest.raises(ShapeError, match=r"take: indices: got 0 to 3; need 0 to 2"):
        run("take", data, np.float32([0, 3]), mode="raise")
    assert run("take", data, np.float32([-1, 3]), mode="clip")[0].tolist() == [[0, 1], [4, 5]]
    assert run("take", data, np.float32([-1, 3]), mode="wrap")[0].tolist() == [[4, 5], [0, 1]]
    with pytest.raises(ShapeError, match=r"gather_nd: indices: got 3"):
        run("gather_nd", data, np.float32([[3], [0]]))


def test_dropout_drops_by_chance_and_its_gradient_agrees() -> None:
    seed(1)
    data = np.ones((100, 100), np.float32)
    out, mask = run("Dropout", data, train=True, p=0.25)
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert np.mean(out != 0) == pytest.approx(0.75, abs=0.02)
    assert np.array_equal(out, mask)
    seed(1)
    (grad,) = gradients("Dropout", [data], data, p=0.25)
    assert np.array_equal(grad, out)
    together, _ = run("Dropout", data, train=True, axes=(0,))
    assert (together == together[:1]).all()
    assert run("Dropout", data, train=False, mode="always")[0].min() == 0
    assert run("Dropout", data, train=False)[0] is data
    assert not run("Dropout", data, train=True, p=1)[0].any()


def test_randomised_slopes_lie_between_their_bounds() -> None:
    seed(2)
    out, slope = run("LeakyReLU", np.float32([-1] * 1000), train=True, act_type="rrelu")
    assert 0.125 <= slope.min() < 0.14
    assert 0.32 < slope.max() <= 0.334
    assert np.array_equal(out, -slope)


def test_seeds_repeat_and_threads_differ() -> None:
    from concurrent.futures import ThreadPoolExecutor

    seed(5)
    first = generator().random(4)
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(lambda: generator().random(4)).result()
    seed(5)
    assert np.array_equal(first, generator().random(4))
    assert not np.array_equal(first, elsewhere)
    seed(-3)
    seed()


def test_moving_averages_move_with_the_gradient_only() -> None:
    rng = np.random.default_rng(3)
    data = rng.normal(2, 3, (8, 2, 5)).astype(np.float32)
    one, zero = np.ones(2, np.float32), np.zeros(2, np.float32)
    inputs = [data, one, zero, zero.copy(), one.copy()]
    run("BatchNorm", *inputs, train=True)
    assert not inputs[3].any()
    gradients("BatchNorm", inputs, np.ones_like(data), train=False)
    assert not inputs[3].any()
    gradients("BatchNorm", inputs, np.ones_like(data))
    assert inputs[3] == pytest.approx(0.1 * data.mean((0, 2)), rel=1e-5)
    assert inputs[4] == pytest.approx(0.9 + 0.1 * data.var((0, 2)), rel=1e-5)


def test_fixed_gamma_counts_as_one() -> None:
    data = np.float32([[1, 2], [3, 4]])
    two, zero = np.full(2, 2, np.float32), np.zeros(2, np.float32)
    fixed = run("BatchNorm", data, two, zero, zero, two)[0]
    free = run("BatchNorm", data, two, zero, zero, two, fix_gamma=False)[0]
    assert np.array_equal(free, 2 * fixed)
    assert two.tolist() == [2, 2]


def test_outputs_land_where_asked() -> None:
    a, b = np.float32([1, 2]), np.float32([3, 4])
    for op, inputs, params in [
        ("elemwise_add", [a, b], {}),
        ("exp", [a], {}),
        ("_mul_scalar", [a], {"scalar": 3}),
        ("Activation", [a], {"act_type": "tanh"}),
        ("LeakyReLU", [a], {}),
    ]:
        operator, values = parsed(op, **params)
        out = np.empty(2, np.float32)
        (result,) = operator.forward(Call(values, out=out), inputs)
        assert result is out
        assert np.array_equal(out, run(op, *inputs, **params)[0])


@pytest.mark.parametrize("op", ["_copy", "BlockGrad", "Reshape", "transpose", "slice_axis", "Dropout", "make_loss"])
def test_views_are_declared(op: str) -> None:
    assert find(op).view


@pytest.mark.parametrize("op", sorted(golden().cases))
def test_who_returns_views_says_so(op: str) -> None:
    operator = find(op)
    for params, inputs, train in recorded(op):
        for training in {train, False}:
            outputs = operator.forward(Call(params, training), inputs)
            shared = any(np.shares_memory(x, y) for x in inputs for y in outputs)
            assert operator.view or not shared, (op, params)


def test_a_name_is_taken_once() -> None:
    from tconv.operators.registry import register

    with pytest.raises(ParameterError, match="registered already"):
        register(find("_plus"))
