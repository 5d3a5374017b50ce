"""A DCGAN on squares of noise: generator and discriminator trained against each other, hybridized."""

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

LATENT, BATCH, NGF, NDF = 8, 4, 8, 8


def generator():
    """Return noise to picture."""
    net = nn.HybridSequential(prefix="generator_")
    with net.name_scope():
        net.add(nn.Conv2DTranspose(NGF * 2, 4, 1, 0, use_bias=False))
        net.add(nn.BatchNorm())
        net.add(nn.Activation("relu"))
        net.add(nn.Conv2DTranspose(NGF, 4, 2, 1, use_bias=False))
        net.add(nn.BatchNorm())
        net.add(nn.Activation("relu"))
        net.add(nn.Conv2DTranspose(1, 4, 2, 1, use_bias=False))
        net.add(nn.Activation("tanh"))
    return net


def discriminator():
    """Return picture to two scores."""
    net = nn.HybridSequential(prefix="discriminator_")
    with net.name_scope():
        net.add(nn.Conv2D(NDF, 4, 2, 1, use_bias=False))
        net.add(nn.LeakyReLU(0.2))
        net.add(nn.Conv2D(NDF * 2, 4, 2, 1, use_bias=False))
        net.add(nn.BatchNorm())
        net.add(nn.LeakyReLU(0.2))
        net.add(nn.Conv2D(2, 4, 1, 0, use_bias=False))
    return net


def fill(net, seed):
    """Draw parameters that do not depend on the library."""
    rng = np.random.RandomState(seed)
    for name, parameter in sorted(net.collect_params().items()):
        if name.endswith("weight"):
            parameter.set_data(nd.array(rng.normal(0, 0.2, parameter.shape)))


def main():
    """Train for some batches and return the losses and a picture."""
    ctx = mx.cpu()
    rng = np.random.RandomState(0)
    net_g, net_d = generator(), discriminator()
    net_g.initialize(mx.init.Normal(0.02), ctx=ctx)
    net_d.initialize(mx.init.Normal(0.02), ctx=ctx)
    net_d(net_g(nd.ones((BATCH, LATENT, 1, 1), ctx=ctx)))
    fill(net_g, 1)
    fill(net_d, 2)
    net_g.hybridize()
    net_d.hybridize()
    trainer_g = gluon.Trainer(net_g.collect_params(), "adam", {"learning_rate": 0.0005, "beta1": 0.5})
    trainer_d = gluon.Trainer(net_d.collect_params(), "adam", {"learning_rate": 0.0005, "beta1": 0.5})
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    real_label = nd.ones((BATCH,), ctx=ctx)
    fake_label = nd.zeros((BATCH,), ctx=ctx)
    metric = mx.metric.CustomMetric(lambda label, pred: float((pred.argmax(axis=1) == label).mean()))
    pictures = np.zeros((16, 1, 16, 16), np.float32) - 1
    for number in range(16):
        top, left = rng.randint(2, 8, 2)
        pictures[number, 0, top : top + 6, left : left + 6] = 1
    batches = gluon.data.DataLoader(
        gluon.data.ArrayDataset(pictures), batch_size=BATCH, shuffle=False, last_batch="keep"
    )
    losses = []
    for _ in range(2):
        for data in batches:
            data = data.as_in_context(ctx)
            noise = nd.array(rng.normal(0, 1, (BATCH, LATENT, 1, 1)), ctx=ctx)
            with autograd.record():
                output = net_d(data).reshape((BATCH, 2))
                err_real = loss(output, real_label)
                fake = net_g(noise)
                fooled = net_d(fake.detach()).reshape((BATCH, 2))
                err_fake = loss(fooled, fake_label)
                err_d = err_real + err_fake
                err_d.backward()
            trainer_d.step(BATCH)
            metric.update([real_label], [output])
            metric.update([fake_label], [fooled])
            with autograd.record():
                output = net_d(net_g(noise)).reshape((-1, 2))
                err_g = loss(output, real_label)
                err_g.backward()
            trainer_g.step(BATCH)
            losses.append([float(nd.mean(err_d).asscalar()), float(nd.mean(err_g).asscalar())])
    picture = net_g(nd.array(np.linspace(-1, 1, LATENT).reshape((1, LATENT, 1, 1)), ctx=ctx))
    return {
        "losses": losses,
        "metric": float(metric.get()[1]),
        "picture": picture.asnumpy()[0, 0, ::5, ::5].tolist(),
    }
