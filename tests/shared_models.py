"""The public models beside the checkout, in `../shared/models`; its README tells what each file is."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tconv as mx

FOLDER = Path(__file__).parent.parent.parent / "shared" / "models"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/meta.json"))
every_model = pytest.mark.parametrize(
    "name",
    NAMES or [pytest.param("", marks=pytest.mark.skip(reason="the public models are not beside the checkout"))],
)


class Model(NamedTuple):
    """A model, with inputs and what MXNet 1.9.1 made of them."""

    folder: Path
    symbol: mx.sym.Symbol
    params: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: list[np.ndarray]
    tolerances: list[float]


# One at a time, as some take half a gigabyte.
@lru_cache(maxsize=1)
def load(name: str) -> Model:
    """Read a model; its parameters have `arg:` or `aux:` before their names."""
    folder = FOLDER / name
    meta = json.loads((folder / "meta.json").read_text())
    with np.load(folder / "io.npz") as archive:
        arrays = dict(archive)
    if (folder / "model.params").exists():
        params = {key: array.asnumpy() for key, array in mx.nd.load(str(folder / "model.params")).items()}
    else:
        params = drawn(json.loads((folder / "recipe.json").read_text()))
    return Model(
        folder,
        mx.sym.load(str(folder / "symbol.json")),
        params,
        {key.removeprefix("input:"): array for key, array in arrays.items() if key.startswith("input:")},
        [arrays[f"output{place}"] for place in range(len(meta["outputs"]))],
        [output["suggested_atol"] for output in meta["outputs"]],
    )


def drawn(recipe: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the parameters of a recipe."""
    rng = np.random.default_rng(recipe["seed"])
    params = {}
    for row in recipe["arrays"]:
        low, high = np.float32(row["low"]), np.float32(row["high"])
        params[row["name"]] = rng.random(tuple(row["shape"]), dtype=np.float32) * (high - low) + low
    return params
