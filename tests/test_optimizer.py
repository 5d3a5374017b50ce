"""Optimizers and learning rates, against steps recorded from MXNet 1.9.1."""

from __future__ import annotations

import numpy as np
import pytest

import tconv as mx

ALL = {"wd": 0.1, "rescale_grad": 0.5, "clip_gradient": 1.0}

STEPS = [
    ("sgd", {"learning_rate": 0.1}, [[0.95, -1.6, 0.6], [0.9, -1.2, 0.6], [0.85, -0.8, 0.5]]),
    (
        "sgd",
        {"learning_rate": 0.1, **ALL},
        [[0.965, -1.88, 0.545], [0.93035, -1.7612, 0.53955], [0.89604646, -1.643588, 0.48415449]],
    ),
    (
        "sgd",
        {"learning_rate": 0.1, "momentum": 0.9},
        [[0.95, -1.6, 0.6], [0.855, -0.84, 0.69], [0.7195, 0.244, 0.671]],
    ),
    (
        "sgd",
        {"learning_rate": 0.1, "momentum": 0.9, **ALL},
        [[0.965, -1.88, 0.545], [0.89885, -1.6532, 0.58005], [0.80532646, -1.332548, 0.55579448]],
    ),
    (
        "adam",
        {},
        [[0.999, -1.999, 0.501], [0.998, -1.998, 0.50167006], [0.99700004, -1.99699986, 0.50158417]],
    ),
    (
        "adam",
        {"learning_rate": 0.1, "beta1": 0.8, **ALL},
        [
            [0.89999944, -1.89999938, 0.60000056],
            [0.80016965, -1.79999876, 0.65193218],
            [0.70062935, -1.699998695, 0.62009299],
        ],
    ),
]


def walk(update, weight, steps=3):
    """Return the weight after each step along the gradients of the recording."""
    seen = []
    for step in range(steps):
        update(0, mx.nd.array([0.5, -4.0, step - 1.0], dtype=weight.dtype), weight)
        seen.append(weight.asnumpy().tolist())
    return seen


def start(dtype="float32"):
    return mx.nd.array([1.0, -2.0, 0.5], dtype=dtype)


@pytest.mark.parametrize(("name", "options", "expected"), STEPS)
def test_steps_are_mxnets(name, options, expected):
    updater = mx.optimizer.get_updater(mx.optimizer.create(name, **options))
    # MXNet rounds 1 - beta to float32 before it is used.
    tolerance = 3e-6 if name == "adam" else 2e-7
    assert np.allclose(walk(updater, start()), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "options", "expected"), STEPS)
def test_float16_with_a_copy_keeps_to_the_float32_steps(name, options, expected):
    updater = mx.optimizer.get_updater(mx.optimizer.create(name, multi_precision=True, **options))
    assert np.allclose(walk(updater, start("float16")), expected, rtol=1e-3, atol=1e-4)


def test_float16_without_a_copy_is_told():
    updater = mx.optimizer.get_updater(mx.optimizer.SGD(learning_rate=0.1))
    with pytest.warns(UserWarning, match="multi_precision=True keeps a float32 copy"):
        walk(updater, start("float16"), steps=1)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_states_are_taken_up_again(name):
    options = {"sgd": {"momentum": 0.9}, "adam": {}}[name]
    schedule = {"lr_scheduler": None}
    whole = mx.optimizer.get_updater(mx.optimizer.create(name, learning_rate=0.1, **options, **schedule))
    expected = walk(whole, start(), steps=4)
    first = mx.optimizer.get_updater(mx.optimizer.create(name, learning_rate=0.1, **options))
    weight = start()
    walk(first, weight, steps=2)
    second = mx.optimizer.get_updater(mx.optimizer.create(name, learning_rate=7, **options))
    second.set_states(first.get_states(dump_optimizer=True))
    assert second.optimizer.num_update == 2
    for step in (2, 3):
        second(0, mx.nd.array([0.5, -4.0, step - 1.0]), weight)
    assert np.allclose(weight.asnumpy(), expected[-1], atol=1e-7)


@pytest.mark.parametrize("damaged", [b"", b"\x00" * 40])
def test_damaged_states_are_refused(damaged):
    with pytest.raises(mx.MXNetError):
        mx.optimizer.get_updater(mx.optimizer.SGD()).set_states(damaged)


def test_foreign_states_are_refused(tmp_path):
    path = tmp_path / "w.params"
    mx.nd.save(str(path), {"w": mx.nd.ones((1,))})
    with pytest.raises(mx.MXNetError, match="got other bytes than get_states returns"):
        mx.optimizer.get_updater(mx.optimizer.SGD()).set_states(path.read_bytes())


def test_factors_by_name_and_index():
    optimizer = mx.optimizer.SGD(learning_rate=2, wd=3, param_idx2name={0: "a_weight", 1: "a_bias"})
    assert [optimizer._get_wd(index) for index in (0, 1, 2)] == [3, 0, 3]
    optimizer.set_lr_mult({"a_bias": 5})
    assert [optimizer._get_lr(index) for index in (0, 1)] == [2, 10]
    optimizer.set_lr_mult({0: 0.5})
    assert optimizer._get_lr(0) == 1
    variable = mx.sym.var("w", lr_mult=4, wd_mult=0)
    from_symbol = mx.optimizer.SGD(learning_rate=1, wd=1, sym=variable * 1, param_idx2name={0: "w"})
    assert (from_symbol._get_lr(0), from_symbol._get_wd(0)) == (4, 0)


def test_own_optimizer():
    @mx.optimizer.register
    class Sign(mx.optimizer.Optimizer):
        def update(self, index, weight, grad, state):
            self._update_count(index)
            weight[:] = weight - self._get_lr(index) * grad.sign()

    updater = mx.optimizer.get_updater(mx.optimizer.create("sign", learning_rate=1))
    weight = start()
    updater([0], [mx.nd.array([2.0, -3.0, 0.0])], [weight])
    assert weight.asnumpy().tolist() == [0, -1, 0.5]
    with pytest.raises(NotImplementedError, match="Optimizer: update: missing"):
        mx.optimizer.get_updater(mx.optimizer.Optimizer())(0, weight, weight)


def test_refusals():
    with pytest.raises(ValueError, match="optimizer: got 'sgdx'; need one of"):
        mx.optimizer.create("sgdx")
    with pytest.raises(AssertionError, match="param_idx2name: got list"):
        mx.optimizer.SGD(param_idx2name=["w"])
    scheduled = mx.optimizer.SGD(lr_scheduler=mx.lr_scheduler.FactorScheduler(1))
    with pytest.raises(UserWarning, match="follows an LRScheduler"):
        scheduled.set_learning_rate(1)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda s: s.FactorScheduler(2, 0.5, base_lr=1.0), [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        (
            lambda s: s.FactorScheduler(
                2, 0.1, stop_factor_lr=0.05, base_lr=1.0, warmup_steps=3, warmup_begin_lr=0.1
            ),
            [0.4, 0.7, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05],
        ),
        (
            lambda s: s.MultiFactorScheduler([2, 4], 0.5, base_lr=1.0, warmup_steps=2, warmup_mode="constant"),
            [0, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25],
        ),
        (
            lambda s: s.PolyScheduler(6, 1.0, 2, warmup_steps=2),
            [0.5, 1, 0.5625, 0.25, 0.0625, 0, 0, 0],
        ),
        (
            lambda s: s.CosineScheduler(6, 1.0, 0.1),
            [0.9397114317029974, 0.775, 0.55, 0.325, 0.16028856829700258, 0.1, 0.1, 0.1],
        ),
    ],
)
def test_schedules_are_mxnets(make, expected):
    schedule = make(mx.lr_scheduler)
    assert [schedule(update) for update in range(1, 9)] == pytest.approx(expected, abs=1e-15)


def test_schedule_drives_the_optimizer():
    optimizer = mx.optimizer.SGD(learning_rate=8, lr_scheduler=mx.lr_scheduler.FactorScheduler(1, 0.5))
    weight = mx.nd.zeros((1,))
    updater = mx.optimizer.get_updater(optimizer)
    steps = []
    for _ in range(3):
        before = weight.asscalar()
        updater(0, mx.nd.ones((1,)), weight)
        steps.append(before - weight.asscalar())
    assert steps == [8, 4, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda s: s.FactorScheduler(0),
        lambda s: s.FactorScheduler(1, factor=2),
        lambda s: s.MultiFactorScheduler([]),
        lambda s: s.MultiFactorScheduler([3, 2]),
        lambda s: s.PolyScheduler(0),
        lambda s: s.CosineScheduler(2, warmup_steps=-1),
        lambda s: s.LRScheduler(0.1, warmup_begin_lr=1),
        lambda s: s.LRScheduler(warmup_mode="x"),
    ],
)
def test_schedules_refuse(make):
    with pytest.raises(ValueError, match=r"Scheduler: .*got .*need"):
        make(mx.lr_scheduler)
