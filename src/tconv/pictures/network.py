"""A network with a picture as its input, bound to every size it meets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, prod

from tconv.context import cpu
from tconv.errors import ParameterError, ShapeError
from tconv.geometry import Shape
from tconv.ndarray import NDArray, zeros
from tconv.operators.registry import Array
from tconv.pictures.reach import COLUMNS, ROWS, Reach, reach
from tconv.symbol import Executor, Symbol
from tconv.symbol.inference import Shapes
from tconv.symbol.node import Entry, walk

_FLOAT_BYTES = 4


def labels(symbol: Symbol) -> set[str]:
    """Return the inputs that only losses take, and that inference does not look at."""
    return {
        entry.node.name
        for node in walk(symbol.heads)
        if node.operator is not None and node.operator.head
        for entry in node.inputs[1:]
    }


def bound(symbol: Symbol, arrays: Mapping[str, NDArray]) -> Executor:
    """Bind a symbol for inference.

    Parameters
    ----------
    symbol : Symbol
        What to compute.
    arrays : mapping of str to NDArray
        Arguments and auxiliary states; labels may be missing.

    Raises
    ------
    ParameterError
        If anything else is missing.
    MXNetError
        If the arrays do not fit.
    """
    found = Shapes(symbol.heads, {name: one.shape for name, one in arrays.items()})
    given, known_labels = dict(arrays), labels(symbol)
    missing = []
    for node in (*found.arguments, *found.auxiliaries):
        if node.name in given:
            continue
        shape = found.of(Entry(node))
        if node.name not in known_labels or shape is None or None in shape:
            missing.append(node.name)
        else:
            given[node.name] = zeros(tuple(size or 0 for size in shape))
    if missing:
        raise ParameterError(f"{', '.join(missing)}: missing; need a value in the parameters or as input")
    states = {node.name: given[node.name] for node in found.auxiliaries}
    return symbol.bind(
        cpu(), {n: a for n, a in given.items() if n not in states}, grad_req="null", aux_states=states
    )


class PictureNetwork:
    """A network with one picture as its input, bound to every size it meets.

    Parameters
    ----------
    symbol : Symbol
        The network; its first output counts.
    params : mapping of str to NDArray
        Everything but the picture; inputs that only training needs may be missing.
    data : str
        The name of the input.
    channels : int
        Channels of the picture.
    """

    def __init__(self, symbol: Symbol, params: Mapping[str, NDArray], data: str, channels: int) -> None:
        self.symbol = symbol
        self._params = dict(params)
        self._data = data
        self._channels = channels
        self._bound: dict[Shape, Executor] = {}

    def shapes(self, height: int, width: int) -> Shapes:
        """Infer the shapes of everything for a picture of a size.

        Raises
        ------
        MXNetError
            If the network takes no picture of that size.
        """
        known: dict[str, tuple[int | None, ...] | None] = {n: one.shape for n, one in self._params.items()}
        known[self._data] = (1, self._channels, height, width)
        return Shapes(self.symbol.heads, known)

    def output_size(self, height: int, width: int) -> Shape:
        """Return height and width of the output for a picture of a size.

        Raises
        ------
        MXNetError
            If the network takes no such picture, or makes none of it.
        """
        return self._output_shape(height, width)[ROWS:]

    def output_channels(self, height: int, width: int) -> int:
        """Return the number of channels of the output for a picture of a size."""
        return self._output_shape(height, width)[1]

    def _output_shape(self, height: int, width: int) -> Shape:
        shape = self.shapes(height, width).of_heads()[0]
        if shape is None or len(shape) != 4 or None in shape:
            raise ShapeError(f"output: got shape {shape}; a picture needs 4 dimensions")
        return tuple(size or 0 for size in shape)

    def peak_bytes(self, height: int, width: int) -> int:
        """Return how much memory the arrays of a pass take at most, parameters not counted."""
        found = self.shapes(height, width)
        order = walk(self.symbol.heads)
        last = {entry._replace(version=0): place for place, node in enumerate(order) for entry in node.inputs}
        live: dict[Entry, int] = {}
        peak = 0
        for place, node in enumerate(order):
            if node.operator is not None or node.name == self._data:
                for output in range(len(node.output_names)):
                    shape = found.of(Entry(node, output)) or ()
                    live[Entry(node, output)] = _FLOAT_BYTES * prod(size or 0 for size in shape)
            peak = max(peak, sum(live.values()))
            live = {entry: size for entry, size in live.items() if last.get(entry, place) > place}
        return peak

    def reaches(self, height: int, width: int) -> tuple[Reach, Reach]:
        """Tell how far the network sees along rows and columns.

        Raises
        ------
        Unbounded
            If it may see all of the picture.
        """
        known: dict[str, tuple[int | None, ...] | None] = {n: one.shape for n, one in self._params.items()}
        known[self._data] = (1, self._channels, height, width)
        rows, columns = (reach(self.symbol.heads, self._data, known, axis) for axis in (ROWS, COLUMNS))
        size = tuple(-(-length // sees.step) * sees.step for length, sees in zip((height, width), (rows, columns)))
        made = self.output_size(*size)
        # Where a network trims its output, a tile needs more than it sees, to have an output at its end.
        rows, columns = (
            replace(sees, margin=max(sees.margin, ceil((sees.scale * length - out) / sees.scale)))
            for sees, length, out in zip((rows, columns), size, made)
        )
        return rows, columns

    def __call__(self, data: Array) -> Array:
        """Return the first output for an input (1, C, H, W), in memory that the next call overwrites."""
        return self.outputs(data)[0]

    def outputs(self, data: Array) -> list[Array]:
        """Return all outputs for an input (1, C, H, W), in memory that the next call overwrites."""
        executor = self._bound.get(data.shape)
        if executor is None:
            arrays = {**self._params, self._data: zeros(data.shape)}
            executor = self._bound[data.shape] = bound(self.symbol, arrays)
        return [output._data for output in executor.forward(is_train=False, **{self._data: data})]
