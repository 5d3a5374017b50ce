"""MXNet's `-symbol.json` files: reading every version, writing what MXNet 1.9.1 writes."""

from __future__ import annotations

import json
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, NoReturn

import numpy as np

from tconv.errors import DTypeError, FormatError
from tconv.formats.files import Path, reading, replacing

VERSION = 10901
VARIABLE = "null"

# What a file is taken for that does not say.
_OLDEST_VERSION = 800
HIDDEN_KEYS = ("ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage")
_NODE_FIELDS = {
    "op",
    "name",
    "param",
    "attr",
    "attrs",
    "inputs",
    "backward_source_id",
    "control_deps",
    "subgraphs",
}
_GRAPH_FIELDS = {"nodes", "arg_nodes", "node_row_ptr", "heads", "attrs"}
_INT_KINDS = ("int", "size_t")
_OTHER_KINDS = ("str", "list_int", "list_str")
_MAX_DEPTH = 64
_MAX_DIGITS = 20
_MAX_INT = 2**32 - 1
_WRAP_ABOVE = 10

# An unterminated string swallows the rest, so that no quote is looked at twice.
_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})

Entry = tuple[int, int, int]
InputNames = Callable[[str, Mapping[str, str]], "Sequence[str] | None"]
InputAttrs = Callable[[str, Mapping[str, str], int], Mapping[str, str]]


@dataclass(slots=True)
class NodeRecord:
    """One node: an operator applied to outputs of other nodes, or a variable (`op` is ``"null"``).

    Attributes
    ----------
    op : str
        Operator name, ``"null"`` for a variable.
    name : str
        Node name; need not be unique.
    attrs : dict of str to str
        Parameters and attributes in their original spelling.
    inputs : list of (node, output, version)
        Index of a node, which of its outputs, and how often an operator changes the entry in place before this use.
    """

    op: str
    name: str
    attrs: dict[str, str] = field(default_factory=dict)
    inputs: list[Entry] = field(default_factory=list)

    @property
    def is_variable(self) -> bool:
        """Whether the node is a variable."""
        return self.op == VARIABLE


@dataclass(slots=True)
class GraphRecord:
    """A graph as a symbol JSON holds it; inputs of a node come before it.

    Attributes
    ----------
    nodes : list of NodeRecord
        In an order in which they can be computed.
    heads : list of (node, output, version)
        The outputs of the symbol.
    node_row_ptr : list of int
        Running count of the outputs of the nodes, starting at 0. Empty if parsed from a file that has none, or
        whose nodes had to be added to or put in order.
    attrs : dict of str to int
        Facts about the whole: ``mxnet_version``, ``is_np_shape``.
    """

    nodes: list[NodeRecord]
    heads: list[Entry]
    node_row_ptr: list[int] = field(default_factory=list)
    attrs: dict[str, int] = field(default_factory=lambda: {"mxnet_version": VERSION})

    @property
    def arg_nodes(self) -> list[int]:
        """Indices of the variables."""
        return [index for index, node in enumerate(self.nodes) if node.is_variable]


def load(
    path: Path, *, input_names: InputNames | None = None, input_attrs: InputAttrs | None = None
) -> GraphRecord:
    """Read a symbol JSON file; `parse` of its content.

    Raises
    ------
    FormatError
        If the file is missing or unreadable, or for what `parse` refuses.
    """
    with reading(path, "symbol JSON file") as (file, _):
        content = file.read()
    return parse(content, input_names=input_names, input_attrs=input_attrs)


def save(path: Path, graph: GraphRecord) -> None:
    """Write a symbol JSON file; a file of that name is replaced once the new one is whole.

    Raises
    ------
    MXNetError
        If the file cannot be written.
    FormatError
        If a name or an attribute is no text that UTF-8 can hold.
    """
    try:
        content = render(graph).encode()
    except UnicodeEncodeError as error:
        _refuse("names", error.object[error.start : error.end], "text that UTF-8 can hold")
    with replacing(path, "symbol JSON file") as file:
        file.write(content)


def parse(
    source: str | bytes, *, input_names: InputNames | None = None, input_attrs: InputAttrs | None = None
) -> GraphRecord:
    """Read a symbol JSON of any MXNet version, and upgrade it to version 1.9.1 as MXNet does.

    Parameters
    ----------
    source : str or bytes
        The JSON text.
    input_names : callable, optional
        ``input_names(op, attrs)`` gives the names of all inputs an operator takes, auxiliary ones included, or
        None. Old files need it: up to version 0.8 auxiliary variables were not written, and attributes such as
        ``weight_lr_mult`` of a node belong to its input ``weight``.
    input_attrs : callable, optional
        ``input_attrs(op, attrs, index)`` gives the attributes (initializers) that the variable at input `index`
        has unless it says otherwise; files before version 0.9.4 lack them.

    Returns
    -------
    GraphRecord
        Its ``attrs["mxnet_version"]`` is the file's version, if it says.

    Raises
    ------
    FormatError
        If the text is not JSON or not a graph; the message says where.
    DTypeError
        If `source` is neither text nor bytes.

    Examples
    --------
    >>> from tconv.formats import symbol_json
    >>> graph = symbol_json.parse('''{
    ...     "nodes": [{"op": "null", "name": "x", "inputs": []},
    ...               {"op": "relu", "name": "y", "inputs": [[0, 0]], "attr": {"ctx_group": "a"}}],
    ...     "arg_nodes": [0], "heads": [[1, 0]]}''')
    >>> graph.nodes[1]
    NodeRecord(op='relu', name='y', attrs={'__ctx_group__': 'a'}, inputs=[(0, 0, 0)])
    >>> graph.arg_nodes, graph.heads
    ([0], [(1, 0, 0)])
    """
    graph = _graph(_decode(source))
    count = len(graph.nodes)
    moved = _put_in_order(graph)
    _upgrade(graph, input_names, input_attrs)
    if moved or len(graph.nodes) != count:
        graph.node_row_ptr = []
    return graph


def render(graph: GraphRecord) -> str:
    r"""Return the JSON text of a graph, character for character as MXNet 1.9.1 writes it.

    The one difference: quotes, backslashes and line ends in the names of attributes are escaped, where MXNet writes
    text that it cannot read.

    Examples
    --------
    >>> from tconv.formats.symbol_json import GraphRecord, NodeRecord, render
    >>> print(render(GraphRecord([NodeRecord("null", "x")], [(0, 0, 0)], [0, 1])).replace(" \n", "\n"))
    {
      "nodes": [
        {
          "op": "null",
          "name": "x",
          "inputs": []
        }
      ],
      "arg_nodes": [0],
      "node_row_ptr": [0, 1],
      "heads": [[0, 0, 0]],
      "attrs": {"mxnet_version": ["int", 10901]}
    }
    """
    fields = {
        "nodes": _list([_node_text(node) for node in graph.nodes], 1, wrap=True),
        "arg_nodes": _list(map(str, graph.arg_nodes), 1),
        "node_row_ptr": _list(map(str, graph.node_row_ptr), 1),
        "heads": _list(map(_entry_text, graph.heads), 1),
    }
    if graph.attrs:
        fields["attrs"] = _map({key: f'["int", {graph.attrs[key]}]' for key in sorted(graph.attrs)}, 1)
    return _map(fields, 0)


def _node_text(node: NodeRecord) -> str:
    fields = {"op": _quoted(node.op), "name": _quoted(node.name)}
    if node.attrs:
        fields["attrs"] = _map({key: _quoted(node.attrs[key]) for key in sorted(node.attrs)}, 3)
    fields["inputs"] = _list(map(_entry_text, node.inputs), 3)
    return _map(fields, 2)


def _entry_text(entry: Entry) -> str:
    return f"[{entry[0]}, {entry[1]}, {entry[2]}]"


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'


def _map(items: Mapping[str, str], depth: int) -> str:
    return _enclosed("{}", [f"{_quoted(key)}: {value}" for key, value in items.items()], depth, len(items) > 1)


def _list(items: Iterable[str], depth: int, wrap: bool = False) -> str:
    texts = list(items)
    return _enclosed("[]", texts, depth, bool(texts) and (wrap or len(texts) > _WRAP_ABOVE))


def _enclosed(ends: str, texts: Sequence[str], depth: int, wrap: bool) -> str:
    if not wrap:
        return ends[0] + ", ".join(texts) + ends[1]
    margin = "\n" + "  " * depth
    return ends[0] + margin + "  " + f", {margin}  ".join(texts) + margin + ends[1]


def _refuse(where: str, got: object, need: str) -> NoReturn:
    got_text = got if isinstance(got, _Words) else _SHORT.repr(got)
    raise FormatError(f"symbol JSON: {where}: got {got_text}; need {need}")


class _Words(str):
    """Text of a message that is not a quotation."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def _decode(source: str | bytes) -> Any:
    if isinstance(source, (bytes, bytearray)):
        try:
            text = source.decode()
        except UnicodeDecodeError as error:
            _refuse(f"byte {error.start}", source[error.start : error.start + 20], "UTF-8")
    elif isinstance(source, str):
        text = source
    else:
        raise DTypeError(f"symbol JSON: got {type(source).__name__}; need text or bytes")
    steps = _STEPS[_outside_strings(text)]
    depth = int(np.cumsum(steps[steps != 0], dtype=np.int64).max(initial=0))
    if depth > _MAX_DEPTH:
        _refuse("brackets", _Words(f"{depth} within each other"), f"at most {_MAX_DEPTH}")
    try:
        return _DECODER.decode(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        _refuse(where, text[error.pos : error.pos + 20], f"JSON ({error.msg})")


def _outside_strings(text: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(_STRINGS.sub("", text).encode(errors="replace"), np.uint8)


def _whole_number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        _refuse("a number", digits, f"at most {_MAX_DIGITS} digits")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    _refuse("a number", _Words(name), "a whole number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        _refuse(
            f"key {_SHORT.repr(max(counts, key=counts.__getitem__))}", _Words("it repeatedly"), "every key once"
        )
    return found


# MXNet writes control characters as they are, which only a lax reader takes.
_DECODER = json.JSONDecoder(
    strict=False, parse_int=_whole_number, parse_constant=_no_constant, object_pairs_hook=_no_duplicates
)


def _graph(data: Any) -> GraphRecord:
    if not isinstance(data, dict):
        _refuse("content", data, "an object with nodes, arg_nodes and heads")
    _check_fields("content", data, _GRAPH_FIELDS, ("nodes", "arg_nodes", "heads"))
    items = _list_of("nodes", data["nodes"])
    if not items:
        _refuse("nodes", items, "at least one")
    nodes = [_node(f"node {index}", item, len(items)) for index, item in enumerate(items)]
    heads = _entries("heads", data["heads"], len(nodes))
    if not heads:
        _refuse("heads", data["heads"], "at least one")
    for index, node in enumerate(nodes):
        _check_outputs(f"node {index} {_SHORT.repr(node.name)}: inputs", node.inputs, nodes)
    _check_outputs("heads", heads, nodes)
    for number in _list_of("arg_nodes", data["arg_nodes"]):
        if not nodes[_integer("arg_nodes", number, len(nodes) - 1)].is_variable:
            _refuse("arg_nodes", number, "the index of a variable")
    row_ptr = [_integer("node_row_ptr", n) for n in _list_of("node_row_ptr", data.get("node_row_ptr", []))]
    return GraphRecord(nodes, heads, row_ptr, _graph_attrs(data.get("attrs", {})))


def _node(where: str, item: Any, count: int) -> NodeRecord:
    if not isinstance(item, dict):
        _refuse(where, item, "an object with op, name and inputs")
    if "name" in item:
        where += f" {_SHORT.repr(item['name'])}"
    _check_fields(where, item, _NODE_FIELDS, ("op", "name", "inputs"))
    if _list_of(f"{where}: subgraphs", item.get("subgraphs", [])):
        _refuse(where, _Words("subgraphs (control flow)"), "a node without")
    # They only order side effects, and no operator here has any.
    for index in _list_of(f"{where}: control_deps", item.get("control_deps", [])):
        _integer(f"{where}: control_deps", index, count - 1)
    attrs: dict[str, str] = {}
    for key in ("param", "attrs", "attr"):
        attrs |= _texts(f"{where}: {key}", item.get(key, {}))
    op = _text(f"{where}: op", item["op"])
    inputs = _entries(f"{where}: inputs", item["inputs"], count)
    if op == VARIABLE and inputs:
        _refuse(f"{where}: inputs", item["inputs"], "none, as it is a variable")
    return NodeRecord(op, _text(f"{where}: name", item["name"]), attrs, inputs)


def _entries(where: str, items: Any, count: int) -> list[Entry]:
    return [_entry(where, item, count) for item in _list_of(where, items)]


def _entry(where: str, item: Any, count: int) -> Entry:
    if not isinstance(item, list) or len(item) not in (2, 3):
        _refuse(where, item, "[node, output] or [node, output, version]")
    node = _integer(where, item[0], count - 1)
    return node, _integer(where, item[1]), _integer(where, item[2]) if len(item) == 3 else 0


def _check_outputs(where: str, entries: Iterable[Entry], nodes: Sequence[NodeRecord]) -> None:
    for node, output, _ in entries:
        if output and nodes[node].is_variable:
            _refuse(where, _Words(f"output {output} of variable {nodes[node].name!r}"), "output 0")


def _graph_attrs(data: Any) -> dict[str, int]:
    if not isinstance(data, dict):
        _refuse("attrs", data, "an object")
    attrs = {}
    for key, item in data.items():
        where = f"attrs: {_SHORT.repr(key)}"
        if not isinstance(item, list) or len(item) != 2 or item[0] not in _INT_KINDS + _OTHER_KINDS:
            _refuse(where, item, f"a pair of one of {', '.join(_INT_KINDS + _OTHER_KINDS)} and a value")
        if item[0] in _INT_KINDS:
            attrs[_text(where, key)] = _integer(where, item[1])
        elif key == "mxnet_version":
            _refuse(where, item, '["int", number]')
    return attrs


def _check_fields(where: str, item: Mapping[str, Any], known: set[str], required: Iterable[str]) -> None:
    for key in item:
        if key not in known:
            _refuse(f"{where}: key", key, f"one of {', '.join(sorted(known))}")
    for key in required:
        if key not in item:
            _refuse(f"{where}: {key}", _Words("nothing"), "this key")


def _list_of(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        _refuse(where, value, "a list")
    return value


def _texts(where: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        _refuse(where, value, "an object of texts")
    return {_text(where, key): _text(f"{where}: {_SHORT.repr(key)}", item) for key, item in value.items()}


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        _refuse(where, value, "text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            _refuse(where, value, "text that UTF-8 can hold")
    return value


def _integer(where: str, value: Any, highest: int = _MAX_INT) -> int:
    if type(value) is not int or not 0 <= value <= highest:
        _refuse(
            where, value, f"a whole number from 0 to {highest}" if highest >= 0 else "no node, as there is none"
        )
    return value


def _put_in_order(graph: GraphRecord) -> bool:
    """Bring inputs before the nodes that use them; tell whether anything moved."""
    if all(entry[0] < index for index, node in enumerate(graph.nodes) for entry in node.inputs):
        return False
    sources = {index: [entry[0] for entry in node.inputs] for index, node in enumerate(graph.nodes)}
    try:
        order = list(TopologicalSorter(sources).static_order())
    except CycleError as error:
        index = error.args[1][0]
        where = f"node {index} {_SHORT.repr(graph.nodes[index].name)}: inputs"
        _refuse(where, _Words("a cycle that leads back to the node"), "nodes that do not depend on it")
    places = {old: new for new, old in enumerate(order)}
    graph.nodes = [graph.nodes[index] for index in order]
    _renumber(graph, places)
    return True


def _renumber(graph: GraphRecord, places: Mapping[int, int]) -> None:
    for node in graph.nodes:
        node.inputs = [(places[index], output, version) for index, output, version in node.inputs]
    graph.heads = [(places[index], output, version) for index, output, version in graph.heads]


def _upgrade(graph: GraphRecord, input_names: InputNames | None, input_attrs: InputAttrs | None) -> None:
    version = graph.attrs.get("mxnet_version", _OLDEST_VERSION)
    if version < VERSION:
        for node in graph.nodes:
            _hide_keys(graph, node, input_names)
    if version < 900 and input_names:
        _add_missing_inputs(graph, input_names)
    if version < 904 and input_attrs:
        for node in graph.nodes:
            for position, (source, _, _) in enumerate(node.inputs):
                variable = graph.nodes[source]
                if variable.is_variable:
                    variable.attrs = {**input_attrs(node.op, node.attrs, position), **variable.attrs}
    if version < 905:
        for node in graph.nodes:
            # -1 stood for all axes.
            if node.op in ("argmin", "argmax") and node.attrs.get("axis") == "-1":
                del node.attrs["axis"]


def _hide_keys(graph: GraphRecord, node: NodeRecord, input_names: InputNames | None) -> None:
    """Turn ``lr_mult`` into ``__lr_mult__``, and ``weight_lr_mult`` into that of the variable ``weight``."""
    found = [(key, hidden) for key in node.attrs for hidden in HIDDEN_KEYS if key.endswith(hidden)]
    values = {key: node.attrs.pop(key) for key, _ in found}
    for key, hidden in found:
        owner = node
        if key != hidden:
            variable = _variable_at(graph, node, key[: -len(hidden) - 1], input_names)
            if variable is None:
                node.attrs[key] = values[key]
                continue
            owner = variable
        owner.attrs[f"__{hidden}__"] = values[key]


def _variable_at(
    graph: GraphRecord, node: NodeRecord, name: str, input_names: InputNames | None
) -> NodeRecord | None:
    names = () if node.is_variable or not input_names else input_names(node.op, node.attrs) or ()
    if name not in names or names.index(name) >= len(node.inputs):
        return None
    source = graph.nodes[node.inputs[names.index(name)][0]]
    return source if source.is_variable else None


def _add_missing_inputs(graph: GraphRecord, input_names: InputNames) -> None:
    nodes: list[NodeRecord] = []
    places: dict[int, int] = {}
    added: list[tuple[NodeRecord, list[Entry]]] = []
    for index, node in enumerate(graph.nodes):
        names = () if node.is_variable else input_names(node.op, node.attrs) or ()
        missing = names[len(node.inputs) :]
        if missing:
            added.append((node, [(len(nodes) + offset, 0, 0) for offset in range(len(missing))]))
        nodes += [
            NodeRecord(VARIABLE, f"{node.name}_{name}" if node.name else name, dict(node.attrs)) for name in missing
        ]
        places[index] = len(nodes)
        nodes.append(node)
    _renumber(graph, places)
    graph.nodes = nodes
    for node, entries in added:
        node.inputs += entries
