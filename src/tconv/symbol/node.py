"""Nodes of a graph: made, walked, copied, and turned into the records of a symbol JSON and back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from tconv.errors import FormatError, MXNetError, ParameterError, brief
from tconv.formats.symbol_json import HIDDEN_KEYS, VARIABLE, GraphRecord, NodeRecord
from tconv.operators.registry import Operator, find


class Node:
    """An operator applied to entries of other nodes, or a variable.

    Attributes
    ----------
    operator : Operator or None
        None for a variable.
    name : str
        Not necessarily unique.
    attrs : dict of str to str
        Parameters and attributes as they were spelt.
    params : Params
        The parameters parsed when the node was made; later changes of `attrs` do not reach them.
    inputs : list of Entry
        What the operator is applied to.
    changes : int
        How many operators change this variable in place.
    """

    __slots__ = ("attrs", "changes", "inputs", "name", "operator", "params")

    def __init__(
        self, operator: Operator | None, name: str, attrs: dict[str, str], params: Any = None, changes: int = 0
    ) -> None:
        self.operator = operator
        self.name = name
        self.attrs = attrs
        self.params = params
        self.inputs: list[Entry] = []
        self.changes = changes

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the operator calls its inputs."""
        assert self.operator is not None
        return self.operator.input_names(self.params, len(self.inputs))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Full names of all outputs, those a caller does not see included."""
        if self.operator is None:
            return (self.name,)
        return tuple(joined(self.name, name) for name in self.operator.output_names(self.params))

    @property
    def visible_outputs(self) -> int:
        """How many outputs a caller sees."""
        return 1 if self.operator is None else self.operator.visible_outputs(self.params)

    @property
    def changed_inputs(self) -> tuple[int, ...]:
        """Positions of the inputs that are auxiliary states."""
        if self.operator is None or not self.operator.aux:
            return ()
        return tuple(place for place, name in enumerate(self.input_names) if name in self.operator.aux)

    def connect(self, inputs: Iterable[Entry]) -> None:
        """Apply the operator to `inputs`, counting the changes of those it changes in place.

        Raises
        ------
        MXNetError
            If an auxiliary state is not a variable.
        """
        self.inputs = [entry._replace(version=entry.node.changes) for entry in inputs]
        for place in self.changed_inputs:
            variable = self.inputs[place].node
            if variable.operator is not None:
                raise MXNetError(
                    f"{self.name}: {self.input_names[place]}: got the output of {variable.name}; need a variable, "
                    "as training changes it"
                )
            variable.changes += 1
            self.inputs[place] = Entry(variable, 0, variable.changes)


class Entry(NamedTuple):
    """An output of a node, by number; `version` counts the changes made to a variable before this use."""

    node: Node
    output: int = 0
    version: int = 0

    @property
    def name(self) -> str:
        """The full name of the output."""
        return self.node.output_names[self.output]


def joined(name: str, part: str) -> str:
    """Return the name of a part of a node, of an input or output."""
    return f"{name}_{part}" if name else part


def is_hidden(key: str) -> bool:
    """Tell whether an attribute is the user's, and not a parameter."""
    return key.startswith("__") and key.endswith("__")


def parse_params(operator: Operator, attrs: Mapping[str, str], inputs: int) -> Any:
    """Return the parameters among the attributes of a node.

    Raises
    ------
    ParameterError
        If one is unknown, missing or does not parse. Operators without any let unknown ones pass, as in MXNet.
    """
    texts = {key: text for key, text in attrs.items() if not is_hidden(key)}
    if not operator.params.rows():
        texts = {}
    elif operator.count:
        texts.setdefault(operator.count, str(inputs))
    return operator.params.parse(texts)


def wanted_inputs(operator: Operator, params: Any) -> tuple[str, ...]:
    """Return the names of all inputs a node of these parameters needs."""
    return operator.input_names(params, getattr(params, operator.count) if operator.count else 0)


def walk(heads: Iterable[Entry]) -> list[Node]:
    """Return every node below `heads` once, inputs before their users, depth first."""
    order: list[Node] = []
    seen: set[Node] = set()
    for head in heads:
        if head.node in seen:
            continue
        seen.add(head.node)
        path = [(head.node, iter(head.node.inputs))]
        while path:
            node, rest = path[-1]
            for entry in rest:
                if entry.node not in seen:
                    seen.add(entry.node)
                    path.append((entry.node, iter(entry.node.inputs)))
                    break
            else:
                order.append(node)
                path.pop()
    return order


def variables(order: Iterable[Node]) -> tuple[list[Node], list[Node]]:
    """Return the variables among `order`: arguments, and auxiliary states."""
    nodes = list(order)
    changed = {node.inputs[place].node for node in nodes for place in node.changed_inputs}
    found = [node for node in nodes if node.operator is None]
    return [node for node in found if node not in changed], [node for node in found if node in changed]


def copied(heads: Iterable[Entry]) -> list[Entry]:
    """Return the same heads over a copy of the graph."""
    heads = list(heads)
    copies: dict[Node, Node] = {}
    for node in walk(heads):
        copy = Node(node.operator, node.name, dict(node.attrs), node.params, node.changes)
        copy.inputs = [entry._replace(node=copies[entry.node]) for entry in node.inputs]
        copies[node] = copy
    return [head._replace(node=copies[head.node]) for head in heads]


def without(operators: Collection[str], heads: Iterable[Entry]) -> list[Entry]:
    """Return the heads of a copy of the graph in which operators of one input are bypassed, except as heads."""

    def behind(entry: Entry) -> Entry:
        while entry.node.operator is not None and entry.node.operator.name in operators:
            (entry,) = entry.node.inputs
        return entry

    heads = copied(heads)
    for node in walk(heads):
        node.inputs = [behind(entry) for entry in node.inputs]
    return heads


def to_record(heads: Sequence[Entry]) -> GraphRecord:
    """Return the graph below `heads` as records."""
    order = walk(heads)
    places = {node: place for place, node in enumerate(order)}

    def numbers(entries: Iterable[Entry]) -> list[tuple[int, int, int]]:
        return [(places[entry.node], entry.output, entry.version) for entry in entries]

    records = [
        NodeRecord(
            node.operator.name if node.operator else VARIABLE, node.name, dict(node.attrs), numbers(node.inputs)
        )
        for node in order
    ]
    counts = (1 if node.operator is None else len(node.operator.output_names(node.params)) for node in order)
    return GraphRecord(records, numbers(heads), list(accumulate(counts, initial=0)))


def from_record(graph: GraphRecord) -> list[Entry]:
    """Return the heads of a graph given as records.

    Raises
    ------
    FormatError
        If an operator is unknown (all unknown ones are listed), or an entry does not exist.
    ParameterError
        If a parameter is unknown, missing or does not parse.
    """
    operators = {record.op: known_operator(record.op) for record in graph.nodes if not record.is_variable}
    missing = sorted(name for name, operator in operators.items() if operator is None)
    if missing:
        raise FormatError(
            f"symbol JSON: op: got {', '.join(map(brief, missing))}; no operator of this name is known"
        )
    nodes: list[Node] = []
    for record in graph.nodes:
        operator = operators.get(record.op)
        node = Node(operator, record.name, dict(record.attrs))
        node.inputs = _entries(f"node {brief(record.name)!r}", record.inputs, nodes)
        if operator is not None:
            node.params = _loaded_params(operator, record)
            names = wanted_inputs(operator, node.params)
            if len(names) != len(node.inputs):
                raise FormatError(
                    f"symbol JSON: node {brief(record.name)!r}: got {len(node.inputs)} inputs; "
                    f"{operator.name} needs {len(names)}: {', '.join(names)}"
                )
            for place in node.changed_inputs:
                if node.inputs[place].node.operator is not None:
                    raise FormatError(
                        f"symbol JSON: node {brief(record.name)!r}: {names[place]}: got the output of "
                        f"{node.inputs[place].node.name!r}; need a variable"
                    )
        nodes.append(node)
    return _entries("heads", graph.heads, nodes)


def known_operator(name: str) -> Operator | None:
    """Return the operator of that name, or None."""
    try:
        return find(name)
    except ParameterError:
        return None


def _loaded_params(operator: Operator, record: NodeRecord) -> Any:
    try:
        return parse_params(operator, record.attrs, len(record.inputs))
    except ParameterError as error:
        raise ParameterError(f"symbol JSON: node {brief(record.name)!r}: {error}") from None


def _entries(where: str, items: Iterable[tuple[int, int, int]], nodes: Sequence[Node]) -> list[Entry]:
    entries = [Entry(nodes[place], index, version) for place, index, version in items]
    for entry in entries:
        if entry.output >= len(entry.node.output_names):
            raise FormatError(
                f"symbol JSON: {where}: got output {entry.output} of {entry.node.name!r}, "
                f"which has {len(entry.node.output_names)}"
            )
    return entries


def loaded_input_names(op: str, attrs: Mapping[str, str]) -> Sequence[str] | None:
    """Return the inputs that a node read from a file needs, or None where that cannot be told."""
    operator = known_operator(op)
    if operator is None or operator.count:
        return None
    plain = {key: text for key, text in attrs.items() if not key.endswith(HIDDEN_KEYS)}
    try:
        return wanted_inputs(operator, parse_params(operator, plain, 0))
    except ParameterError:
        return None


def loaded_input_attrs(op: str, attrs: Mapping[str, str], place: int) -> Mapping[str, str]:
    """Return the attributes that the variable at an input of a node read from a file has by default."""
    operator, names = known_operator(op), loaded_input_names(op, attrs)
    if operator is None or names is None or place >= len(names) or names[place] not in operator.initial:
        return {}
    return {"__init__": operator.initial[names[place]]}
