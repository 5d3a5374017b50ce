"""A super-resolution network that learns to double random textures, with Deconvolution at its end."""

import mxnet as mx
import numpy as np
from mxnet import autograd as ag
from mxnet import gluon
from mxnet.gluon import nn


class Bilinear2x(gluon.nn.Conv2DTranspose):
    """A layer that begins as bilinear enlargement."""

    def __init__(self, channels, **kwargs):
        super().__init__(
            channels,
            kernel_size=4,
            strides=2,
            padding=1,
            groups=channels,
            in_channels=channels,
            use_bias=False,
            weight_initializer=mx.init.Bilinear(),
            **kwargs,
        )


class SuperResolution(gluon.Block):
    """A few convolutions that refine what the enlargement leaves out."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.pad = nn.ReflectionPad2D(2)
            self.conv1 = nn.Conv2D(8, (5, 5), in_channels=1)
            self.conv2 = nn.Conv2D(8, (3, 3), padding=(1, 1), in_channels=8, activation="relu")
            self.prelu = nn.PReLU(in_channels=8)
            self.up = nn.Conv2DTranspose(1, 4, strides=2, padding=1, in_channels=8)
            self.plain = Bilinear2x(1)
            self.scale = self.params.get("scale", shape=(1,), init=mx.init.Constant(0.5))

    def forward(self, x):
        """Return the picture twice as large."""
        y = mx.nd.LeakyReLU(self.conv1(self.pad(x)), slope=0.1)
        y = self.up(self.prelu(self.conv2(y) - y))
        return self.plain(x) + mx.nd.broadcast_mul(y, self.scale.data().reshape((1, 1, 1, 1)))


def main():
    """Train and return losses, PSNR and what hooks saw."""
    rng = np.random.RandomState(0)
    large = rng.uniform(0, 1, (8, 1, 16, 16)).astype(np.float32)
    for axis in (2, 3):
        large = (large + np.roll(large, 1, axis)) / 2
    small = large.reshape(8, 1, 8, 2, 8, 2).mean(axis=(3, 5))
    net = SuperResolution(prefix="sr_")
    net.initialize(mx.init.Xavier())
    fill = np.random.RandomState(5)
    for name, parameter in net.collect_params().items():
        if name.endswith("weight") and "conv2dtranspose1" not in name and "bilinear" not in name:
            parameter.set_data(mx.nd.array(fill.normal(0, 0.1, parameter.shape)))
    seen = []
    handle = net.conv2.register_forward_hook(lambda block, inputs, output: seen.append(output.shape))
    net.plain.weight.grad_req = "null"
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.01})
    loss_l1, loss_l2 = gluon.loss.L1Loss(), gluon.loss.L2Loss()
    losses = []
    data = mx.io.NDArrayIter(data=small, label=large, batch_size=4, last_batch_handle="discard")
    for _ in range(4):
        data.reset()
        for batch in data:
            parts = gluon.utils.split_and_load(batch.data[0], ctx_list=[mx.cpu()], batch_axis=0)
            labels = gluon.utils.split_and_load(batch.label[0], ctx_list=[mx.cpu()], batch_axis=0)
            with ag.record():
                for x, y in zip(parts, labels):
                    z = net(x)
                    loss = loss_l2(z, y) + 0.1 * loss_l1(z, y)
            loss.backward()
            trainer.step(4)
            losses.append(float(loss.mean().asscalar()))
        trainer.set_learning_rate(trainer.learning_rate * 0.7)
    handle.detach()
    result = net(mx.nd.array(small[:2]))
    psnr = -10 * mx.nd.log10(mx.nd.mean(mx.nd.square(mx.nd.clip(result, 0, 1) - mx.nd.array(large[:2]))))
    return {
        "losses": losses,
        "psnr": float(psnr.asscalar()),
        "seen": [list(shape) for shape in seen[:1]] + [len(seen)],
        "rate": float(trainer.learning_rate),
        "picture": result.asnumpy()[0, 0, ::5, ::5].tolist(),
        "scale": float(net.scale.data().asscalar()),
    }
