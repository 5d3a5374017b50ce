"""Segment shapes in noise with a small FCN: symbol, Module, checkpoints, fine-tuning, prediction."""

import logging
import os
import tempfile

import mxnet as mx
import numpy as np

SIZE, CLASSES, BATCH = 24, 3, 4


def pictures(count, seed):
    """Return pictures of a rectangle and a disc, and the class of every pixel."""
    rng = np.random.RandomState(seed)
    data = rng.normal(0, 0.1, (count, 3, SIZE, SIZE)).astype(np.float32)
    label = np.zeros((count, SIZE, SIZE), np.float32)
    y, x = np.mgrid[:SIZE, :SIZE]
    for number in range(count):
        top, left = rng.randint(0, SIZE - 8, 2)
        label[number, top : top + 8, left : left + 8] = 1
        cy, cx = rng.randint(5, SIZE - 5, 2)
        label[number][(y - cy) ** 2 + (x - cx) ** 2 < 20] = 2
        data[number] += np.eye(3, dtype=np.float32)[:, label[number].astype(int)]
    return data, label


def network():
    """Return an encoder, a decoder by Deconvolution cropped to a skip connection, and a softmax over pixels."""
    data = mx.symbol.Variable(name="data")
    body = mx.symbol.Convolution(data=data, kernel=(3, 3), pad=(1, 1), num_filter=8, name="conv1")
    body = mx.symbol.BatchNorm(data=body, fix_gamma=False, name="bn1")
    skip = mx.symbol.Activation(data=body, act_type="relu", name="relu1")
    body = mx.symbol.Pooling(data=skip, pool_type="max", kernel=(2, 2), stride=(2, 2), name="pool1")
    body = mx.symbol.Convolution(data=body, kernel=(3, 3), pad=(1, 1), num_filter=16, name="conv2")
    body = mx.symbol.LeakyReLU(data=body, act_type="leaky", slope=0.1, name="relu2")
    body = mx.symbol.Deconvolution(
        data=body, kernel=(4, 4), stride=(2, 2), adj=(1, 1), num_filter=8, no_bias=True, name="bigscore"
    )
    body = mx.symbol.Crop(*[body, skip], offset=(1, 1), name="crop")
    body = mx.symbol.ElementWiseSum(*[body, skip], name="fuse")
    body = mx.symbol.Dropout(data=body, p=0.0, name="drop")
    body = mx.symbol.Convolution(data=body, kernel=(1, 1), num_filter=CLASSES, name="score")
    return mx.symbol.SoftmaxOutput(data=body, multi_output=True, use_ignore=True, ignore_label=255, name="softmax")


def parameters(symbol, **shapes):
    """Draw parameters that do not depend on the library."""
    rng = np.random.RandomState(7)
    arg_shapes, _, aux_shapes = symbol.infer_shape(**shapes)
    args, auxs = {}, {}
    for name, shape in zip(symbol.list_arguments(), arg_shapes):
        if name not in shapes and name != "softmax_label":
            bound = np.sqrt(3.0 / max(np.prod(shape[1:]), 1))
            args[name] = mx.nd.array(rng.uniform(-bound, bound, shape) + name.endswith("gamma"))
    for name, shape in zip(symbol.list_auxiliary_states(), aux_shapes):
        auxs[name] = mx.nd.ones(shape) if name.endswith("var") else mx.nd.zeros(shape)
    return args, auxs


def main():
    """Train, save, load, go on with fixed layers and Adam, and return the figures of each step."""
    logging.getLogger().setLevel(logging.ERROR)
    data, label = pictures(16, 0)
    train = mx.io.NDArrayIter(data, label, batch_size=BATCH, label_name="softmax_label")
    test = mx.io.NDArrayIter(*pictures(6, 1), batch_size=BATCH)
    symbol = network()
    args, auxs = parameters(symbol, data=(BATCH, 3, SIZE, SIZE))
    prefix = os.path.join(tempfile.mkdtemp(), "fcn")

    mod = mx.mod.Module(symbol=symbol, context=mx.cpu(), data_names=["data"], label_names=["softmax_label"])
    losses = []

    def watch(param):
        losses.append(param.eval_metric.get()[1])

    mod.fit(
        train,
        eval_data=test,
        eval_metric="acc",
        optimizer="sgd",
        optimizer_params={"learning_rate": 0.02, "momentum": 0.9, "wd": 0.0005},
        arg_params=args,
        aux_params=auxs,
        batch_end_callback=[mx.callback.Speedometer(BATCH, 2), watch],
        epoch_end_callback=mx.callback.do_checkpoint(prefix),
        num_epoch=3,
    )
    accuracy = [float(dict(mod.score(test, mx.metric.Accuracy()))["accuracy"])]

    loaded, args, auxs = mx.model.load_checkpoint(prefix, 3)
    tuned = mx.mod.Module(loaded, fixed_param_names=["conv1_weight", "conv1_bias"])
    tuned.bind(data_shapes=train.provide_data, label_shapes=train.provide_label, inputs_need_grad=True)
    tuned.init_params(mx.init.Xavier(), arg_params=args, aux_params=auxs)
    tuned.init_optimizer(optimizer="adam", optimizer_params=(("learning_rate", 0.003),))
    metric = mx.metric.create("ce")
    train.reset()
    for batch in train:
        tuned.forward(batch, is_train=True)
        tuned.backward()
        tuned.update()
        metric.update(
            [batch.label[0].reshape((-1,))], [tuned.get_outputs()[0].transpose((0, 2, 3, 1)).reshape((-1, 3))]
        )
    gradient = tuned.get_input_grads()[0].asnumpy()
    accuracy.append(float(tuned.score(test, "acc")[0][1]))

    after, states = tuned.get_params()
    unchanged = bool((after["conv1_weight"].asnumpy() == args["conv1_weight"].asnumpy()).all())
    predicting = mx.mod.Module(loaded, label_names=None)
    predicting.bind(for_training=False, data_shapes=[("data", (1, 3, SIZE + 8, SIZE))])
    predicting.set_params(after, states, allow_missing=True)
    wide = np.concatenate([data[:1], data[1:2, :, :8]], axis=2)
    predicting.forward(mx.io.DataBatch([mx.nd.array(wide)]))
    output = predicting.get_outputs()[0].asnumpy()
    whole = tuned.predict(test).asnumpy()
    return {
        "train": losses,
        "accuracy": accuracy,
        "cross_entropy": float(metric.get()[1]),
        "gradient": float(np.abs(gradient).sum()),
        "moving_mean": states["bn1_moving_mean"].asnumpy().tolist(),
        "weights": float(after["bigscore_weight"].asnumpy().std()),
        "unchanged": unchanged,
        "output": output[0, :, ::8, ::8].tolist(),
        "whole": [list(whole.shape), float(whole.max(axis=1).mean())],
    }
