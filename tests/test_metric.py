"""Metrics: their figures by hand, their names, what `create` makes of what."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tconv as mx

LABEL, PRED = mx.nd.array([1.0, 2.0, 0.0]), mx.nd.array([1.0, 4.0, 1.0])
SCORES = mx.nd.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25], [0.8, 0.1, 0.1]])


@pytest.mark.parametrize(
    ("name", "label", "pred", "expected"),
    [
        ("mae", LABEL, PRED, ("mae", 1)),
        ("mse", LABEL, PRED, ("mse", 5 / 3)),
        ("rmse", LABEL, PRED, ("rmse", math.sqrt(5 / 3))),
        ("acc", LABEL, SCORES, ("accuracy", 2 / 3)),
        ("accuracy", LABEL, PRED, ("accuracy", 1 / 3)),
        ("ce", LABEL, SCORES, ("cross-entropy", -math.log(0.7 * 0.25 * 0.8) / 3)),
        ("loss", LABEL, PRED, ("loss", 2)),
    ],
)
def test_figures(name, label, pred, expected):
    metric = mx.metric.create(name)
    assert math.isnan(metric.get()[1])
    metric.update([label], [pred])
    assert metric.get() == (expected[0], pytest.approx(expected[1]))
    metric.update([label], [pred])
    assert metric.get()[1] == pytest.approx(expected[1])
    again = mx.metric.create(metric.get_config())
    assert type(again) is type(metric)


def test_local_and_global_means():
    metric = mx.metric.MAE()
    metric.update(LABEL, PRED)
    metric.reset_local()
    metric.update(LABEL, LABEL)
    assert metric.get() == ("mae", 0)
    assert metric.get_global() == ("mae", 0.5)
    metric.reset()
    assert math.isnan(metric.get_global()[1])


def test_composite():
    metric = mx.metric.create(["mae", lambda label, pred: (label.sum(), 2)])
    metric.update([LABEL], [PRED])
    assert metric.get_name_value() == [("mae", 1), ("custom(<lambda>)", 1.5)]
    assert metric.get() == (["mae", "custom(<lambda>)"], [1, 1.5])
    assert metric.get_metric(0).name == "mae"
    assert str(metric) == "EvalMetric: {'mae': 1.0, 'custom(<lambda>)': np.float32(1.5)}".replace(
        "np.float32(1.5)", repr(np.float32(1.5))
    )
    metric.add("mse")
    metric.reset()
    metric.update_dict({"l": LABEL}, {"p": LABEL})
    assert metric.get()[1][::2] == [0, 0]


def test_names_choose_outputs():
    metric = mx.metric.MAE(output_names=["b"], label_names=["l"])
    metric.update_dict({"l": LABEL, "m": PRED}, {"a": PRED, "b": LABEL})
    assert metric.get()[1] == 0


def test_custom_metric_with_extra_outputs():
    def bias(label, pred):
        return float((pred - label).mean())

    metric = mx.metric.np(bias, allow_extra_outputs=True)
    metric.update([LABEL], [PRED, SCORES])
    assert metric.get() == ("bias", 1)
    with pytest.raises(ValueError, match="labels: got 1; need 2"):
        mx.metric.np(bias).update([LABEL], [PRED, SCORES])


def test_refusals():
    with pytest.raises(AssertionError, match="metric: got 'nosuch'"):
        mx.metric.create("nosuch")
    with pytest.raises(ValueError, match="labels: got 3; need 9"):
        mx.metric.Accuracy().update([LABEL], [mx.nd.zeros((3, 3, 3))])
    with pytest.raises(NotImplementedError, match="EvalMetric: update: missing"):
        mx.metric.EvalMetric("m").update([], [])
