"""A U-Net of nested HybridBlocks that segments a disc; trained, exported, and imported as a SymbolBlock."""

import os
import tempfile

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn


class ConvBlock(nn.HybridBlock):
    """Two convolutions with normalization."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.body = nn.HybridSequential()
            for _ in range(2):
                self.body.add(nn.Conv2D(channels, kernel_size=3, padding=1))
                self.body.add(nn.BatchNorm(axis=1))
                self.body.add(nn.Activation("relu"))

    def hybrid_forward(self, F, x):
        """Apply them."""
        return self.body(x)


class UNet(nn.HybridBlock):
    """One way down, one way up by Conv2DTranspose, connected on each level by crop and concat."""

    def __init__(self, channels=(4, 8), classes=2, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.down0 = ConvBlock(channels[0])
            self.down1 = ConvBlock(channels[1])
            self.bottom = ConvBlock(channels[1])
            self.up1 = nn.Conv2DTranspose(channels[1], kernel_size=2, strides=2)
            self.dec1 = ConvBlock(channels[1])
            self.up0 = nn.Conv2DTranspose(channels[0], kernel_size=4, strides=2, padding=1, output_padding=1)
            self.bend = nn.LeakyReLU(0.1)
            self.dec0 = ConvBlock(channels[0])
            self.head = nn.Conv2D(classes, kernel_size=1)

    def hybrid_forward(self, F, x):
        """Return scores of every pixel."""
        a = self.down0(x)
        b = self.down1(F.Pooling(a, kernel=(2, 2), stride=(2, 2), pool_type="max"))
        c = self.bottom(F.Pooling(b, kernel=(2, 2), stride=(2, 2), pool_type="avg"))
        b = self.dec1(F.concat(self.up1(c), b, dim=1))
        up = self.bend(F.slice_like(self.up0(b), a, axes=(2, 3)))
        return self.head(self.dec0(F.Concat(F.Crop(up, a), a, dim=1)))


def fill(net, seed):
    """Draw parameters that do not depend on the library."""
    rng = np.random.RandomState(seed)
    for name, parameter in net.collect_params().items():
        if name.endswith("weight"):
            bound = np.sqrt(3.0 / np.prod(parameter.shape[1:]))
            parameter.set_data(mx.nd.array(rng.uniform(-bound, bound, parameter.shape)))


def main():
    """Train, export, import, and return losses and scores."""
    rng = np.random.RandomState(0)
    y, x = np.mgrid[:16, :16]
    label = np.stack([((y - 5 - n % 6) ** 2 + (x - 8) ** 2 < 16) for n in range(8)]).astype(np.float32)
    data = (label[:, None] + rng.normal(0, 0.3, (8, 1, 16, 16))).astype(np.float32)

    net = UNet(prefix="unet_")
    net.initialize(mx.init.Xavier(magnitude=2), ctx=[mx.cpu()])
    net(mx.nd.zeros((1, 1, 16, 16)))
    fill(net, 3)
    eager = net(mx.nd.array(data[:1])).asnumpy()
    net.hybridize(static_alloc=True, static_shape=True)
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss(axis=1)
    trainer = gluon.Trainer(
        net.collect_params(),
        "sgd",
        {
            "learning_rate": 0.02,
            "momentum": 0.9,
            "wd": 1e-4,
            "lr_scheduler": mx.lr_scheduler.FactorScheduler(4, 0.5),
        },
    )
    loader = gluon.data.DataLoader(gluon.data.ArrayDataset(data, label), batch_size=4)
    losses = []
    for _ in range(3):
        total = 0.0
        for batch, target in loader:
            with autograd.record():
                loss = loss_function(net(batch), target)
            loss.backward()
            trainer.step(batch.shape[0])
            total += loss.mean().asscalar()
        losses.append(float(total))
    after = net(mx.nd.array(data[:1])).asnumpy()
    prefix = os.path.join(tempfile.mkdtemp(), "unet")
    net.export(prefix, epoch=3)
    net.save_parameters(prefix + ".params")
    block = gluon.SymbolBlock.imports(prefix + "-symbol.json", ["data"], prefix + "-0003.params", ctx=mx.cpu())
    imported = block(mx.nd.array(data[:1])).asnumpy()
    again = UNet(prefix="other_")
    again.load_parameters(prefix + ".params", ctx=mx.cpu())
    return {
        "eager": eager[0, :, ::5, ::5].tolist(),
        "losses": losses,
        "after": after[0, :, ::5, ::5].tolist(),
        "imported": float(np.abs(imported - after).max() < 1e-5),
        "loaded": float(np.abs(again(mx.nd.array(data[:1])).asnumpy() - after).max() < 1e-5),
        "means": net.down0.body[1].running_mean.data().asnumpy().tolist(),
    }
