"""The engine's threads among others: as many as the process may use, beside other pools, across forks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tconv
from tconv import _core

W = np.random.default_rng(0).standard_normal((32, 24, 4, 4), np.float32)
X = np.random.default_rng(1).standard_normal((2, 32, 40, 40), np.float32)


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


AFFINITY = """
import os
allowed = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, allowed[:1])
import numpy as np, tconv
from tconv.backends import native
x, w = np.ones((1, 8, 64, 64), np.float32), np.ones((8, 8, 4, 4), np.float32)
print(native._core.cores(), tconv.explain(x, w, stride=2).details["threads"])
os.sched_setaffinity(0, allowed)
print(native._core.cores() <= len(allowed), tconv.explain(x, w, stride=2, pad=1).details["threads"])
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_threads_are_the_cores_the_process_may_use() -> None:
    pinned, free = run(AFFINITY).splitlines()
    assert pinned == "1 1"
    assert free.startswith("True ")
    assert run(AFFINITY, TCONV_THREADS="3").splitlines()[0] == "1 3"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {}, 0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 0),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n", "cpu.max": "max 1\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "250000 50000\n", "a/cpu.max": "400000 50000\n"}, 5),
        ("0::/other/side\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../side\n", {"cpu.max": "700000 100000\n"}, 7),
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 3),
        ("3:cpuacct,cpu:/b\n", {"cpu/cpu.cfs_quota_us": "600000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ("3:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0),
        ("3:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 0),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 0),
        ("no such lines\n", {"cpu.max": "neither here\n"}, 0),
        (None, {"cpu.max": "200000 100000\n"}, 2),
    ],
)
def test_quota_of_control_groups_limits_the_cores(
    tmp_path: Path, groups: str | None, files: dict[str, str], cores: int
) -> None:
    texts = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    if groups is not None:
        texts["proc/self/cgroup"] = groups
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _core.quota_cores(str(tmp_path)) == cores


def test_cores_are_those_of_affinity_and_quota() -> None:
    limits = [len(os.sched_getaffinity(0)), _core.quota_cores()]
    assert _core.cores() == min(limit for limit in limits if limit > 0)


def test_other_pools_in_the_process_change_nothing() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    alone = tconv.deconvolution(X, W, stride=2, pad=1, threads=2)
    matrix = np.random.default_rng(2).standard_normal((400, 400), np.float32)
    product = matrix @ matrix
    tensors = torch.from_numpy(X), torch.from_numpy(W)
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def all_in_turn(_: int) -> None:
        theirs = torch.nn.functional.conv_transpose2d(*tensors, stride=2, padding=1)
        assert np.array_equal(tconv.deconvolution(X, W, stride=2, pad=1, threads=2), alone)
        np.testing.assert_allclose(matrix @ matrix, product, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(theirs.numpy(), alone, rtol=1e-4, atol=1e-3)

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(all_in_turn, range(16)))
    finally:
        torch.set_num_threads(before)


FORK = """
import os, threading
import numpy as np, tconv
x, w = np.ones((4, 32, 40, 40), np.float32), np.ones((32, 24, 4, 4), np.float32)
expected = tconv.deconvolution(x, w, stride=2, threads=2)
stop = threading.Event()

def compute():
    while not stop.is_set():
        tconv.deconvolution(x, w, stride=2, threads=2)

busy = [threading.Thread(target=compute) for _ in range(2)]
for thread in busy:
    thread.start()
codes = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        same = np.array_equal(tconv.deconvolution(x, w, stride=2, threads=2), expected)
        os._exit(0 if same else 1)
    codes.append(os.waitpid(child, 0)[1])
stop.set()
for thread in busy:
    thread.join()
print(codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_child_of_a_process_that_computes_computes() -> None:
    # From Python 3.12 on, forking beside threads warns.
    assert run(FORK, PYTHONWARNINGS="ignore") == f"{[0] * 10}\n"


def test_one_prepared_operator_serves_many_threads() -> None:
    up = tconv.prepare(W, stride=2, pad=1, threads=2)
    images = [X[:1, :, : 8 + size, :] for size in range(12)]
    expected = [tconv.prepare(W, stride=2, pad=1, threads=1)(image) for image in images]
    start = threading.Barrier(4)

    def compute(_: int) -> None:
        start.wait()
        for image, wanted in zip(images, expected):
            assert np.array_equal(up(image), wanted)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(compute, range(4)))
