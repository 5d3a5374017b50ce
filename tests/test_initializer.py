"""First values of parameters: what each initializer writes, what it is called, and how names choose."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import tconv as mx


def filled(init, shape, name="w_weight", attrs=None, dtype="float32"):
    array = mx.nd.array(np.full(shape, 7), dtype=dtype)
    init(mx.init.InitDesc(name, attrs), array)
    return array.asnumpy()


# Recorded from MXNet 1.9.1.
@pytest.mark.parametrize(
    ("init", "text"),
    [
        (lambda: mx.init.Xavier(), '["xavier", {"rnd_type": "uniform", "factor_type": "avg", "magnitude": 3}]'),
        (lambda: mx.init.MSRAPrelu(), '["msraprelu", {"factor_type": "avg", "slope": 0.25}]'),
        (lambda: mx.init.Constant(2), '["constant", {"value": 2}]'),
        (lambda: mx.init.Constant(mx.nd.array([1, 2])), '["constant", {"value": [1.0, 2.0]}]'),
        (lambda: mx.init.Bilinear(), '["bilinear", {}]'),
        (lambda: mx.init.Orthogonal(), '["orthogonal", {"scale": 1.414, "rand_type": "uniform"}]'),
        (lambda: mx.init.Uniform(), '["uniform", {"scale": 0.07}]'),
        (lambda: mx.init.Normal(), '["normal", {"sigma": 0.01}]'),
        (lambda: mx.init.Zero(), '["zero", {}]'),
        (lambda: mx.init.One(), '["one", {}]'),
        (lambda: mx.init.LSTMBias(), '["lstmbias", {"forget_bias": 1.0}]'),
    ],
)
def test_dumps_and_back(init, text):
    made = init()
    assert made.dumps() == text
    again = mx.init.create(text)
    assert type(again) is type(made)
    assert again.dumps() == text


def test_bilinear_values_are_mxnets():
    kernel = filled(mx.init.Bilinear(), (2, 1, 4, 4))
    line = np.array([0.25, 0.75, 0.75, 0.25], "float32")
    assert np.array_equal(kernel, np.broadcast_to(np.outer(line, line), (2, 1, 4, 4)))
    odd = filled(mx.init.Bilinear(), (1, 1, 3, 5))[0, 0, 0]
    assert odd.tolist() == [0.1111111119389534, 0.2222222238779068, 0.3333333432674408, 0.2222222238779068,
                            0.1111111119389534]  # fmt: skip


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_bilinear_deconvolution_keeps_a_constant(rank):
    weight = filled(mx.init.Bilinear(), (2, 1) + (4,) * rank)
    data = mx.nd.ones((1, 2) + (5,) * rank)
    up = mx.nd.Deconvolution(
        data,
        mx.nd.array(weight),
        kernel=(4,) * rank,
        stride=(2,) * rank,
        pad=(1,) * rank,
        num_filter=2,
        num_group=2,
    )
    inner = (slice(None), slice(None)) + (slice(1, -1),) * rank
    assert up.shape == (1, 2) + (10,) * rank
    assert np.allclose(up.asnumpy()[inner], 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("a_bias", 0), ("a_gamma", 1), ("a_beta", 0), ("a_min", 0), ("a_max", 1), ("a_moving_mean", 0),
     ("a_moving_var", 1), ("a_running_mean", 0), ("a_running_var", 1), ("a_moving_avg", 0)],
)  # fmt: skip
def test_name_chooses(name, value):
    assert np.array_equal(filled(mx.init.Xavier(), (3,), name), np.full(3, value, "float32"))


def test_own_initializer_of_a_variable_is_stronger():
    assert np.array_equal(
        filled(mx.init.Zero(), (2,), "a_weight", {"__init__": '["constant", {"value": 5}]'}), [5, 5]
    )
    # It fills by its rule for weights, whatever the name.
    assert np.array_equal(filled(mx.init.Zero(), (2,), "a_bias", {"__init__": "ones"}), [1, 1])


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="name: got 'thing'"):
        filled(mx.init.Xavier(), (2, 2), "thing")


def test_plain_name_is_deprecated_but_works():
    array = mx.nd.zeros((1, 1, 4, 4))
    with pytest.warns(DeprecationWarning, match="plain name"):
        mx.init.Zero()("upsampling_weight", array)
    assert array.asnumpy().max() == 0.5625


@pytest.mark.parametrize(("factor", "fan"), [("avg", (30 + 60) / 2), ("in", 30), ("out", 60)])
def test_xavier_bound(factor, fan):
    values = filled(mx.init.Xavier(factor_type=factor, magnitude=2), (20, 10, 3))
    bound = np.sqrt(2 / fan)
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > 0.9 * bound
    assert abs(values.mean()) < bound / 5


def test_gaussian_ones_have_their_deviation():
    assert filled(mx.init.Normal(0.3), (100, 100)).std() == pytest.approx(0.3, rel=0.05)
    msra = filled(mx.init.MSRAPrelu("in", 0), (100, 25, 4))
    assert msra.std() == pytest.approx(np.sqrt(2 / 100), rel=0.05)


def test_orthogonal_rows():
    matrix = filled(mx.init.Orthogonal(scale=2), (4, 3, 5)).reshape(4, 15)
    assert np.allclose(matrix @ matrix.T, 4 * np.eye(4), atol=1e-5)
    tall = filled(mx.init.Orthogonal(scale=1, rand_type="normal"), (6, 2))
    assert np.allclose(tall.T @ tall, np.eye(2), atol=1e-5)


def test_lstm_bias():
    assert filled(mx.init.LSTMBias(2.0), (8,)).tolist() == [0, 0, 2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("init", ["uniform", "normal", "xavier", "msraprelu", "orthogonal"])
def test_seed_decides(init):
    def draw(seed):
        mx.random.seed(seed)
        return filled(mx.init.create(init), (5, 4))

    assert np.array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))


def test_float64_and_float16():
    for dtype in ("float64", "float16"):
        assert filled(mx.init.Xavier(), (3, 4), dtype=dtype).dtype == dtype


def test_create():
    assert isinstance(mx.init.create("ZEROS"), mx.init.Zero)
    assert mx.init.create("uniform", scale=2).scale == 2
    given = mx.init.Normal(1)
    assert mx.init.create(given) is given
    assert mx.init.create({"initializer": "normal", "sigma": 3}).sigma == 3
    assert mx.init.create('{"initializer": "normal", "sigma": 3}').sigma == 3
    for bad in ("nosuch", '["normal"]', "[", 5):
        with pytest.raises(AssertionError, match="initializer: got"):
            mx.init.create(bad)


def test_equal_by_arguments():
    assert mx.init.Normal(1) == mx.init.Normal(1)
    assert mx.init.Normal(1) != mx.init.Normal(2)
    assert mx.init.Constant(mx.nd.array([1, 2])) == mx.init.Constant([1.0, 2.0])


def test_registering_a_name_twice_warns():
    @mx.init.register
    @mx.init.alias("halves")
    class Half(mx.init.Initializer):
        def _init_weight(self, name, arr):
            arr[:] = 0.5

    assert filled(mx.init.create("halves"), (1,)).tolist() == [0.5]
    with pytest.warns(UserWarning, match="takes the name 'half'"):
        mx.init.register(type("Half", (mx.init.Initializer,), {}))


def test_mixed():
    init = mx.init.Mixed(["a", ".*weight"], [mx.init.One(), mx.init.Zero()])
    assert filled(init, (1,), "a_weight").tolist() == [1]
    assert filled(init, (1,), "b_weight").tolist() == [0]
    with pytest.raises(ValueError, match="'b_bias' matches no pattern"):
        filled(init, (1,), "b_bias")
    with pytest.raises(AssertionError, match="1 patterns and 0 initializers"):
        mx.init.Mixed(["a"], [])


def test_load(tmp_path):
    path = str(tmp_path / "w.params")
    mx.nd.save(path, {"arg:w_weight": mx.nd.array([1, 2])})
    assert filled(mx.init.Load(path), (2,)).tolist() == [1, 2]
    with pytest.raises(AssertionError, match=r"got shape \(2,\) in the file; need \(3,\)"):
        filled(mx.init.Load(path), (3,))
    assert filled(mx.init.Load(path, mx.init.One()), (3,), "other_weight").tolist() == [1, 1, 1]
    with pytest.raises(AssertionError, match="need default_init"):
        filled(mx.init.Load(path), (3,), "other_weight")


def test_verbose_logs(caplog):
    with caplog.at_level(logging.INFO):
        filled(mx.init.One().set_verbosity(True), (4,))
    assert "Initialized w_weight as weight: 1.0" in caplog.text


def test_refusals():
    with pytest.raises(ValueError, match=r"w_weight: got shape \(3,\); need two axes"):
        filled(mx.init.Xavier(), (3,))
    with pytest.raises(ValueError, match="factor_type: got 'all'"):
        filled(mx.init.Xavier(factor_type="all"), (3, 3))
    with pytest.raises(ValueError, match="random type: got 'x'"):
        filled(mx.init.Xavier(rnd_type="x"), (3, 3))
    with pytest.raises(ValueError, match="need the weight of a convolution"):
        filled(mx.init.Bilinear(), (3, 3))
    with pytest.raises(NotImplementedError, match="Initializer: _init_weight: missing"):
        filled(mx.init.Initializer(), (3, 3))
