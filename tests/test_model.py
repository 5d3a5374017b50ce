"""Checkpoints: files written and read, and names that do not belong there."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import tconv as mx


def network():
    return mx.sym.Deconvolution(mx.sym.Variable("data"), kernel=(2,), num_filter=1, name="up")


def test_round_trip(tmp_path, caplog):
    prefix = str(tmp_path / "model")
    args, states = {"up_weight": mx.nd.array([[[1, 2]]])}, {"mean": mx.nd.array([5], dtype="float64")}
    with caplog.at_level(logging.INFO):
        mx.model.save_checkpoint(prefix, 7, network(), args, states)
    assert "model-0007.params" in caplog.text
    symbol, loaded_args, loaded_states = mx.model.load_checkpoint(prefix, 7)
    assert symbol.tojson() == network().tojson()
    assert loaded_args["up_weight"].asnumpy().tolist() == [[[1, 2]]]
    assert loaded_states["mean"].dtype == np.float64
    (out,) = symbol.eval(data=mx.nd.ones((1, 1, 2)), **loaded_args)
    assert out.asnumpy().tolist() == [[[1, 3, 2]]]


def test_parameters_alone(tmp_path):
    prefix = str(tmp_path / "model")
    mx.model.save_checkpoint(prefix, 12345, None, {"w": mx.nd.ones((1,))}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-12345.params"]
    args, states = mx.model.load_params(prefix, 12345)
    assert (list(args), states) == (["w"], {})


def test_empty_file_is_told(tmp_path, caplog):
    prefix = str(tmp_path / "model")
    mx.model.save_checkpoint(prefix, 0, None, {}, {})
    assert mx.model.load_params(prefix, 0) == ({}, {})
    assert "is empty" in caplog.text


def test_foreign_files_are_refused(tmp_path):
    path = str(tmp_path / "model-0000.params")
    prefix = str(tmp_path / "model")
    mx.nd.save(path, {"w": mx.nd.ones((1,))})
    with pytest.raises(mx.MXNetError, match="got the name 'w'; need arg: or aux: before it"):
        mx.model.load_params(prefix, 0)
    mx.nd.save(path, [mx.nd.ones((1,))])
    with pytest.raises(mx.MXNetError, match="got arrays without names"):
        mx.model.load_params(prefix, 0)
    mx.nd.save(path, {"arg:w": mx.nd.ones((1,)), "other:v": mx.nd.ones((1,))})
    assert [list(part) for part in mx.model.load_params(prefix, 0)] == [["w"], []]


def test_batch_end_param():
    param = mx.model.BatchEndParam(epoch=1, nbatch=2, eval_metric=None, locals={})
    assert param[:2] == (1, 2)
