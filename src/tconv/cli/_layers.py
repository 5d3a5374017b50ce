"""The layers of a model as a table: shapes, parameters, multiply-adds, and time."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from tconv.geometry import PartialShape
from tconv.ndarray import NDArray
from tconv.pictures.network import bound
from tconv.symbol import Symbol
from tconv.symbol.inference import Shapes
from tconv.symbol.node import Entry, Node


@dataclass(frozen=True)
class Layer:
    """One operator of a model.

    Attributes
    ----------
    name, operator : str
        The node and its operator.
    shape : tuple of int or None
        Shape of its first output, as far as it is known.
    params : int or None
        How many parameters it has; None where that is not known.
    multiply_adds : int or None
        Of convolutions and products of matrices; None where they are not known.
    """

    name: str
    operator: str
    shape: PartialShape
    params: int | None
    multiply_adds: int | None


def _elements(shape: PartialShape) -> int | None:
    return None if shape is None or None in shape else prod(size or 0 for size in shape)


def _multiply_adds(node: Node, inputs: list[PartialShape], output: PartialShape) -> int | None:
    """Return how many multiply-adds a node takes, None where its shapes are not known; 0 for what has none."""
    assert node.operator is not None
    kind = node.operator.name
    if kind in ("Convolution", "Deconvolution"):
        # Every element of the side with a window of its own meets the maps of its group at every tap.
        elements = _elements(output if kind == "Convolution" else inputs[0])
        weight = inputs[1]
        taps = None if weight is None else _elements(weight[1:])
        return None if elements is None or taps is None else elements * taps
    if kind == "FullyConnected":
        elements, connected = _elements(output), inputs[1]
        return None if elements is None or connected is None or connected[1] is None else elements * connected[1]
    if kind in ("dot", "batch_dot", "_linalg_gemm2"):
        elements, left = _elements(output), inputs[0]
        if elements is None or left is None:
            return None
        inner = left[-2 if node.params.transpose_a and len(left) > 1 else -1]
        return None if inner is None else elements * inner
    return 0


def layers(found: Shapes, inputs: Collection[str]) -> list[Layer]:
    """Return the operators of a graph in the order of computation.

    Parameters
    ----------
    found : Shapes
        The graph, with what is known of its shapes.
    inputs : collection of str
        Variables that are no parameters. A parameter counts where it is used first.
    """
    counted = set(inputs)
    table = []
    for node in found.order:
        if node.operator is None:
            continue
        shapes = [found.of(entry) for entry in node.inputs]
        own: list[int | None] = [0]
        for entry, shape in zip(node.inputs, shapes):
            if entry.node.operator is None and entry.node.name not in counted:
                counted.add(entry.node.name)
                own.append(_elements(shape))
        output = found.of(Entry(node))
        work = _multiply_adds(node, shapes, output)
        table.append(Layer(node.name, node.operator.name, output, total(own), work))
    return table


def total(numbers: Iterable[int | None]) -> int | None:
    """Return the sum, None if one of them is not known."""
    summed = 0
    for number in numbers:
        if number is None:
            return None
        summed += number
    return summed


def layer_seconds(symbol: Symbol, arrays: Mapping[str, NDArray], runs: int = 5) -> list[float]:
    """Return the least time every operator took in several runs, in the order of computation, in seconds."""
    executor = bound(symbol, arrays)
    nodes = [node for node in Shapes(symbol.heads, {}).order if node.operator is not None]
    ends: list[float] = []
    executor.set_monitor_callback(lambda name, array: ends.append(time.perf_counter()))
    outputs = np.array([len(node.output_names) for node in nodes])
    least = np.full(len(nodes), np.inf)
    for _ in range(runs):
        ends.clear()
        started = time.perf_counter()
        executor.forward()
        last = np.array(ends)[np.cumsum(outputs) - 1]
        least = np.minimum(least, np.diff(last, prepend=started))
    return [float(seconds) for seconds in least]
