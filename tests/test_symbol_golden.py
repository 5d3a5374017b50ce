"""Symbols against what MXNet 1.9.1 showed of the same ones; see `tests/oracle/record_symbol.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tconv as mx
from symbol_cases import CASES, observe

GOLDEN = Path(__file__).parent / "golden" / "symbol_graphs.jsonl"
RECORDS = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]


def test_every_case_is_recorded() -> None:
    assert [record["code"] for record in RECORDS] == [code for code, _ in CASES]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_symbol_shows_what_mxnet_shows(number: int) -> None:
    seen: dict[str, Any] = json.loads(json.dumps({"code": CASES[number][0], **observe(mx, CASES[number])}))
    for key, value in RECORDS[number].items():
        assert seen[key] == value, key
