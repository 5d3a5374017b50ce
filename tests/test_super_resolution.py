"""The trained example: its network, its weights, and training that goes on where it stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tconv as mx

pytest.importorskip("skimage", reason="the photographs come with scikit-image")
pytest.importorskip("sklearn", reason="some photographs come with scikit-learn")

EXAMPLE = Path(__file__).parent.parent / "examples" / "super_resolution"
PREFIX = EXAMPLE / "super_resolution"


def load(name: str) -> ModuleType:
    if str(EXAMPLE) not in sys.path:
        sys.path.insert(0, str(EXAMPLE))
    return __import__(name)


def test_network_starts_as_bicubic_interpolation() -> None:
    network, photographs = load("network"), load("photographs")
    symbol = network.network()
    assert symbol.infer_shape(data=(2, 1, 10, 14))[1] == [(2, 1, 20, 28)]
    first = network.initialized(symbol, np.random.default_rng(0), data=(1, 1, 32, 32))
    first["enlarge_weight"][:-1] = 0
    small = photographs.halved(photographs.photograph("chelsea"))
    seen = photographs.luma(small)[None, None] / np.float32(255)
    (enlarged,) = symbol.eval(data=mx.nd.array(seen), **{name: mx.nd.array(one) for name, one in first.items()})
    bicubic = photographs.luma(photographs.doubled(small))
    assert photographs.psnr(np.rint(255 * enlarged.asnumpy()[0, 0].clip(0, 1)), bicubic) > 45


def test_committed_weights_beat_bicubic_by_far() -> None:
    network, train = load("network"), load("train")
    assert PREFIX.with_name("super_resolution-0000.params").stat().st_size < 200_000
    symbol, params, states = mx.model.load_checkpoint(str(PREFIX), 0)
    assert not states
    assert json.loads(symbol.tojson()) == json.loads(network.network().tojson())
    for name, (bicubic, ours) in train.evaluate(params).items():
        assert ours - bicubic >= 0.7, name


def test_the_log_tells_what_the_weights_do() -> None:
    train = load("train")
    last = (EXAMPLE / "training.log").read_text().splitlines()[-len(load("photographs").HELD_OUT) :]
    told = {line.split()[0]: float(line.split()[-2]) for line in last}
    found = train.evaluate(mx.model.load_params(str(PREFIX), 0)[0])
    for name, (bicubic, ours) in found.items():
        assert told[name] == pytest.approx(ours - bicubic, abs=0.02)


def test_interrupted_training_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, photographs = load("train"), load("photographs")
    monkeypatch.setattr(train, "BATCHES", 2)
    monkeypatch.setattr(photographs, "TRAINING", ("text",))
    through = train.Trainer(epochs=3)
    for _ in range(3):
        through.train_epoch()
    stopped = train.Trainer(epochs=3)
    stopped.train_epoch()
    stopped.save(tmp_path)
    resumed = train.Trainer(epochs=3)
    assert resumed.resume(tmp_path)
    assert resumed.epoch == 1
    for _ in range(2):
        resumed.train_epoch()
    for name, array in through.params.items():
        assert (array.asnumpy() == resumed.params[name].asnumpy()).all(), name
    assert not train.Trainer(epochs=3).resume(tmp_path / "empty")
