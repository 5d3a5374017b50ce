"""Layers against MXNet 1.9.1: names, printed forms, values, gradients, running averages, exported graphs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tconv as mx
from gluon_cases import CASES, observe

RECORDED = {
    recorded.pop("block"): recorded
    for recorded in map(json.loads, (Path(__file__).parent / "golden" / "gluon.jsonl").read_text().splitlines())
}


# The gradient MXNet gives for SELU is not that of its own output, which is `lambda * alpha * exp(x)` below 0.
WRONG_IN_MXNET = {("nn.SELU()", "data_gradient")}


def test_every_case_is_recorded():
    assert RECORDED.keys() == CASES.keys()


def assert_close(got, want, where):
    if isinstance(want, dict):
        assert got.keys() == want.keys(), where
        for key in want:
            assert_close(got[key], want[key], f"{where} {key}")
    else:
        assert (got is None) == (want is None), where
        if want is None:
            return
        assert np.shape(got) == np.shape(want), where
        assert np.allclose(got, want, rtol=2e-4, atol=2e-5), where


@pytest.mark.parametrize("active", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("block", CASES)
def test_block_is_mxnets(block, active):
    want = RECORDED[block]
    got = observe(mx, block, active)
    numbers = "predicted", "output", "data_gradient", "gradients", "states"
    for key in got:
        if (block, key) in WRONG_IN_MXNET:
            continue
        if key in numbers:
            assert_close(got[key], want[key], key)
        else:
            assert got[key] == want[key], key
