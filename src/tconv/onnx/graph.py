"""An ONNX graph while it is built: nodes and constants under unique names, known to no ONNX library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tconv.dtypes import DType
from tconv.errors import MXNetError
from tconv.geometry import PartialShape
from tconv.operators.registry import Array

LAST = 2**63 - 1
"""The end of an axis of any size, in a slice."""


class ExportError(MXNetError, ValueError):
    """A graph, or a part of it, that ONNX has no words for."""


@dataclass
class OnnxNode:
    """One call of an ONNX operator, by names of its inputs and outputs."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


@dataclass
class OnnxValue:
    """An input or output of the graph; an entry of the shape is a size, or the name of one."""

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: DType


@dataclass
class Graph:
    """A graph.

    Attributes
    ----------
    nodes : list of OnnxNode
        In the order of computation.
    constants : dict of str to ndarray
        Parameters and other constants.
    inputs, outputs : list of OnnxValue
        What goes in and comes out.
    """

    nodes: list[OnnxNode] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    inputs: list[OnnxValue] = field(default_factory=list)
    outputs: list[OnnxValue] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _same: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def unique(self, name: str) -> str:
        """Return `name`, with a number behind it if it is taken."""
        found, number = name, 0
        while found in self._names or not found:
            number += 1
            found = f"{name}_{number}"
        self._names.add(found)
        return found

    def constant(self, value: Array, name: str) -> str:
        """Return the name of a constant; small ones of the same value are one."""
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size <= 64 else (id(value), value.shape)
        if key not in self._same:
            self._same[key] = self.unique(name)
            self.constants[self._same[key]] = value
        return self._same[key]

    def prune(self) -> None:
        """Drop nodes, constants and inputs that nothing needs."""
        needed = {value.name for value in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        self.inputs = [value for value in self.inputs if value.name in needed]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}


@dataclass
class Site:
    """Where one operator of a symbol becomes nodes of ONNX.

    Attributes
    ----------
    graph : Graph
        What the nodes go to.
    operator, name : str
        The operator, and the name of its node.
    params : Params
        Its parameters.
    inputs : list of str
        Names of its inputs.
    shapes, out_shapes : sequence of PartialShape
        Shapes of inputs and outputs; a size is None where it is to vary.
    dtypes, out_dtypes : sequence of dtype
        Their types.
    """

    graph: Graph
    operator: str
    name: str
    params: Any
    inputs: list[str]
    shapes: Sequence[PartialShape]
    out_shapes: Sequence[PartialShape]
    dtypes: Sequence[DType]
    out_dtypes: Sequence[DType]

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output, and return the output's name."""
        return self.add_many(op, 1, *inputs, **attributes)[0]

    def add_many(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node of several outputs, and return their names."""
        outputs = [self.graph.unique(f"{self.name or self.operator}.{op}") for _ in range(count)]
        given = {key: value for key, value in attributes.items() if value is not None}
        self.graph.nodes.append(OnnxNode(op, list(inputs), outputs, given))
        return outputs

    def constant(self, value: Any, dtype: Any) -> str:
        """Return the name of a constant of a type."""
        return self.graph.constant(np.asarray(value, dtype), f"{self.name or self.operator}.constant")

    def number(self, value: float | Array) -> str:
        """Return the name of a number, or an array, of the type of the first input."""
        return self.constant(value, self.dtypes[0])

    def integers(self, values: Iterable[int]) -> str:
        """Return the name of a vector of whole numbers."""
        return self.constant(list(values), np.int64)

    def value_of(self, name: str) -> Array | None:
        """Return the value of a name, if it is a constant."""
        return self.graph.constants.get(name)

    def rank(self, place: int = 0) -> int:
        """Return the number of axes of an input."""
        shape = self.shapes[place]
        if shape is None:
            raise self.refusal("data", "a shape of unknown rank", "a known one")
        return len(shape)

    def size(self, place: int, axis: int) -> int:
        """Return a size of an input that must not vary."""
        shape = self.shapes[place]
        size = None if shape is None else shape[axis]
        if size is None:
            raise self.refusal("data", f"a size that varies on axis {axis}", "a fixed one there")
        return size

    def sizes(self, entries: Sequence[int | str]) -> str:
        """Return the name of a shape, of whole numbers and names of vectors of one."""
        if all(isinstance(entry, int) for entry in entries):
            return self.integers(entry for entry in entries if isinstance(entry, int))
        parts = [entry if isinstance(entry, str) else self.integers([entry]) for entry in entries]
        return self.add("Concat", *parts, axis=0)

    def size_of(self, name: str, place: int, axis: int) -> int | str:
        """Return a size of an input: the number where it is fixed, or the name of a vector that holds it."""
        shape = self.shapes[place]
        size = None if shape is None else shape[axis]
        return self.add("Shape", name, start=axis, end=axis + 1) if size is None else size

    def shape_of(self, place: int = 0) -> str:
        """Return the name of the shape of an input."""
        return self.sizes([self.size_of(self.inputs[place], place, axis) for axis in range(self.rank(place))])

    def cast(self, name: str, dtype: Any) -> str:
        """Return the name of a value in another type."""
        return self.add("Cast", name, to=np.dtype(dtype))

    def transpose(self, name: str, order: Sequence[int]) -> str:
        """Return the name of a value with its axes in another order."""
        if list(order) == sorted(order):
            return name
        value = self.value_of(name)
        if value is not None:
            return self.graph.constant(np.ascontiguousarray(value.transpose(order)), f"{name}.transposed")
        return self.add("Transpose", name, perm=list(order))

    def reshape(self, name: str, shape: Sequence[int | str]) -> str:
        """Return the name of a value in another shape, in which -1 is what remains and 0 keeps a size."""
        value, fixed = self.value_of(name), [size for size in shape if isinstance(size, int)]
        if value is not None and len(fixed) == len(shape):
            sizes = [value.shape[place] if size == 0 else size for place, size in enumerate(fixed)]
            return self.graph.constant(value.reshape(sizes), f"{name}.reshaped")
        return self.add("Reshape", name, self.sizes(shape))

    def slices(self, name: str, axes: Sequence[int], starts: str, ends: str, steps: Sequence[int] = ()) -> str:
        """Return the name of a part of a value."""
        last = [self.integers(steps)] if any(step != 1 for step in steps) else []
        return self.add("Slice", name, starts, ends, self.integers(axes), *last)

    def refusal(self, what: str, got: object, need: str) -> ExportError:
        """Return the error that something of this node cannot be written."""
        return ExportError(f"onnx: {self.operator} {self.name!r}: {what}: got {got}; need {need}")


Converter = Callable[[Site], "str | list[str]"]
CONVERTERS: dict[str, Converter] = {}


def converts(*operators: str) -> Callable[[Converter], Converter]:
    """Enter a function as the converter of some operators.

    It returns the name of the output, or of the first outputs; an input may be returned as it is.
    """

    def enter(converter: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(operators, converter))
        return converter

    return enter
