"""Trainer and losses: values recorded from MXNet 1.9.1, and whole training loops."""

from __future__ import annotations

import numpy as np
import pytest

import tconv as mx
from tconv.gluon import loss, nn


@pytest.fixture(autouse=True)
def _fresh_names():
    with mx.name.NameManager():
        mx.random.seed(7)
        yield


def values():
    state = np.random.RandomState(0)
    return mx.nd.array(state.randn(2, 3)), mx.nd.array(state.randn(2, 3))


SAMPLES = mx.nd.array([[1], [3]])
PARTS = mx.nd.array([[0, 1, 1], [1, 0, 0.5]])
CLASSES = mx.nd.array([0, 2])


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (loss.L2Loss(), [0.3562227189540863, 2.038820505142212]),
        (loss.L2Loss(weight=3), [1.068668007850647, 6.116461277008057]),
        (loss.L1Loss(), [0.8158116936683655, 1.9951201677322388]),
        (loss.L1Loss(batch_axis=1), [1.322129249572754, 1.137514352798462, 1.7567541599273682]),
        (loss.HuberLoss(), [0.35510316491127014, 1.4951201677322388]),
        (loss.HuberLoss(rho=0.5), [0.5658116936683655, 1.7451201677322388]),
        (loss.SigmoidBCELoss(), [0.8728885054588318, 1.634911060333252]),
    ],
    ids=repr,
)
def test_losses_are_mxnets(made, expected, active):
    pred, label = values()
    made.hybridize(active)
    assert np.allclose(made(pred, label).asnumpy(), expected, rtol=1e-5)
    if made._batch_axis == 0:
        made.hybridize(active)
        weighted = made(pred, label, SAMPLES).asnumpy()
        assert np.allclose(weighted, np.multiply(expected, [1, 3]), rtol=1e-5)


def test_cross_entropies_are_mxnets():
    pred, _ = values()
    weights = mx.nd.array([[1, 2, 3]])
    after = loss.SigmoidBCELoss(from_sigmoid=True)
    cases = [
        (loss.SigmoidBCELoss()(pred, PARTS, None, weights), [1.3017288446426392, 1.4056895971298218]),
        (after(pred.sigmoid(), PARTS), [0.9180617332458496, 0.9734556674957275]),
        (after(pred.sigmoid(), PARTS, None, weights), [1.3017287254333496, 1.4056895971298218]),
        (loss.SoftmaxCELoss()(pred, CLASSES), [0.5374482274055481, 3.7654025554656982]),
        (loss.SoftmaxCELoss(sparse_label=False)(pred, PARTS), [3.2241058349609375, 2.4299325942993164]),
        (loss.SoftmaxCELoss(from_logits=True)(pred, CLASSES), [-1.764052391052246, 0.9772778749465942]),
    ]
    for got, expected in cases:
        assert np.allclose(got.asnumpy(), expected, rtol=1e-5)


def test_cross_entropy_of_pixels():
    state = np.random.RandomState(0)
    state.randn(12)
    pred = mx.nd.array(state.randn(2, 3, 2, 2))
    label = mx.nd.array([[[0, 1], [2, 0]], [[1, 1], [0, 2]]])
    got = loss.SoftmaxCELoss(axis=1)(pred, label).asnumpy()
    assert np.allclose(got, [0.9990407228469849, 0.8372049927711487], rtol=1e-5)


def test_large_logits_do_not_overflow():
    pred, label = mx.nd.array([[1000.0, -1000.0]]), mx.nd.array([[1.0, 0.0]])
    assert loss.SigmoidBCELoss()(pred, label).asscalar() == 0
    assert loss.SoftmaxCELoss()(pred, mx.nd.array([1])).asscalar() == 2000


def layer(value="ones", **kwargs):
    made = nn.Conv1DTranspose(1, 2, in_channels=1, use_bias=False, **kwargs)
    made.initialize(value)
    return made


def backward(net):
    with mx.autograd.record():
        y = net(mx.nd.ones((1, 1, 3)))
    y.backward()


def test_step_divides_by_the_batch():
    net = layer()
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.5})
    backward(net)
    trainer.step(3)
    assert net.weight.data().asnumpy().tolist() == [[[0.5, 0.5]]]


def test_factors_of_parameters_count():
    net = layer()
    net.weight.lr_mult = 2
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.5, "wd": 1})
    net.weight.wd_mult = 0
    backward(net)
    trainer.step(3)
    assert net.weight.data().asnumpy().tolist() == [[[0, 0]]]


def test_parameters_without_a_new_gradient():
    first, second = layer(), layer()
    trainer = mx.gluon.Trainer([first.weight, second.weight], "sgd", {"learning_rate": 1})
    backward(first)
    with pytest.raises(UserWarning, match="conv1_weight: it has no new gradient"):
        trainer.step(1)
    trainer.step(1, ignore_stale_grad=True)
    assert first.weight.data().asnumpy().tolist() == [[[-2, -2]]]
    assert second.weight.data().asnumpy().tolist() == [[[1, 1]]]
    with pytest.raises(UserWarning, match="conv0_weight"):
        trainer.step(1)


def test_frozen_parameters_stay():
    net = layer()
    net.weight.grad_req = "null"
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd")
    trainer.step(1)
    assert net.weight.data().asnumpy().tolist() == [[[1, 1]]]


def test_two_devices_stay_together():
    net = nn.Conv1DTranspose(1, 2, in_channels=1, use_bias=False)
    devices = [mx.cpu(0), mx.cpu(1)]
    net.initialize("ones", ctx=devices)
    trainer = mx.gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.5})
    parts = mx.gluon.utils.split_and_load(mx.nd.ones((2, 1, 3)), devices)
    for _ in range(3):
        with mx.autograd.record():
            outputs = [net(part) for part in parts]
        for y in outputs:
            y.backward()
        trainer.step(2)
    one, other = (net.weight.data(device).asnumpy() for device in devices)
    assert np.array_equal(one, other)
    assert np.allclose(one, -0.5, atol=1e-5)


def test_learning_rate():
    net = layer()
    trainer = mx.gluon.Trainer(net.collect_params(), mx.optimizer.SGD(learning_rate=0.25))
    assert trainer.learning_rate == 0.25
    trainer.set_learning_rate(0.5)
    assert trainer.optimizer.lr == 0.5


def test_states_of_a_trainer(tmp_path):
    path = str(tmp_path / "trainer.states")

    def steps(net, trainer, count):
        for _ in range(count):
            backward(net)
            trainer.step(1)

    def made(net):
        return mx.gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.1})

    whole = layer()
    steps(whole, made(whole), 5)
    net = layer()
    trainer = made(net)
    steps(net, trainer, 2)
    trainer.save_states(path)
    again = made(net)
    again.load_states(path)
    steps(net, again, 3)
    assert np.array_equal(net.weight.data().asnumpy(), whole.weight.data().asnumpy())
    with pytest.raises(mx.MXNetError):
        again.load_states(str(tmp_path / "missing"))


def test_refusals():
    net = layer()
    for bad in (3, [3], {"w": 3}):
        with pytest.raises(ValueError, match="Trainer: params: need Parameters"):
            mx.gluon.Trainer(bad, "sgd")
    with pytest.raises(AssertionError, match="need none where optimizer is an instance"):
        mx.gluon.Trainer(net.collect_params(), mx.optimizer.SGD(), {"learning_rate": 1})
    with pytest.raises(RuntimeError, match="it has not been initialized"):
        mx.gluon.Trainer([mx.gluon.Parameter("w", shape=(1,))], "sgd")
    other = nn.Dense(1, in_units=1)
    other.initialize(ctx=mx.cpu(1))
    with pytest.raises(AssertionError, match="need the same devices"):
        mx.gluon.Trainer([net.weight, other.weight], "sgd")


def waves(shape, scale=1.0):
    return mx.nd.array((scale * np.sin(np.arange(1, 1 + np.prod(shape)) ** 1.5)).reshape(shape).astype("float32"))


def adversaries(active, steps=6):
    """Return the losses of a small DCGAN trained as scripts do it, and what its batch norm has seen."""
    generator = nn.HybridSequential(prefix="g_")
    with generator.name_scope():
        generator.add(nn.Conv2DTranspose(8, 4, 1, 0, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
        generator.add(nn.Conv2DTranspose(1, 4, 2, 1, use_bias=False), nn.Activation("tanh"))
    judge = nn.HybridSequential(prefix="d_")
    with judge.name_scope():
        judge.add(nn.Conv2D(8, 4, 2, 1, use_bias=False), nn.BatchNorm(), nn.LeakyReLU(0.2))
        judge.add(nn.Conv2D(1, 4, 1, 0, use_bias=False), nn.Flatten())
    latent, real = waves((4, 5, 1, 1)), waves((4, 1, 8, 8))
    for net in (generator, judge):
        net.initialize()
        net.hybridize(active)
    judge(generator(latent))
    for net in (generator, judge):
        for param in net.collect_params(".*weight").values():
            param.set_data(waves(param.shape, 0.1))
    options = {"learning_rate": 0.01, "beta1": 0.5}
    trainers = [mx.gluon.Trainer(net.collect_params(), "adam", options) for net in (generator, judge)]
    criterion = loss.SigmoidBinaryCrossEntropyLoss()
    one, zero = mx.nd.ones((4, 1)), mx.nd.zeros((4, 1))
    losses = []
    for _ in range(steps):
        with mx.autograd.record():
            fake = generator(latent)
            error = criterion(judge(real), one) + criterion(judge(fake.detach()), zero)
        error.backward()
        trainers[1].step(4)
        losses.append(error.mean().asscalar())
        with mx.autograd.record():
            error = criterion(judge(generator(latent)), one)
        error.backward()
        trainers[0].step(4)
        losses.append(error.mean().asscalar())
    running = generator.collect_params(".*running_var")["g_batchnorm0_running_var"].data().asnumpy()
    return [float(value) for value in losses], running


# Recorded from MXNet 1.9.1: losses of discriminator and generator in turn.
ADVERSARIAL_LOSSES = [
    1.880163550376892,
    0.7314843535423279,
    1.9108855724334717,
    0.5608261227607727,
    1.887120246887207,
    0.5320713520050049,
    1.914219617843628,
    0.5212383270263672,
    1.9484783411026,
    0.5178806781768799,
    1.8847929239273071,
    0.5723856091499329,
]


@pytest.mark.parametrize("active", [False, True])
def test_training_adversaries_goes_as_in_mxnet(active):
    losses, running = adversaries(active)
    assert np.allclose(losses, ADVERSARIAL_LOSSES, rtol=2e-5)
    assert np.allclose(running[:2], [0.5416990518569946, 0.5393294095993042], rtol=1e-5)
