"""Every operator against what MXNet 1.9.1 computed, inferred and refused; see `tests/oracle/record_operators.py`.

tconv may tell more of a shape than MXNet does. Where else they differ, tconv is right and `DIFFERENCES` says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tconv.operators  # noqa: F401
from tconv.errors import MXNetError
from tconv.operators.registry import Call, find, infer_dtypes, infer_shapes, names, solve

GOLDEN = Path(__file__).parent / "golden"

TOLERANCE = {"float32": 2e-5, "float64": 1e-11, "float16": 4e-3}
SINGLE_PRECISION = {
    # In float64 MXNet uses these with constants or parameters rounded to float32, or computes them in float32.
    *(
        "degrees",
        "radians",
        "erf",
        "erfinv",
        "gamma",
        "gammaln",
        "LeakyReLU",
        "BatchNorm",
        "softmax",
        "log_softmax",
    ),
    "softmin",
}


class Difference(NamedTuple):
    """A way in which tconv is not like MXNet.

    Attributes
    ----------
    ops : str
        Operators.
    how : str
        Beginning of what the comparison says: `accepts` what MXNet refuses, `refuses` what it accepts, or the part
        that differs.
    params : dict
        Parameters the case has; an input's shape or type may stand under `input0`, `input1`, ...
    reason : str
        Why.
    """

    ops: str
    how: str
    params: dict[str, str]
    reason: str


DIFFERENCES = [
    Difference(
        "_rdiv_scalar", "outputs", {"input0": "int32 (9,)"}, "a whole number divided by 0 is 0, not undefined"
    ),
    Difference("Activation", "outputs", {"act_type": "relu"}, "NaN stays NaN; oneDNN makes it 0"),
    Difference("LeakyReLU", "grads", {"input0": "float32 (12,)"}, "the slope at NaN, of which there is none"),
    Difference("LeakyReLU", "grads", {"act_type": "selu"}, "MXNet scales the slope below 0 twice"),
    Difference("LeakyReLU", "refuses", {"act_type": "prelu"}, "a gamma that does not fit is refused when inferred"),
    Difference("stack", "refuses", {}, "MXNet stacks arrays of different shapes"),
    Difference("transpose reverse", "accepts", {}, "axes may be negative"),
    Difference("Pad", "accepts", {}, "any axis of any array may be padded"),
    Difference("Concat concat", "infers", {}, "an input of unknown size leaves the sum unknown"),
    Difference("SliceChannel split", "accepts", {}, "an unknown size may divide"),
    Difference("broadcast_to", "accepts", {}, "an unknown size may be 1"),
    Difference("dot", "accepts", {}, "a vector transposed is itself, and unknown sizes may fit"),
    Difference("FullyConnected", "accepts", {"what": "shape"}, "unknown sizes may fit"),
    Difference(
        "FullyConnected", "accepts", {"input2": "float32 (5, 1)"}, "MXNet takes such a bias in float64 only"
    ),
    Difference("topk", "accepts", {}, "an unknown size may be large enough"),
    Difference("Pooling", "accepts", {"pad": "(2, 2)"}, "margins may be as wide as windows; oneDNN refuses that"),
    Difference("Pooling", "accepts", {"pooling_convention": "same"}, "MXNet demands 3 pads for 1 axis here"),
    Difference("Pooling", "accepts", {"kernel": "(2, 2)"}, "an unknown size may be large enough"),
    Difference("Pooling", "outputs", {"pool_type": "avg"}, "the mean of a window without elements is 0, not NaN"),
    Difference("gather_nd", "grads", {}, "MXNet loses the gradients of places counted from the end"),
    Difference("sort", "accepts", {}, "MXNet fails at the gradient unless axis is given"),
    Difference("norm", "accepts", {"out_dtype": "float64"}, "MXNet infers out_dtype but does not compute it"),
    Difference("softmax log_softmax", "outputs", {"input0": "float32 (2, 5)"}, "a row with NaN is NaN throughout"),
    Difference(
        "SoftmaxActivation",
        "grads",
        {"mode": "instance"},
        "MXNet computes over the last axis but differentiates over axis 1",
    ),
    Difference(
        "SoftmaxOutput", "grads", {"out_grad": "True"}, "MXNet multiplies by the output, not by its gradient"
    ),
]


class Golden(NamedTuple):
    """The recorded cases by kind and operator, and their arrays."""

    cases: dict[str, list[dict[str, Any]]]
    interfaces: dict[str, dict[str, Any]]
    arrays: dict[str, np.ndarray]

    def array(self, reference: list[Any]) -> np.ndarray:
        kind, start, shape = reference
        size = int(np.prod(shape, dtype=np.int64))
        return self.arrays[kind][start : start + size].reshape(shape)


@cache
def golden() -> Golden:
    with np.load(GOLDEN / "operators.npz") as archive:
        arrays = dict(archive)
    cases: dict[str, list[dict[str, Any]]] = {}
    interfaces = {}
    for line in (GOLDEN / "operators.jsonl").read_text().splitlines():
        case = json.loads(line)
        if case["what"] == "interface":
            interfaces[case["op"]] = case
        else:
            cases.setdefault(case["op"], []).append(case)
    return Golden(cases, interfaces, arrays)


def partial(shape: list[int] | None) -> tuple[int | None, ...] | None:
    return tuple(size or None for size in shape) if shape else None


def arrays_differ(got: np.ndarray, want: np.ndarray, op: str) -> str:
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        return f"got {got.dtype} {got.shape}, want {want.dtype} {want.shape}"
    if got.dtype.kind != "f":
        return "" if np.array_equal(got, want) else f"got {got}, want {want}"
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return f"got {got}, want {want}"
    if not finite.any():
        return ""
    exact, rough = want[finite].astype(np.float64), got[finite].astype(np.float64)
    tolerance = 5e-7 if op in SINGLE_PRECISION and got.dtype == np.float64 else TOLERANCE[got.dtype.name]
    error = np.abs(exact - rough).max()
    return "" if error <= tolerance * max(1, np.abs(exact).max()) else f"off by {error}: got {got}, want {want}"


def run_call(case: dict[str, Any]) -> str:
    """Return how a call differs from what was recorded, or nothing."""
    operator = find(case["op"])
    params = operator.params.parse(case["params"])
    inputs = [golden().array(reference).copy() for reference in case["inputs"]]
    solved = solve(operator, params, tuple(x.shape for x in inputs), tuple(x.dtype for x in inputs))
    call = Call(params, case.get("train", True), wanted=tuple(x.dtype.kind == "f" for x in inputs))
    outputs = operator.forward(call, inputs)
    assert tuple((y.shape, y.dtype) for y in outputs) == solved, "the rules tell what the computation gives"
    found = {"outputs": list(outputs[: operator.visible_outputs(params)])}
    if "heads" in case:
        heads = [golden().array(reference) for reference in case["heads"]]
        heads += [np.zeros_like(y) for y in outputs[len(heads) :]]
        assert operator.backward is not None
        found["grads"] = list(operator.backward(call, inputs, outputs, heads))
    found["moving"] = inputs[3:]
    if "error" in case:
        return "accepts"
    for part in ("outputs", "grads", "moving"):
        for index, (got, reference) in enumerate(zip(found.get(part, []), case.get(part, []))):
            if got is not None and reference is not None:
                difference = arrays_differ(np.asarray(got), golden().array(reference), case["op"])
                if difference:
                    return f"{part}[{index}] {difference}"
    return ""


def run_inference(case: dict[str, Any]) -> str:
    """Return how an inference differs from what was recorded, or nothing; to know more is no difference."""
    operator = find(case["op"])
    params = operator.params.parse(case["params"])
    hidden = [None] * (len(operator.output_names(params)) - 1)
    if case["what"] == "shape":
        known = [partial(shape) for shape in case["given"]], [partial(case.get("out")), *hidden]
        found = infer_shapes(operator, params, *known)
    else:
        known = [np.dtype(kind) if kind else None for kind in case["given"]], [None, *hidden]
        if case.get("out"):
            known[1][0] = np.dtype(case["out"])
        found = infer_dtypes(operator, params, *known)
    if "error" in case:
        return "accepts"
    want = case["found"]
    # With a known output only that one was asked for.
    count = 1 if case.get("out") else operator.visible_outputs(params)
    pairs = [*zip(found[0], want["inputs"]), *zip(found[1][:count], want["outputs"])]
    if len(want["outputs"]) != count:
        return f"infers {len(found[1])} outputs, want {want}"
    for got, wanted in pairs:
        if case["what"] == "dtype":
            fits = not wanted or (got is not None and got.name == wanted)
        else:
            fits = not wanted or (
                got is not None and len(got) == len(wanted) and all(not b or a == b for a, b in zip(got, wanted))
            )
        if not fits:
            return f"infers {found}, want {want}"
    return ""


def difference_of(case: dict[str, Any]) -> str:
    try:
        return run_call(case) if case["what"] == "call" else run_inference(case)
    except MXNetError as error:
        return "" if "error" in case else f"refuses: {error}"


def matches(row: Difference, case: dict[str, Any], how: str) -> bool:
    described = {"what": case["what"], **case["params"]}
    for index, (kind, _, shape) in enumerate(case.get("inputs", [])):
        described[f"input{index}"] = f"{kind} {tuple(shape)}"
    return (
        case["op"] in row.ops.split()
        and how.startswith(row.how)
        and all(described.get(key) == value for key, value in row.params.items())
    )


def unlike(op: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the cases of an operator that differ, and how."""
    for case in golden().cases[op]:
        how = difference_of(case)
        if how:
            yield case, how


@pytest.mark.parametrize("op", sorted(golden().cases))
def test_as_in_mxnet(op: str) -> None:
    for case, how in unlike(op):
        described = {key: case[key] for key in ("what", "params", "inputs", "given", "out", "text") if key in case}
        assert any(matches(row, case, how) for row in DIFFERENCES), f"{op}: {how}\n{described}"


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: f"{row.ops}-{row.how}-{'-'.join(row.params)}")
def test_difference_is_still_one(row: Difference) -> None:
    for op in row.ops.split():
        assert any(matches(row, case, how) for case, how in unlike(op)), f"{op}: stale row: {row.reason}"


def test_names_are_those_of_mxnet() -> None:
    real = {alias: op for op, entry in golden().interfaces.items() for alias in (op, *entry["aliases"])}
    for name in names():
        assert real.get(name) == find(name).name, f"{name} is {real.get(name)} in MXNet"


@pytest.mark.parametrize("op", sorted({find(name).name for name in names()}))
def test_interface_is_that_of_mxnet(op: str) -> None:
    operator = find(op)
    entry = golden().interfaces[op]
    assert set(entry["aliases"]) <= set(operator.aliases)
    rows = {name: text for name, text in entry["rows"] if "Symbol" not in text}
    if operator.count and operator.count not in rows:
        rows[operator.count] = "int, required"
    ours = operator.params.rows()
    assert [row.name for row in ours] == list(rows)
    for row in ours:
        text = rows[row.name]
        if "default=" not in text:
            continue
        assert not row.required, row.name
        default = text.partition("default=")[2].strip("'")
        value = None if default == "None" else row.grammar.read(default)
        if isinstance(row.default, float):
            assert value == pytest.approx(row.default, rel=1e-6), row.name
        else:
            assert value == row.default or (not value and not row.default), row.name
