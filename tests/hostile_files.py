"""Damaged and hostile model files, made from sound ones by number, and their trial in a process apart.

    python tests/hostile_files.py

runs every file through what a user does with it and prints, as JSON lines, what became of it. A file may load or be
refused by an error of tconv; it may take a second of processor time and 256 MB.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import struct
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tconv as mx

HERE = Path(__file__).parent
SYMBOLS = sorted(HERE.glob("golden/*-symbol.json")) + sorted(HERE.glob("conformance/files/*-symbol.json"))
PARAMS = sorted(HERE.glob("golden/*.params")) + sorted(HERE.glob("conformance/files/*_0_*.params"))
EACH = 400
SECONDS, MEMORY_BYTES = 1.0, 256 << 20

VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 1e308, float("nan"), float("inf"), ""),
    *("\x00", "\ud800", "9" * 100_000, "(" * 5000, [], {}, [[]], [0], [0, 0], [[0, 0, 0]] * 3, {"a": "b"}),
]
"""What stands in a JSON where something else should."""

TEXTS = [
    *("(1000000000, 1000000000)", "(2147483647,)", "(-1, -1)", "()", "(0, 0)", "(1, 1, 1, 1, 1, 1)", "None", "nan"),
    *("9223372036854775807", "-9223372036854775808", "1e400", "True", "(3,", "[2, 2]", "(2, 2)L", "0x10", "{}"),
    *("(" + "1," * 50_000 + ")", "1" * 5000, "__import__('os')", "relu", "NCHW", "NHWC", " ", "\n"),
]
"""What stands as the text of a parameter."""


def _containers(part: Any) -> Iterator[Any]:
    if isinstance(part, (dict, list)) and part:
        yield part
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _containers(inner)


def _replace(graph: Any, rng: random.Random) -> None:
    part = rng.choice(list(_containers(graph)))
    key = rng.choice(list(part) if isinstance(part, dict) else range(len(part)))
    part[key] = rng.choice(VALUES)


def _remove(graph: Any, rng: random.Random) -> None:
    part = rng.choice(list(_containers(graph)))
    del part[rng.choice(list(part) if isinstance(part, dict) else range(len(part)))]


def _repeat(graph: Any, rng: random.Random) -> None:
    part = rng.choice([part for part in _containers(graph) if isinstance(part, list)])
    part.insert(rng.randrange(len(part) + 1), rng.choice(part))


def _spell(graph: Any, rng: random.Random) -> None:
    nodes = [node for node in graph["nodes"] if node["op"] != "null"] or graph["nodes"]
    node = rng.choice(nodes)
    attrs = node.setdefault(next((key for key in ("attrs", "attr", "param") if key in node), "attrs"), {})
    attrs[rng.choice([*attrs, "kernel", "shape", "axis", "num_args", "__shape__"])] = rng.choice(TEXTS)


def _rename(graph: Any, rng: random.Random) -> None:
    rng.choice(graph["nodes"])["op"] = rng.choice(
        [
            "Concat",
            "Reshape",
            "Deconvolution",
            "BatchNorm",
            "tile",
            "repeat",
            "Pad",
            "no such",
            "null",
            "UpSampling",
        ]
    )


def _connect(graph: Any, rng: random.Random) -> None:
    node = rng.choice(graph["nodes"])
    count = len(graph["nodes"])
    entry = [
        rng.choice([0, count - 1, count, -1, 2**40, rng.randrange(count)]),
        rng.choice([0, 0, 1, -1, 10**9]),
        0,
    ]
    if node["inputs"] and rng.random() < 0.6:
        node["inputs"][rng.randrange(len(node["inputs"]))] = entry
    else:
        node["inputs"] += [entry] * rng.choice([1, 2, 50])


def _double(graph: Any, rng: random.Random) -> None:
    """Append additions of the last node to itself, each twice the work of the one before if nobody takes care."""
    for number in range(rng.choice([3, 60, 2000])):
        last = len(graph["nodes"]) - 1
        inputs = [[last, 0, 0], [last, 0, 0]]
        graph["nodes"].append({"op": "elemwise_add", "name": f"twice{number}", "inputs": inputs})
    graph["heads"] = [[len(graph["nodes"]) - 1, 0, 0]]


def _grow(graph: Any, rng: random.Random) -> None:
    """Append operators that make an array thousands of times as large each."""
    for number in range(rng.choice([1, 4, 9])):
        last = len(graph["nodes"]) - 1
        op, attrs = rng.choice(
            [
                ("tile", {"reps": "(5000, 5000)"}),
                ("repeat", {"repeats": "100000"}),
                ("Pad", {"mode": "constant", "pad_width": "(0, 0, 0, 0, 50000, 50000, 50000, 50000)"}),
                ("UpSampling", {"scale": "10000", "sample_type": "nearest", "num_args": "1"}),
            ]
        )
        node = {"op": op, "name": f"large{number}", "attrs": attrs, "inputs": [[last, 0, 0]]}
        graph["nodes"].append(node)
    graph["heads"] = [[len(graph["nodes"]) - 1, 0, 0]]


STRUCTURAL = (
    _replace,
    _replace,
    _remove,
    _repeat,
    _spell,
    _spell,
    _spell,
    _rename,
    _connect,
    _connect,
    _double,
    _grow,
)


def _nested(text: str, rng: random.Random) -> str:
    depth = rng.choice([100, 5000, 200_000])
    at = rng.randrange(len(text))
    return text[:at] + "[" * depth + ("]" * depth if rng.random() < 0.5 else "") + text[at:]


TEXTUAL: tuple[Callable[[str, random.Random], str], ...] = (
    lambda text, rng: text[: rng.randrange(len(text))],
    lambda text, rng: text[rng.randrange(1, len(text)) :],
    lambda text, rng: text + rng.choice(["}", "\x00", text, "//", "[" * 100_000]),
    lambda text, rng: text.replace(
        rng.choice(['"', ":", ",", "[", "}"]), rng.choice(["", "'", ";"]), rng.randrange(1, 9)
    ),
    lambda text, rng: "".join(chr(rng.randrange(1, 0x500)) if rng.random() < 0.003 else one for one in text),
    lambda text, rng: rng.choice(
        ["", " ", "null", "0", "[]", "{}", '""', '{"nodes": []}', "NaN", "1e999", "\ufeff{}"]
    ),
    _nested,
)


def symbol_text(number: int) -> str:
    """Return the JSON text of a number."""
    rng = random.Random(number)
    text = rng.choice(SYMBOLS).read_text(encoding="utf-8")
    if rng.random() < 0.3:
        return rng.choice(TEXTUAL)(text, rng)
    graph = json.loads(text)
    for _ in range(rng.choice([1, 1, 1, 3])):
        try:
            rng.choice(STRUCTURAL)(graph, rng)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError):
            # What an earlier change has destroyed cannot be changed.
            break
    return json.dumps(graph)


def params_bytes(number: int) -> bytes:
    """Return the content of the `.params` file of a number."""
    rng = random.Random(1_000_000 + number)
    content = bytearray(rng.choice(PARAMS).read_bytes())
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(content) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            del content[at:]
        elif kind == 1 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            # Where numbers stand: the counts in the header, and the sizes of a record.
            at = rng.choice([16, 24, 28, 32, 36, 40, 48, max(len(content) - 20, 0)])
            value = rng.choice([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1])
            content[at : at + 8] = struct.pack("<Q", value)
        elif kind == 3:
            content[at:at] = rng.randbytes(rng.choice([1, 4, 8, 1000]))
        elif kind == 4:
            del content[at : at + rng.choice([1, 4, 8])]
        else:
            content += content[at:]
        if not content:
            break
    return bytes(content)


def use_symbol(text: str, folder: Path) -> None:
    """Load a symbol, write it again, infer its shapes, and bind it."""
    path = folder / "model-symbol.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    symbol = mx.sym.load(str(path))
    symbol.tojson()
    symbol.infer_type_partial()
    shapes = dict.fromkeys(symbol.list_arguments()[:1], (1, 4, 16, 16))
    symbol.infer_shape_partial(**shapes)
    symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)


def use_params(content: bytes, folder: Path) -> None:
    """Load parameters and look at every array."""
    path = folder / "model-0000.params"
    path.write_bytes(content)
    loaded = mx.nd.load(str(path))
    for array in loaded.values() if isinstance(loaded, dict) else loaded:
        array.asnumpy().sum()


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s of processor time")


def main() -> None:
    """Try every file under the limits, and print what became of it."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    mx.nd.zeros((1,)).asnumpy()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    used = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY_BYTES,) * 2)
    signal.signal(signal.SIGPROF, _too_long)
    with tempfile.TemporaryDirectory() as name:
        for kind, make, use in (("symbol", symbol_text, use_symbol), ("params", params_bytes, use_params)):
            for number in range(EACH):
                content = make(number)
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                try:
                    use(content, Path(name))  # type: ignore[operator]
                    found = ["loaded", ""]
                except (RecursionError, NotImplementedError):
                    found = ["failed", traceback.format_exc(limit=-4)]
                except RuntimeError as error:
                    # The root of tconv's errors, and what simple_bind raises, as in MXNet.
                    found = ["refused", str(error)]
                except BaseException as error:
                    found = [type(error).__name__, traceback.format_exc(limit=-4)]
                signal.setitimer(signal.ITIMER_PROF, 0)
                print(json.dumps([kind, number, found[0], found[1][:5000]]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
