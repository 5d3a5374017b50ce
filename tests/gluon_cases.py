"""Gluon layers and networks, and what is seen of them; run by MXNet to record and by the tests to compare."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

CASES = {
    "nn.Dense(3)": (2, 4),
    "nn.Dense(3, activation='relu', use_bias=False)": (2, 2, 2),
    "nn.Dense(3, flatten=False, in_units=4, bias_initializer='ones')": (2, 3, 4),
    "nn.Activation('relu')": (2, 3),
    "nn.Activation('sigmoid')": (2, 3),
    "nn.Activation('tanh')": (2, 3),
    "nn.Activation('softrelu')": (2, 3),
    "nn.Activation('softsign')": (2, 3),
    "nn.LeakyReLU(0.1)": (2, 3),
    "nn.PReLU()": (2, 3, 2),
    "nn.PReLU(in_channels=3)": (2, 3, 2),
    "nn.ELU(0.5)": (2, 3),
    "nn.SELU()": (2, 3),
    "nn.GELU()": (2, 3),
    "nn.Swish(2.0)": (2, 3),
    "nn.Flatten()": (2, 3, 2),
    "nn.Dropout(0.5)": (2, 3),
    "nn.Dropout(0)": (2, 3),
    "nn.HybridLambda('tanh')": (2, 3),
    "nn.Embedding(4, 3)": (2, 2),
    "nn.Conv1D(3, 3, strides=2, padding=1)": (2, 2, 7),
    "nn.Conv1D(2, 3, dilation=2, activation='tanh')": (1, 2, 7),
    "nn.Conv2D(4, (3, 2), padding=(1, 0), groups=2, in_channels=2)": (1, 2, 4, 5),
    "nn.Conv2D(2, 3, use_bias=False)": (1, 2, 4, 5),
    "nn.Conv3D(2, 2, strides=(1, 2, 1))": (1, 2, 3, 4, 3),
    "nn.Conv1DTranspose(3, 4, strides=2, padding=1, output_padding=1)": (2, 2, 4),
    "nn.Conv1DTranspose(4, 3, dilation=2, groups=2, in_channels=2)": (1, 2, 4),
    "nn.Conv2DTranspose(3, 3)": (1, 2, 3, 2),
    "nn.Conv2DTranspose(2, (4, 3), strides=(2, 3), padding=1, activation='relu')": (2, 3, 2, 3),
    "nn.Conv2DTranspose(3, 4, 2, 1, (1, 0), in_channels=3, groups=3, use_bias=False)": (1, 3, 3, 3),
    "nn.Conv3DTranspose(2, (1, 2, 2), strides=(1, 2, 2))": (1, 2, 2, 2, 3),
    "nn.MaxPool1D(3, 2, 1)": (1, 2, 7),
    "nn.MaxPool2D()": (1, 2, 5, 4),
    "nn.MaxPool2D(3, 2, ceil_mode=True)": (1, 2, 6, 5),
    "nn.MaxPool3D(2, 1)": (1, 1, 3, 3, 2),
    "nn.AvgPool1D(2)": (1, 2, 6),
    "nn.AvgPool2D(3, 2, 1)": (1, 2, 5, 5),
    "nn.AvgPool2D((3, 2), 1, (1, 1), count_include_pad=False)": (1, 2, 4, 4),
    "nn.AvgPool3D(2, 1)": (1, 1, 3, 3, 3),
    "nn.GlobalMaxPool1D()": (2, 3, 4),
    "nn.GlobalMaxPool2D()": (2, 3, 2, 3),
    "nn.GlobalAvgPool2D()": (2, 3, 2, 3),
    "nn.GlobalAvgPool3D()": (1, 2, 2, 2, 2),
    "nn.ReflectionPad2D(1)": (1, 2, 3, 4),
    "nn.BatchNorm()": (3, 2, 2, 2),
    "nn.BatchNorm(axis=-1, momentum=0.5, epsilon=0.1)": (3, 2, 2),
    "nn.BatchNorm(center=False, scale=False, in_channels=2)": (3, 2, 2),
    "nn.BatchNorm(use_global_stats=True)": (3, 2, 2),
    "nn.InstanceNorm(scale=True)": (2, 3, 2, 2),
    "nn.InstanceNorm(axis=2)": (2, 3, 2, 2),
    "nn.LayerNorm()": (2, 3, 4),
    "nn.LayerNorm(axis=1, scale=False, in_channels=3)": (2, 3, 2, 2),
    "nn.GroupNorm(2, center=False)": (2, 4, 2, 2),
    "nn.GroupNorm(num_groups=2, epsilon=0.1)": (2, 4, 2, 2),
    "contrib.nn.PixelShuffle1D(2)": (1, 4, 3),
    "contrib.nn.PixelShuffle2D((2, 3))": (1, 6, 2, 2),
    "contrib.nn.PixelShuffle3D((2, 1, 3))": (1, 12, 2, 1, 2),
    "branches()": (1, 2, 3, 3),
    "autoencoder()": (2, 1, 4, 4),
}
"""Shape of the input, by the expression that makes the block."""


def networks(mx):
    """Return the names the expressions use."""
    nn = mx.gluon.nn

    def branches():
        net = mx.gluon.contrib.nn.HybridConcurrent(axis=1)
        with net.name_scope():
            net.add(nn.Conv2D(2, 1), mx.gluon.contrib.nn.Identity(), nn.HybridLambda(lambda F, x: F.relu(x) + 1))
        return net

    class AutoEncoder(mx.gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.scale = self.params.get("scale", shape=(1,), init="ones")
                self.down = nn.HybridSequential()
                with self.down.name_scope():
                    self.down.add(nn.Conv2D(3, 3, strides=2, padding=1), nn.BatchNorm(), nn.LeakyReLU(0.1))
                self.up = nn.HybridSequential(prefix="up_")
                with self.up.name_scope():
                    self.up.add(nn.Conv2DTranspose(2, 4, 2, 1, use_bias=False), nn.BatchNorm(scale=False))
                    self.up.add(nn.Activation("relu"))
                self.last = nn.Conv2D(1, 3, padding=1, activation="sigmoid")

        def hybrid_forward(self, F, x, scale):
            y = self.up(self.down(x))
            return self.last(F.concat(F.broadcast_mul(y, scale), x, dim=1))

    return {"nn": nn, "contrib": mx.gluon.contrib, "branches": branches, "autoencoder": AutoEncoder}


def waves(shape, seed=0):
    """Return an array anybody can make again."""
    return np.sin(np.arange(1, 1 + np.prod(shape, dtype=int)) ** 1.5 + seed).reshape(shape).astype("float32")


def observe(mx, expression, active):
    """Return what a fresh process would see of a block: names, shapes, values, gradients, files."""
    with mx.name.NameManager():
        net = eval(expression, networks(mx))
    seen = {"repr": repr(net), "prefix": net.prefix}
    seen["before"] = [[name, list(param.shape), param.grad_req] for name, param in net.collect_params().items()]
    net.initialize()
    net.hybridize(active)
    data = waves(CASES[expression])
    if "Embedding" in expression:
        data = np.floor(2 + 2 * data)
    x = mx.nd.array(data)
    net(x)
    for seed, param in enumerate(net.collect_params().values()):
        param.set_data(mx.nd.array(0.5 + 0.4 * waves(param.shape, seed)))
    seen["after"] = [list(param.shape) for param in net.collect_params().values()]
    seen["predicted"] = net(x).asnumpy().tolist()
    if "Embedding" not in expression:
        x.attach_grad()
    with mx.autograd.record(train_mode="Dropout" not in expression):
        y = net(x)
    y.backward(mx.nd.array(waves(y.shape, 1)))
    seen["output"] = y.asnumpy().tolist()
    seen["data_gradient"] = None if x.grad is None else x.grad.asnumpy().tolist()
    params = net.collect_params().items()
    seen["gradients"] = {k: param.grad().asnumpy().tolist() for k, param in params if param.grad_req != "null"}
    # A fixed gamma counts as 1 and may hold anything; MXNet writes 1 into it.
    states = {k: param for k, param in params if param.grad_req == "null" and not k.endswith("gamma")}
    seen["states"] = {k: param.data().asnumpy().tolist() for k, param in states.items()}
    if active:
        with tempfile.TemporaryDirectory() as folder:
            net.export(f"{folder}/net", epoch=3)
            seen["symbol"] = json.loads(Path(f"{folder}/net-symbol.json").read_text())
            # It counts an inner output of max pooling that only some builds of MXNet have.
            del seen["symbol"]["node_row_ptr"]
            seen["exported"] = sorted(mx.nd.load(f"{folder}/net-0003.params"))
            net.save_parameters(f"{folder}/net.params")
            seen["saved"] = sorted(mx.nd.load(f"{folder}/net.params"))
    return seen
