"""Shapes and types over a whole graph, in both directions, from what is known of its variables."""

from __future__ import annotations

import operator as python_operator
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from tconv.dtypes import DType, from_code
from tconv.errors import DTypeError, MXNetError, OutOfMemoryError, ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.ndarray.ndarray import supported
from tconv.operators.registry import infer_dtypes, infer_shapes, merge
from tconv.params import INT, SHAPE
from tconv.symbol.node import Entry, Node, variables, walk

T = TypeVar("T")
Found = list["T | None"]
Rule = Callable[[Node, Sequence[Any], Sequence[Any]], tuple[Sequence[Any], Sequence[Any]]]

_LISTED_UNKNOWNS = 10


class Inference(Generic[T]):
    """What is known of every entry of a graph.

    Parameters
    ----------
    heads : iterable of Entry
        The graph.
    known : mapping of str to T
        What is known of variables, by name; None and absent ones are unknown.

    Raises
    ------
    MXNetError
        If what is known does not fit together. The message begins with `Error in operator NAME: `.
    """

    def __init__(self, heads: Iterable[Entry], known: Mapping[str, T | None]) -> None:
        self.heads = list(heads)
        self.order = walk(self.heads)
        self.arguments, self.auxiliaries = variables(self.order)
        self._found: dict[Node, Found[T]] = {}
        for node in self.order:
            if node.operator is None:
                self._found[node] = [self.declared(node, known.get(node.name))]
            else:
                self._found[node] = [None] * len(node.output_names)
        self._settle()

    def declared(self, variable: Node, given: T | None) -> T | None:
        """Return what is known of a variable before any operator is asked."""
        raise NotImplementedError

    def rule(
        self, node: Node, inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Return what a node tells of its inputs and outputs, given what is known of them."""
        raise NotImplementedError

    def join(self, node: Node, known: T | None, other: T | None) -> T | None:
        """Return what two findings about one entry tell together."""
        raise NotImplementedError

    def is_whole(self, found: T | None) -> bool:
        """Tell whether nothing is missing from a finding."""
        return found is not None

    def of(self, entry: Entry) -> T | None:
        """Return what is known of an entry."""
        return self._found[entry.node][entry.output]

    def entries(self) -> Iterator[Entry]:
        """Yield every entry of the graph."""
        return (Entry(node, output) for node in self.order for output in range(len(self._found[node])))

    def of_variables(self, nodes: Iterable[Node]) -> Found[T]:
        """Return what is known of some variables."""
        return [self._found[node][0] for node in nodes]

    def of_heads(self) -> Found[T]:
        """Return what is known of the heads."""
        return [self.of(head) for head in self.heads]

    @property
    def complete(self) -> bool:
        """Whether every entry of the graph is known."""
        return all(self.is_whole(value) for values in self._found.values() for value in values)

    def unknown_variables(self) -> list[Node]:
        """Return the variables of which something is unknown."""
        return [node for node in (*self.arguments, *self.auxiliaries) if not self.is_whole(self._found[node][0])]

    def _settle(self) -> None:
        users: dict[Node, list[Node]] = {node: [] for node in self.order}
        for node in self.order:
            for entry in node.inputs:
                users[entry.node].append(node)
        waiting = deque(node for node in self.order if node.operator is not None)
        listed = set(waiting)
        while waiting:
            node = waiting.popleft()
            listed.discard(node)
            touched = self._apply(node)
            for other in touched:
                for user in (other, *users[other]):
                    if user.operator is not None and user is not node and user not in listed:
                        listed.add(user)
                        waiting.append(user)

    def _apply(self, node: Node) -> list[Node]:
        """Ask one node, and return the nodes of which more is known now."""
        inputs = [self.of(entry) for entry in node.inputs]
        outputs = self._found[node]
        places = [(entry.node, entry.output) for entry in node.inputs]
        places += [(node, index) for index in range(len(outputs))]
        touched = []
        try:
            told_in, told_out = self.rule(node, inputs, outputs)
            for (source, index), told in zip(places, (*told_in, *told_out)):
                known = self._found[source][index]
                joint = self.join(node, known, told)
                # NumPy calls float64 equal to None.
                if (joint is None) != (known is None) or joint != known:
                    self._found[source][index] = joint
                    touched.append(source)
        except MXNetError as error:
            raise in_operator(node.name, error) from error
        return touched


class Shapes(Inference[tuple["int | None", ...]]):
    """The shape of every entry of a graph; an unknown size is None."""

    def declared(self, variable: Node, given: PartialShape) -> PartialShape:
        """Return the shape given, its unknown sizes taken from `__shape__`."""
        text = variable.attrs.get("__shape__")
        if text is None or self.is_whole(given):
            return given
        try:
            noted = to_inner(SHAPE.read(text), variable.name)
        except ValueError:
            raise ShapeError(f"variable {variable.name}: __shape__: got {text!r}; need a shape") from None
        if given is None or noted is None or len(given) != len(noted):
            return noted if noted is not None else given
        return tuple(other if size is None else size for size, other in zip(given, noted))

    def rule(
        self, node: Node, inputs: Sequence[PartialShape], outputs: Sequence[PartialShape]
    ) -> tuple[Sequence[PartialShape], Sequence[PartialShape]]:
        """Apply the shape rule of the operator."""
        assert node.operator is not None
        return infer_shapes(node.operator, node.params, inputs, outputs)

    def join(self, node: Node, known: PartialShape, other: PartialShape) -> PartialShape:
        """Merge two shapes."""
        return merge(node.name, known, other)

    def is_whole(self, found: PartialShape) -> bool:
        """Tell whether every size is known."""
        return found is not None and None not in found


class DTypes(Inference[DType]):
    """The element type of every entry of a graph."""

    def declared(self, variable: Node, given: DType | None) -> DType | None:
        """Return the type given, or that of `__dtype__`."""
        text = variable.attrs.get("__dtype__")
        if text is None or given is not None:
            return given
        try:
            code = INT.read(text)
        except ValueError:
            raise DTypeError(f"variable {variable.name}: __dtype__: got {text!r}; need a number") from None
        return None if code == -1 else from_code(code)

    def rule(
        self, node: Node, inputs: Sequence[DType | None], outputs: Sequence[DType | None]
    ) -> tuple[Sequence[DType | None], Sequence[DType | None]]:
        """Apply the type rule of the operator."""
        assert node.operator is not None
        return infer_dtypes(node.operator, node.params, inputs, outputs)

    def join(self, node: Node, known: DType | None, other: DType | None) -> DType | None:
        """Merge two types."""
        if known is not None and other is not None and known != other:
            raise DTypeError(f"{node.name}: got {known} and {other} for one input; need one type")
        return other if known is None else known


def in_operator(name: str, error: MXNetError | MemoryError) -> MXNetError:
    """Return an error of the same class, or ours for it, that says in which operator of a graph it happened."""
    kind = type(error) if isinstance(error, MXNetError) else OutOfMemoryError
    return kind(f"Error in operator {name}: {error}")


def to_inner(shape: Any, where: str) -> PartialShape:
    """Translate a shape of MXNet, where 0 and -1 are unknown sizes and () is an unknown rank.

    Raises
    ------
    ShapeError
        If a size is below -1 or beyond 64 bits.
    DTypeError
        If a size is no whole number.
    """
    if shape is None or len(shape) == 0:
        return None
    sizes: list[int | None] = []
    for entry in shape:
        try:
            size = python_operator.index(entry)
        except TypeError:
            raise DTypeError(f"{where}: got shape {shape}; its sizes must be whole numbers") from None
        if not -1 <= size < 2**63:
            raise ShapeError(f"{where}: got shape {shape}; each size must be from -1 to 2**63 - 1")
        sizes.append(size if size > 0 else None)
    return tuple(sizes)


def to_outer(shape: PartialShape) -> Shape:
    """Translate a shape into MXNet's words: 0 for an unknown size, () for an unknown rank."""
    return () if shape is None else tuple(0 if size is None else size for size in shape)


def by_name(heads: Iterable[Entry], what: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Give positional values the names of arguments, and check the names of keyword ones.

    Raises
    ------
    ValueError
        If there are positional and keyword values.
    MXNetError
        If there are too many, or of a name that no variable has.
    """
    if args and kwargs:
        raise ValueError(f"{what}: got values by position and by name; need one or the other")
    arguments, auxiliaries = variables(walk(heads))
    if len(args) > len(arguments):
        raise MXNetError(f"{what}: got {len(args)} values by position; there are {len(arguments)} arguments")
    names = [node.name for node in (*arguments, *auxiliaries)]
    unknown = [name for name in kwargs if name not in set(names)]
    if unknown:
        raise MXNetError(f"{what}: got {', '.join(unknown)}; the inputs are {', '.join(names) or 'none'}")
    return {**kwargs, **dict(zip(names, args))}


def infer_shape(
    heads: Sequence[Entry], partial: bool, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Shape] | None, list[Shape] | None, list[Shape] | None]:
    """Do `Symbol.infer_shape` and, with `partial`, `Symbol.infer_shape_partial`."""
    given = by_name(heads, "infer_shape", args, kwargs)
    for name, shape in given.items():
        if not isinstance(shape, tuple) and not (shape is None and args):
            raise TypeError(f"infer_shape: {name}: got {type(shape).__name__}; need a tuple")
    known = {name: to_inner(shape, f"infer_shape: {name}") for name, shape in given.items()}
    try:
        found = Shapes(heads, known)
    except MXNetError as error:
        raise MXNetError(str(error)) from error
    if not partial and not found.complete:
        _warn_unknown(
            "shape",
            " (a 0 stands for an unknown size)",
            [(node.name, to_outer(found.of(Entry(node)))) for node in found.unknown_variables()],
        )
        return None, None, None
    parts = (found.of_variables(found.arguments), found.of_heads(), found.of_variables(found.auxiliaries))
    arguments, outputs, auxiliaries = ([to_outer(shape) for shape in shapes] for shapes in parts)
    return arguments, outputs, auxiliaries


def infer_type(
    heads: Sequence[Entry], partial: bool, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any] | None, list[Any] | None, list[Any] | None]:
    """Do `Symbol.infer_type` and, with `partial`, `Symbol.infer_type_partial`."""
    given = by_name(heads, "infer_type", args, kwargs)
    known = {
        name: None if value is None else supported(value, f"infer_type: {name}") for name, value in given.items()
    }
    try:
        found = DTypes(heads, known)
    except MXNetError as error:
        raise MXNetError(str(error)) from error
    if not partial and not found.complete:
        _warn_unknown("type", "", [(node.name, None) for node in found.unknown_variables()])
        return None, None, None
    parts = (found.of_variables(found.arguments), found.of_heads(), found.of_variables(found.auxiliaries))
    arguments, outputs, auxiliaries = (
        [None if dtype is None else dtype.type for dtype in dtypes] for dtypes in parts
    )
    return arguments, outputs, auxiliaries


def _warn_unknown(what: str, remark: str, unknown: Sequence[tuple[str, Any]]) -> None:
    lines = [f"{name}: {value}" for name, value in unknown[:_LISTED_UNKNOWNS]]
    if len(unknown) > _LISTED_UNKNOWNS:
        lines.append("...")
    warnings.warn(
        f"The {what} of these inputs cannot be told{remark}; give more of them:\n\t" + "\n\t".join(lines),
        UserWarning,
        stacklevel=4,
    )
