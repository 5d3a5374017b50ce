"""Every recorded case of MXNet 1.9.1, each in a fresh interpreter state; `conformance/README.md` describes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "conformance"
with open(CORPUS / "cases.jsonl", encoding="utf-8") as _lines:
    KINDS = {case["id"]: case["kind"] for case in map(json.loads, _lines)}


class Replayer:
    """The process that forks one fresh interpreter for each case."""

    def __init__(self) -> None:
        command = [sys.executable, str(CORPUS / "replay.py"), "--module", "tconv", "--serve"]
        # A process with threads does not fork safely, and this one has no use for them.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def difference(self, case_id: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(case_id, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the replaying process ended with status {self._process.wait()}"
        return str(json.loads(answer))

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def replayer() -> Iterator[Replayer]:
    replayer = Replayer()
    yield replayer
    replayer.close()


@pytest.mark.parametrize("case_id", KINDS)
def test_case(case_id: str, replayer: Replayer) -> None:
    assert replayer.difference(case_id) == ""


def test_corpus_is_whole() -> None:
    assert Counter(KINDS.values()) == {
        "error": 418,
        "forward_backward": 400,
        "infer_shape": 400,
        "symbol": 187,
        "executor": 157,
        "infer_type": 100,
        "files": 99,
    }
