"""`cudnn_tune` on the CPU: algorithms are timed once, and what was found is kept, come what may to the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tconv as mx
from tconv import knobs, tuning
from tconv.backends import native
from tconv.geometry import Geometry, Window, solve_deconvolution

WINDOW = Window(kernel=(4,), stride=(2,), dilation=(1,), pad=((1, 1),), adj=(0,), filters=16)
DTYPE = np.dtype("float32")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the folder of a process that has just begun."""
    monkeypatch.setenv(knobs.KNOBS["tuned"].variable, str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()


def forget() -> None:
    tuning._known.clear()
    tuning._path.cache_clear()


def fresh(size: int = 64) -> Geometry:
    """Return a geometry that remembers no plan."""
    solve_deconvolution.cache_clear()
    return solve_deconvolution("test", WINDOW, (1, 16, size))


def tuned(geometry: Geometry, tune: str = "limited_workspace") -> str:
    return native.plan_for(geometry, native.FORWARD, DTYPE, workspace=1 << 20, threads=1, tune=tune).algorithm


def file_of(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_found_is_kept_and_comes_first(folder: Path) -> None:
    found = tuned(fresh())
    (problem, algorithm) = json.loads(file_of(folder).read_text().split("\n")[1])
    assert algorithm == found
    file_of(folder).write_text(json.dumps([problem, "direct"]) + "\n" + json.dumps([problem, found]))
    forget()
    assert tuned(fresh()) == "direct"
    assert (
        native.plan_for(fresh(), 0, DTYPE, workspace=1 << 20, threads=2, tune="limited_workspace").algorithm
        == "direct"
    )
    # The cost model's choice is what it was.
    assert tuned(fresh(), "off") == native.plan_for(fresh(), 0, DTYPE, workspace=1 << 20).algorithm


def test_explanation_measures_what_was_found(folder: Path) -> None:
    weights = np.ones((64, 64, 4, 4), np.float32)
    mx.prepare(weights, stride=2, pad=1, tune="fastest").explain((1, 64, 40, 40))
    (problem, _) = json.loads(file_of(folder).read_text().split("\n")[1])
    file_of(folder).write_text(json.dumps([problem, "direct"]))
    forget()
    solve_deconvolution.cache_clear()
    told = mx.prepare(weights, stride=2, pad=1, tune="fastest").explain((1, 64, 40, 40), measure=True)
    assert told.algorithm == "direct"
    assert told.measured["direct"] > 0
    assert told.details["share_of_peak"] > 0


def test_neither_batch_nor_threads_decide(folder: Path) -> None:
    tuned(fresh(512))
    before = file_of(folder).read_bytes()
    many = solve_deconvolution("test", WINDOW, (7, 16, 512))
    tuned(many)
    assert file_of(folder).read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\x00",
        b"[1, 2]\n[]\nnull\n{}",
        b"[" * 100_000,
        b'["a", "b"',
        b'["a", "b", "c"]\n',
        b'[["x"], "direct"]',
    ],
    ids=["empty", "bytes", "other", "deep", "cut", "longer", "list"],
)
def test_damaged_file_is_no_obstacle(folder: Path, damage: bytes) -> None:
    tuned(fresh())
    good = file_of(folder).read_bytes()
    for content in (damage, damage + good, good + damage, good[: len(good) // 2] + damage + b"\n" + good):
        file_of(folder).write_bytes(content)
        forget()
        assert tuned(fresh()) in native._core.algorithms()


def test_algorithm_that_is_gone_or_refuses_gives_way(folder: Path) -> None:
    tuned(fresh())
    problem, _ = json.loads(file_of(folder).read_text().split("\n")[1])
    for name in ("no_such_one", "weight_gemm"):
        file_of(folder).write_text(json.dumps([problem, name]))
        forget()
        assert tuned(fresh()) == tuned(fresh(), "off")


def test_folder_that_cannot_be_written_or_is_not_wanted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("a file")
    found = tuned(fresh())
    assert found == tuned(fresh())
    assert folder.read_text() == "a file"
    monkeypatch.setenv(knobs.KNOBS["tuned"].variable, "")
    forget()
    assert tuned(fresh()) in native._core.algorithms()


def test_user_without_a_home_keeps_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(knobs.KNOBS["tuned"].variable, "~nobody_of_this_name/cache")
    forget()
    assert tuned(fresh()) == tuned(fresh())
    assert list(tmp_path.iterdir()) == []


def test_file_stops_growing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning.remember("first", "direct")
    monkeypatch.setattr(tuning, "_LARGEST", 10)
    size = file_of(folder).stat().st_size
    assert tuning.remember("second", "direct") == "direct"
    assert file_of(folder).stat().st_size == size


def test_processors_are_told_apart(tmp_path: Path) -> None:
    source = tmp_path / "cpuinfo"

    def told(text: str) -> str:
        source.write_text(text)
        return tuning.processor(source)

    assert told("processor\t: 0\nmodel\t\t: 17\nmodel name\t: Some CPU @ 2 GHz\n") == "Some CPU @ 2 GHz"
    arm = "processor : 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {}\n"
    assert told(arm.format("0xd0c")) != told(arm.format("0xd40"))
    source.unlink()
    assert tuning.processor(source)


WRITER = """
import sys
from tconv import tuning
for number in range(200):
    tuning.remember(f"problem {number}", sys.argv[1])
tuning._known.clear()
print([tuning.recall(f"problem {number}") for number in range(200)])
"""


def test_writers_at_the_same_time_agree(folder: Path) -> None:
    def write(name: str) -> str:
        command = [sys.executable, "-c", WRITER, name]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout

    with ThreadPoolExecutor() as pool:
        told = list(pool.map(write, ("winograd", "direct", "phase_gemm", "position_lanes")))
    assert len(set(told)) == 1
    lines = [line for line in file_of(folder).read_bytes().splitlines() if line]
    assert len(lines) == 800
    assert all(len(json.loads(line)) == 2 for line in lines)


@pytest.mark.parametrize("tune", ["off", "limited_workspace", "fastest"])
def test_operator_gives_the_same_numbers(folder: Path, tune: str) -> None:
    x, w = mx.nd.random.normal(shape=(2, 8, 9, 9)), mx.nd.random.normal(shape=(8, 6, 4, 4))
    options = {"kernel": (4, 4), "stride": (2, 2), "pad": (1, 1), "num_filter": 6}
    expected = mx.nd.Deconvolution(x, w, **options)
    for array in (x, w):
        array.attach_grad()
    with mx.autograd.record():
        y = mx.nd.Deconvolution(x, w, cudnn_tune=tune, **options)
    y.backward()
    np.testing.assert_allclose(y.asnumpy(), expected.asnumpy(), rtol=1e-4, atol=1e-4)
    assert folder.exists() == (tune != "off")


def test_fastest_heeds_no_ceiling(folder: Path) -> None:
    geometry = solve_deconvolution("test", replace(WINDOW, filters=64), (1, 64, 4096))
    limits = {"workspace": 0, "threads": 1}
    assert native.plan_for(geometry, 0, DTYPE, tune="limited_workspace", **limits).algorithm == "direct"
    assert native.plan_for(geometry, 0, DTYPE, tune="fastest", **limits).algorithm != "direct"


def test_prepared_weights_are_timed_as_such(folder: Path) -> None:
    w = np.ones((16, 16, 4), np.float32)
    up = mx.prepare(w, stride=2, pad=1, tune="limited_workspace")
    x = np.ones((1, 16, 32), np.float32)
    np.testing.assert_allclose(up(x), mx.prepare(w, stride=2, pad=1)(x), rtol=1e-5)
    assert "packed=1" in file_of(folder).read_text()
    with pytest.raises(
        mx.MXNetError, match="prepare: tune: got 'best'; need one of off, limited_workspace, fastest"
    ):
        mx.prepare(w, tune="best")
