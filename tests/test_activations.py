"""What prepared operators do to outputs at last: with every algorithm the bits of doing it afterwards."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest

import tconv
from oracles import AMPLE, solved
from problem_list import load
from tconv import activations
from tconv.activations import Activation
from tconv.backends import native, reference
from tconv.errors import ParameterError

ACTIVATIONS = [Activation(low=0.0), Activation(slope=0.25), Activation(slope=-2.0, low=-0.5, high=0.75)]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("isa", native._core.isas())
@pytest.mark.parametrize("algorithm", native._core.algorithms())
def test_bits_are_those_of_a_second_pass(algorithm: str, isa: str, activation: Activation) -> None:
    serves = not algorithm.startswith("weight_")
    ran = 0
    for problem in load("corners"):
        for last in (False, True):
            case, _ = solved(replace(problem.geometry, channels_last=last), "float32")
            for pass_, name in ((native.FORWARD, "forward"), (native.DATA_GRADIENT, "data_gradient")):
                options: dict[str, Any] = {"workspace": AMPLE, "isa": isa, "algorithm": algorithm}
                if not case.small.size or not case.large.size:
                    continue
                try:
                    plan = native.plan_for(case.geometry, pass_, case.small.dtype, **options)
                except ParameterError:
                    continue
                bent = native.plan_for(case.geometry, pass_, case.small.dtype, activation=activation, **options)
                source, weight, *bias = case.inputs(name)
                expected, out = np.empty((2, *case.shape(name)), "float32")
                plan.run(source, weight, bias[0] if bias else None, expected)
                bent.run(source, weight, bias[0] if bias else None, out)
                activation.apply(expected)
                assert np.array_equal(out, expected), (problem, last, name)
                ran += 1
    assert (ran > 0) == serves


def test_the_weight_gradient_takes_none() -> None:
    case, _ = solved(load("corners")[0].geometry, "float32")
    with pytest.raises(ParameterError, match="the weight gradient has none"):
        native.plan_for(
            case.geometry, native.WEIGHT_GRADIENT, case.small.dtype, workspace=AMPLE, activation=ACTIVATIONS[0]
        )


def test_reference_does_it_too() -> None:
    case, _ = solved(load("corners")[3].geometry, "float64")
    source, weight, *_ = case.inputs("forward")
    plain, bent = np.empty((2, *case.shape("forward")))
    reference.forward(case.geometry, source, weight, None, plain, workspace=AMPLE)
    reference.forward(case.geometry, source, weight, None, bent, workspace=AMPLE, activation=ACTIVATIONS[2])
    ACTIVATIONS[2].apply(plain)
    assert np.array_equal(plain, bent)


@pytest.mark.parametrize("pad_mode", ["zero", "circular"])
def test_prepare(pad_mode: str) -> None:
    rng = np.random.default_rng(0)
    x, w, bias = (rng.standard_normal(shape) for shape in ((2, 3, 9), (3, 4, 4), (4,)))
    options: dict[str, Any] = {"stride": 2, "pad": 1, "pad_mode": pad_mode}
    y = tconv.prepare(w, bias, **options)(x)
    for spelt, expected in (
        (None, y),
        ("relu", np.maximum(y, 0)),
        (("leaky", 0.1), np.where(y < 0, y * 0.1, y)),
        (("clip", -1, 0.5), np.clip(y, -1, 0.5)),
    ):
        assert np.array_equal(tconv.prepare(w, bias, activation=spelt, **options)(x), expected)


def test_nan_stays() -> None:
    up = tconv.prepare(np.ones((1, 1, 2), "float32"), stride=2, activation="relu")
    assert np.array_equal(
        up(np.array([[[nan, -inf, inf]]], "float32")), [[[nan, nan, 0, 0, inf, inf]]], equal_nan=True
    )


@pytest.mark.parametrize(
    "value", ["tanh", ("leaky",), ("leaky", nan), ("leaky", "1"), ("clip", 2, 1), ("clip", nan, 1), (), 3]
)
def test_others_are_refused(value: Any) -> None:
    with pytest.raises(ParameterError, match=r"prepare: activation: got .*; need None, 'relu', \('leaky', slope\)"):
        tconv.prepare(np.ones((1, 1, 2)), activation=value)
    assert activations.parse("prepare", None) == Activation()
