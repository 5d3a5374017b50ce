"""What several subcommands ask for: a model, shapes and inputs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, TypeVar

import click
import numpy as np

from tconv import ndarray, symbol
from tconv.errors import FormatError, MXNetError, ParameterError
from tconv.ndarray import NDArray
from tconv.operators.registry import Array
from tconv.pictures.files import CHANNELS
from tconv.pictures.network import PictureNetwork, labels
from tconv.pictures.tiles import fitting_size
from tconv.symbol import Symbol

T = TypeVar("T")

MODEL = click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
PARAMS = click.option(
    "--params",
    "-p",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Parameters; by default the last PREFIX-NNNN.params beside PREFIX-symbol.json.",
)
SHAPE = click.option(
    "--shape", "-s", "shapes", multiple=True, metavar="NAME=N,C,H,W", help="Shape of an input; may be repeated."
)


class Model(NamedTuple):
    """A symbol and its parameters by their plain names."""

    symbol: Symbol
    params: dict[str, NDArray]

    @property
    def inputs(self) -> list[str]:
        """The arguments without parameter, labels of losses left out."""
        aside = {*self.params, *labels(self.symbol)}
        return [name for name in self.symbol.list_inputs() if name not in aside]


def load_model(model: Path, params: Path | None, *, needs_params: bool = True) -> Model:
    """Read a model.

    Raises
    ------
    MXNetError
        If a file is damaged, or parameters are needed and there are none.
    """
    network = symbol.load(model)
    if params is None:
        params = _beside(model)
    if params is None:
        if needs_params:
            raise ParameterError(f"params: none beside {str(model)!r}; name the file by --params")
        return Model(network, {})
    loaded = ndarray.load(params) or {}
    if not isinstance(loaded, dict):
        raise FormatError(f"params: {str(params)!r}: got arrays without names; need names")
    names = set(network.list_inputs())
    plain = {re.sub("^(arg|aux):", "", name): array for name, array in loaded.items()}
    return Model(network, {name: array for name, array in plain.items() if name in names})


def _beside(model: Path) -> Path | None:
    prefix = model.name.removesuffix(".json").removesuffix("-symbol").removesuffix("symbol")
    pattern = re.compile(re.escape(prefix) + r"-?\d{4}\.params")
    found = sorted(path for path in model.parent.iterdir() if pattern.fullmatch(path.name))
    return found[-1] if found else None


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """Return shapes by name from `NAME=1,3,64,96`; a size may be a word, for one that varies.

    Raises
    ------
    click.BadParameter
        If a text is something else.
    """
    shapes = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        entries = [entry.strip() for entry in sizes.strip("()").split(",") if entry.strip()]
        words = all(re.fullmatch(r"[1-9]\d*|[A-Za-z_]\w*", entry) for entry in entries)
        if not name or not entries or not words:
            raise click.BadParameter(f"got {text!r}; need NAME=N,C,H,W", param_hint="--shape")
        shapes[name] = tuple(int(entry) if entry.isdigit() else entry for entry in entries)
    return shapes


def fixed_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return shapes of whole numbers."""
    shapes = {}
    for name, sizes in parse_shapes(texts).items():
        shapes[name] = tuple(size for size in sizes if isinstance(size, int))
        if len(shapes[name]) != len(sizes):
            raise click.BadParameter(
                f"got {name}={','.join(map(str, sizes))}; need whole numbers", param_hint="--shape"
            )
    return shapes


def parse_inputs(texts: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Return files by name of the input from `NAME=FILE`, or `FILE` for the only one.

    Raises
    ------
    click.BadParameter
        If there is no such input or file.
    """
    files = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            if len(names) != 1:
                raise click.BadParameter(
                    f"got {text!r}; the model has the inputs {', '.join(names)}; need NAME=FILE",
                    param_hint="--input",
                )
            name, path = names[0], text
        if name not in names:
            raise click.BadParameter(
                f"got {name}; the model has the inputs {', '.join(names) or 'none'}", param_hint="--input"
            )
        if not Path(path).is_file():
            raise click.BadParameter(f"{path}: no such file", param_hint="--input")
        files[name] = Path(path)
    return files


def progress(items: Sequence[T], label: str) -> AbstractContextManager[Iterable[T]]:
    """Return a context that yields the items, with a progress bar where somebody sees it and it is long work."""
    if len(items) < 2 or not sys.stderr.isatty():
        return nullcontext(items)
    return click.progressbar(items, label=label, file=sys.stderr)


def image_channels(model: Model, data: str) -> str:
    """Find out how a model sees a photograph: `rgb` or, with one channel, `luma`.

    Raises
    ------
    MXNetError
        If it takes neither.
    """
    error: MXNetError | None = None
    for name in ("rgb", "luma"):
        try:
            fitting_size(PictureNetwork(model.symbol, model.params, data, CHANNELS[name]), 64, 64)
        except MXNetError as refused:
            error = error or refused
        else:
            return name
    assert error is not None
    raise error


def read_arrays(name: str, path: Path) -> dict[str, Array]:
    """Return the array of a `.npy` file, or all of a `.npz` file, by name of the input.

    Raises
    ------
    FormatError
        If the file is damaged or something else.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {name: loaded}
        with loaded:
            found = {key.removeprefix("input:"): loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise FormatError(f"arrays {str(path)!r}: {error}") from None
    if name in found:
        return {name: found[name]}
    if len(found) == 1:
        return {name: next(iter(found.values()))}
    raise FormatError(f"arrays {str(path)!r}: got {', '.join(found)}; need {name}")
