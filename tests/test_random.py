from __future__ import annotations

import threading

import numpy as np
import pytest

import tconv as mx

R = mx.nd.random

SAMPLERS = [
    (lambda **k: R.uniform(-1, 3, **k), 1.0, 16 / 12),
    (lambda **k: R.normal(2, 3, **k), 2.0, 9.0),
    (lambda **k: R.exponential(2, **k), 2.0, 4.0),
    (lambda **k: R.gamma(3, 2, **k), 6.0, 12.0),
    (lambda **k: R.poisson(4, **k), 4.0, 4.0),
    (lambda **k: R.negative_binomial(4, 0.5, **k), 4.0, 8.0),
    (lambda **k: R.generalized_negative_binomial(4, 0.5, **k), 4.0, 12.0),
    (lambda **k: R.randint(0, 5, **k), 2.0, 2.0),
]


@pytest.mark.parametrize(("sample", "mean", "variance"), SAMPLERS)
def test_moments(sample, mean, variance):
    mx.random.seed(11)
    drawn = sample(shape=(40000,)).asnumpy().astype(np.float64)
    assert abs(drawn.mean() - mean) < 5 * np.sqrt(variance / drawn.size)
    assert abs(drawn.var() - variance) < 0.1 * variance


@pytest.mark.parametrize("sample", [row[0] for row in SAMPLERS])
def test_seed_repeats(sample):
    mx.random.seed(5)
    first = sample(shape=(3, 2)).asnumpy()
    second = sample(shape=(3, 2)).asnumpy()
    mx.random.seed(5)
    assert (sample(shape=(3, 2)).asnumpy() == first).all()
    assert (sample(shape=(3, 2)).asnumpy() == second).all()
    assert (first != second).any()


@pytest.mark.parametrize("seed", [0, -1, 2**40, np.int64(3)])
def test_every_int_is_a_seed(seed):
    mx.random.seed(seed)
    first = R.uniform(shape=(4,)).asnumpy()
    mx.random.seed(seed, ctx=mx.cpu())
    assert (R.uniform(shape=(4,)).asnumpy() == first).all()


def test_dropout_follows_the_seed():
    x = mx.nd.ones((100,))
    outs = []
    for _ in range(2):
        mx.random.seed(3)
        with mx.autograd.train_mode():
            outs.append(mx.nd.Dropout(x, p=0.5).asnumpy())
    assert (outs[0] == outs[1]).all()
    assert 0 < outs[0].astype(bool).sum() < 100


def test_threads_draw_without_disturbing_each_other():
    mx.random.seed(1)
    rows: list[np.ndarray] = []

    def draw():
        rows.extend(R.uniform(shape=(100,)).asnumpy() for _ in range(20))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({row.tobytes() for row in rows}) == 80


def test_shapes_and_types():
    assert R.uniform().shape == (1,)
    assert R.uniform(0, 1, 3).shape == (3,)
    assert R.uniform(shape=(0, 2)).shape == (0, 2)
    assert R.randn(2, 3).shape == (2, 3)
    assert R.randn(2, loc=100.0, scale=0.001).asnumpy().min() > 90
    assert R.uniform(shape=2, dtype="float64").dtype is np.float64
    assert R.normal(shape=2, dtype=np.float16).dtype is np.float16
    assert R.poisson(4, shape=2).dtype is np.float32
    assert R.randint(0, 3, shape=2).dtype is np.int32
    assert R.randint(0, 2**40, shape=2, dtype="int64").dtype is np.int64
    out = mx.nd.zeros((2,), dtype="float64")
    assert R.uniform(5, 6, out=out) is out
    assert (out.asnumpy() >= 5).all()


def test_bounds():
    mx.random.seed(0)
    drawn = R.uniform(-2, 3, shape=(1000,)).asnumpy()
    assert -2 <= drawn.min() < drawn.max() <= 3
    assert set(R.randint(3, 5, shape=(100,)).asnumpy().tolist()) == {3, 4}


def test_arrays_as_parameters():
    low, high = mx.nd.array([[0, 10]]), mx.nd.array([[1, 11]])
    drawn = R.uniform(low, high).asnumpy()
    assert drawn.shape == (1, 2)
    assert drawn[0, 0] <= 1 < 10 <= drawn[0, 1]
    drawn = R.uniform(low, high, shape=(3,)).asnumpy()
    assert drawn.shape == (1, 2, 3)
    assert (drawn[0, 1] >= 10).all()
    assert mx.nd.sample_uniform(low, high).shape == (1, 2)


def test_multinomial():
    assert R.multinomial(mx.nd.array([0, 1])).asnumpy().tolist() == [1]
    drawn = R.multinomial(mx.nd.array([[0, 1], [1, 0]]), shape=4)
    assert drawn.asnumpy().tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert drawn.dtype is np.int32
    drawn, chance = R.multinomial(mx.nd.array([0.25, 0.75]), shape=(50,), get_prob=True)
    expected = np.log(np.array([0.25, 0.75], np.float32))[drawn.asnumpy()]
    assert np.allclose(chance.asnumpy(), expected)
    mx.random.seed(1)
    drawn = R.multinomial(mx.nd.array([0.0, 0.2, 0.0, 0.8, 0.0]), shape=(5000,)).asnumpy()
    assert set(drawn.tolist()) == {1, 3}
    assert abs((drawn == 3).mean() - 0.8) < 0.03


def test_shuffle_permutes_the_first_axis():
    mx.random.seed(2)
    x = mx.nd.array(np.arange(40).reshape(20, 2))
    y = R.shuffle(x).asnumpy()
    assert (np.sort(y, axis=0) == x.asnumpy()).all()
    assert (y[:, 1] == y[:, 0] + 1).all()
    assert (y != x.asnumpy()).any()
    assert x.asnumpy()[0].tolist() == [0, 1]


def test_like():
    x = mx.nd.zeros((2, 3), dtype="float64")
    assert R.normal_like(x).shape == (2, 3)
    assert R.normal_like(x).dtype is np.float64
    assert R.uniform_like(data=x, low=5, high=6).asnumpy().min() >= 5


def test_older_names():
    assert mx.nd.random_uniform(0, 1, shape=(2,)).shape == (2,)
    assert mx.nd.random_normal(loc=0, scale=1, shape=(2,)).shape == (2,)
    assert mx.nd.uniform is mx.random.uniform
    assert mx.nd.random is mx.random


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: mx.random.seed(1.0), "seed_state: got 1.0; need an int"),
        (lambda: mx.random.seed(True), "need an int"),
        (lambda: R.uniform("a"), "low: got str"),
        (lambda: R.uniform(mx.nd.array([0.0]), 1), "high: got no array of shape"),
        (lambda: R.uniform(shape=(2,), dtype="int32"), "dtype: got int32"),
        (lambda: R.uniform(shape=(-1,)), "no size may be negative"),
        (lambda: R.uniform(0, 1, shape=(2,), out=mx.nd.zeros((3,))), r"out: got shape \(3,\)"),
        (lambda: R.normal(0, -1, shape=(3,)), "scale: got -1"),
        (lambda: R.randint(5, 0), "high: got 0; need more than low 5"),
        (lambda: R.randint(0.5, 2), "low: got float"),
        (lambda: R.randint(0, 5, dtype="float32"), "dtype: got float32"),
        (lambda: R.poisson(-1), "poisson: "),
        (lambda: R.multinomial(mx.nd.array([0.0, 0.0])), "negative or no probabilities"),
        (lambda: R.multinomial(mx.nd.array([2.0, -1.0])), "negative or no probabilities"),
        (lambda: R.uniform_like(), "data: missing"),
        (lambda: R.uniform(shape=(2**40, 2**40)), "uniform: "),
    ],
)
def test_refusals(call, match):
    with pytest.raises(mx.MXNetError, match=match):
        call()
