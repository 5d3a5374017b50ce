"""Replay the corpus of this folder against a module that offers MXNet's names.

    python replay.py --module NAME [--kind KIND] [--id ID]
    python replay.py --module NAME --serve

Every case runs in a process forked from one that has imported the module and done nothing else, so automatic
names start at 0, no thread exists yet, and a crash loses one case. With `--serve`, the ids of cases are read
from the standard input, and each is answered by a line of JSON: the first difference, or an empty text.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import os
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

CORPUS = Path(__file__).resolve().parent
TIME_LIMIT_SECONDS = 120


def read_cases() -> list[dict[str, Any]]:
    with open(CORPUS / "cases.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_arrays() -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for path in sorted(CORPUS.glob("arrays_*.npz")):
        with np.load(path) as stored:
            arrays.update(stored)
    return arrays


def comparable(value: Any) -> Any:
    """Bring a result into the form the corpus records."""
    if value is None or isinstance(value, (bool, int, float, str, np.ndarray)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "asnumpy"):
        return np.asarray(value.asnumpy())
    if isinstance(value, (tuple, list)):
        return [comparable(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): comparable(entry) for key, entry in value.items()}
    if isinstance(value, bytes):
        return {"__bytes_sha256__": hashlib.sha256(value).hexdigest(), "len": len(value)}
    if isinstance(value, (type, np.dtype)):
        return np.dtype(value).name
    raise TypeError(f"no way to compare a result of {type(value)}")


def array_difference(got: Any, want: np.ndarray, tolerance: float | None, where: str) -> str:
    if not isinstance(got, np.ndarray):
        return f"{where}: got {type(got).__name__}, expected an array"
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{where}: got {got.shape} {got.dtype}, expected {want.shape} {want.dtype}"
    if not want.size:
        return ""
    if tolerance is None or want.dtype.kind != "f":
        return "" if np.array_equal(got, want, equal_nan=want.dtype.kind == "f") else f"{where}: values differ"
    if not np.all(np.isfinite(got)):
        return f"{where}: not finite"
    got64, want64 = got.astype(np.float64), want.astype(np.float64)
    off, allowed = np.abs(got64 - want64).max(), tolerance * max(1.0, np.abs(want64).max())
    return "" if off <= allowed else f"{where}: off by {off:.3g}, allowed {allowed:.3g}"


def difference(
    got: Any, want: Any, arrays: dict[str, np.ndarray], tolerance: float | None, where: str = "result"
) -> str:
    """Return the first difference as a sentence, or an empty text."""
    unequal = f"{where}: got {got!r}, expected {want!r}"
    if isinstance(want, dict) and "__array__" in want:
        return array_difference(got, arrays[want["__array__"]], tolerance, where)
    if isinstance(want, dict):
        if not isinstance(got, dict) or got.keys() != want.keys():
            return unequal
        inner = (difference(got[key], want[key], arrays, tolerance, f"{where}[{key!r}]") for key in want)
        return next(filter(None, inner), "")
    if isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return unequal
        pairs = enumerate(zip(got, want))
        inner = (difference(a, b, arrays, tolerance, f"{where}[{i}]") for i, (a, b) in pairs)
        return next(filter(None, inner), "")
    if isinstance(want, str) and isinstance(got, str) and want.lstrip().startswith('{\n  "nodes"'):
        return "" if json.loads(got) == json.loads(want) else f"{where}: symbol JSON differs"
    if isinstance(want, float) and tolerance is not None and isinstance(got, (int, float)):
        return "" if abs(got - want) <= tolerance * max(1, abs(want)) else unequal
    return "" if type(got) is type(want) and got == want else unequal


def replay(case: dict[str, Any], module: Any, arrays: dict[str, np.ndarray]) -> str:
    """Run one case here and now; return the first difference, or an empty text."""
    parameters = ast.literal_eval(case["P_py"]) if "P_py" in case else None
    if isinstance(parameters, dict) and "file" in parameters:
        parameters["file"] = str(CORPUS / parameters["file"])
    inputs = {name: arrays[reference["__array__"]].copy() for name, reference in case.get("inputs", {}).items()}
    names = {"mx": module, "np": np, "A": inputs, "P": parameters}
    expected_error = case.get("expected_error")
    try:
        exec(compile(case["code"], case["id"], "exec"), names)
        got = comparable(names["result"])
    except Exception as error:
        what = f"raised {type(error).__name__}: {error}"
        if expected_error is None:
            return what
        wanted = expected_error["class"].rpartition(".")[2]
        return "" if wanted in [c.__name__ for c in type(error).__mro__] else f"{what}; expected {wanted}"
    if expected_error is not None:
        return f"raised nothing, expected {expected_error['class']}: {expected_error['message']}"
    return difference(got, case["expected"], arrays, case.get("compare", {}).get("tol"))


def replay_apart(case: dict[str, Any], module: Any, arrays: dict[str, np.ndarray]) -> str:
    """Run one case in a forked process; return the first difference, or an empty text."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(TIME_LIMIT_SECONDS)
        try:
            answer = replay(case, module, arrays)
        except BaseException as error:
            answer = f"the comparison raised {type(error).__name__}: {error}"
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            pipe.write(json.dumps(answer))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return str(json.loads(answer)) if answer else f"the process ended with status {status}"


def serve(module: Any) -> None:
    cases, arrays = {case["id"]: case for case in read_cases()}, read_arrays()
    for part in ("nd", "sym", "autograd", "gluon", "model", "init"):
        getattr(module, part)  # What loads on first use would load again in every child.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        for line in sys.stdin:
            answers.write(json.dumps(replay_apart(cases[line.strip()], module, arrays)) + "\n")
            answers.flush()


def report(module: Any, kind: str | None, case_id: str | None) -> bool:
    """Print every difference and the totals; tell whether all cases agree."""
    arrays, total, agreeing = read_arrays(), Counter[str](), Counter[str]()
    for case in read_cases():
        if kind in (None, case["kind"]) and case_id in (None, case["id"]):
            answer = replay_apart(case, module, arrays)
            total[case["kind"]] += 1
            agreeing[case["kind"]] += not answer
            if answer:
                print(f"{case['id']}: {answer}", flush=True)
    for each, count in sorted(total.items()):
        print(f"{each:18} {agreeing[each]} of {count}")
    return bool(total) and agreeing == total


def main() -> int:
    parser = argparse.ArgumentParser(description="Replay the corpus against a module that offers MXNet's names.")
    parser.add_argument("--module", required=True)
    parser.add_argument("--kind")
    parser.add_argument("--id")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    module = importlib.import_module(options.module)
    if options.serve:
        serve(module)
        return 0
    return 0 if report(module, options.kind, options.id) else 1


if __name__ == "__main__":
    sys.exit(main())
