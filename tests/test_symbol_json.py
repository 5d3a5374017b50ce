"""Reading and writing symbol JSON: every version, MXNet's upgrades and exact text, damaged and hostile files."""

from __future__ import annotations

import copy
import json
import random
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tconv.errors import DTypeError, FormatError, MXNetError
from tconv.formats import symbol_json
from tconv.formats.symbol_json import GraphRecord, NodeRecord, parse, render

GOLDEN = Path(__file__).parent / "golden"
BN_INPUTS = ("data", "gamma", "beta", "moving_mean", "moving_var")


def input_names(op: str, attrs: Mapping[str, str]) -> Sequence[str] | None:
    return {"Deconvolution": ("data", "weight"), "BatchNorm": BN_INPUTS}.get(op)


def input_attrs(op: str, attrs: Mapping[str, str], index: int) -> Mapping[str, str]:
    defaults = {3: '["zero", {}]', 4: '["one", {}]'}
    return {"__init__": defaults[index]} if op == "BatchNorm" and index in defaults else {}


def node(op: str, name: str, inputs: Sequence[Sequence[int]] = (), **fields: Any) -> dict[str, Any]:
    return {"op": op, "name": name, "inputs": [list(entry) for entry in inputs], **fields}


def document(nodes: list[Any], heads: Any, version: int | None = None, **fields: Any) -> dict[str, Any]:
    variables = [index for index, item in enumerate(nodes) if isinstance(item, dict) and item.get("op") == "null"]
    found = {"nodes": nodes, "arg_nodes": variables, "heads": heads, **fields}
    if version is not None:
        found["attrs"] = {"mxnet_version": ["int", version]}
    return found


def upsampling(**fields: Any) -> list[Any]:
    attrs = {"kernel": "(2,)", "num_filter": "3"}
    return [
        node("null", "x"),
        node("null", "w"),
        node("Deconvolution", "up", [(0, 0), (1, 0)], attrs=attrs, **fields),
    ]


def flat(graph: GraphRecord) -> list[tuple[str, str, dict[str, str], list[tuple[int, int, int]]]]:
    return [(n.op, n.name, n.attrs, n.inputs) for n in graph.nodes]


def test_golden_file_of_1_9_1_is_written_alike() -> None:
    content = (GOLDEN / "mxnet_1.9.1-symbol.json").read_bytes()
    graph = parse(content)
    assert render(graph).encode() == content
    assert graph.attrs == {"mxnet_version": 10901}
    assert graph.nodes[3].attrs["__note__"] == 'a "quote", a \\ and\n\té重'
    assert graph.nodes[8].inputs == [(3, 0, 0), (4, 0, 0), (5, 0, 0), (6, 0, 1), (7, 0, 1)]
    assert graph.arg_nodes == [0, 1, 2, 4, 5, 6, 7]


def test_golden_file_of_0_10() -> None:
    graph = symbol_json.load(GOLDEN / "mxnet_0.10-symbol.json", input_names=input_names, input_attrs=input_attrs)
    assert flat(graph) == [
        ("null", "data", {}, []),
        ("null", "up_weight", {"__lr_mult__": "2.0", "kernel": "(4, 4)"}, []),
        (
            "Deconvolution",
            "up",
            {"__mirror_stage__": "1", "kernel": "(4, 4)", "num_filter": "2"},
            [(0, 0, 0), (1, 0, 0)],
        ),
        ("argmax", "best", {"axis": "-1"}, [(2, 0, 0)]),
    ]
    assert graph.node_row_ptr == [0, 1, 2, 3, 4]
    assert graph.attrs == {"mxnet_version": 1001}


def test_golden_file_of_0_8() -> None:
    graph = symbol_json.load(GOLDEN / "mxnet_0.8-symbol.json", input_names=input_names, input_attrs=input_attrs)
    up = {"__ctx_group__": "dev1", "kernel": "(4,4)", "no_bias": "True", "num_filter": "2", "stride": "(2,2)"}
    assert flat(graph) == [
        ("null", "data", {}, []),
        ("null", "up_weight", {"__lr_mult__": "2.0", "__wd_mult__": "0.5"}, []),
        ("Deconvolution", "up", up, [(0, 0, 0), (1, 0, 0)]),
        ("null", "bn_gamma", {}, []),
        ("null", "bn_beta", {}, []),
        ("null", "bn_moving_mean", {"__init__": '["zero", {}]', "eps": "0.001"}, []),
        ("null", "bn_moving_var", {"__init__": '["one", {}]', "eps": "0.001"}, []),
        ("BatchNorm", "bn", {"eps": "0.001"}, [(2, 0, 0), (3, 0, 0), (4, 0, 0), (5, 0, 0), (6, 0, 0)]),
    ]
    assert graph.heads == [(7, 0, 0)]
    assert graph.node_row_ptr == []
    assert graph.attrs == {}


def test_old_files_load_without_knowing_operators() -> None:
    graph = symbol_json.load(GOLDEN / "mxnet_0.8-symbol.json")
    assert graph.nodes[2].attrs["weight_wd_mult"] == "0.5"
    assert len(graph.nodes[5].inputs) == 3


@pytest.mark.parametrize(
    ("version", "upgraded"),
    [(None, True), (800, True), (1001, True), (10800, True), (10901, False), (20000, False)],
)
def test_hidden_keys_are_upgraded_before_1_9_1(version: int | None, upgraded: bool) -> None:
    nodes = upsampling()
    nodes[1]["attrs"] = {"__lr_mult__": "7", "lr_mult": "8"}
    nodes[2]["attrs"] |= {"weight_lr_mult": "3", "data_wd_mult": "4", "force_mirroring": "6", "x_wd_mult": "1"}
    graph = parse(json.dumps(document(nodes, [[2, 0]], version)), input_names=input_names)
    found = [n.attrs for n in graph.nodes]
    if upgraded:
        assert found[0] == {"__wd_mult__": "4"}
        assert found[1] == {"__lr_mult__": "3"}
        assert found[2] == {"kernel": "(2,)", "num_filter": "3", "__force_mirroring__": "6", "x_wd_mult": "1"}
    else:
        assert found == [n.get("attrs", {}) for n in nodes]


def test_keys_that_only_resemble_hidden_ones_stay() -> None:
    attrs = {"_lr_mult": "3", "lr_mult_x": "4", "weight_lr_mult": "1", "__lr_mult__": "2"}
    graph = parse(json.dumps(document([node("null", "x", attr=attrs)], [[0, 0]])), input_names=input_names)
    assert graph.nodes[0].attrs == attrs


def test_hidden_key_of_an_input_that_is_computed_stays_with_the_operator() -> None:
    nodes = [*upsampling()[:2], node("relu", "r", [(1, 0)]), node("Deconvolution", "up", [(0, 0), (2, 0)])]
    nodes[3]["attr"] = {"weight_lr_mult": "3"}
    graph = parse(json.dumps(document(nodes, [[3, 0]])), input_names=input_names)
    assert graph.nodes[3].attrs == {"weight_lr_mult": "3"}


@pytest.mark.parametrize(("version", "added"), [(None, True), (899, True), (900, False)])
def test_missing_inputs_are_added_up_to_0_8(version: int | None, added: bool) -> None:
    nodes = upsampling()
    nodes[2]["inputs"] = [[0, 0]]
    nodes[2]["attrs"] = {"lr_mult": "2"}
    nodes.append(node("Deconvolution", "", [(2, 0)]))
    graph = parse(json.dumps(document(nodes, [[3, 0], [2, 0]], version)), input_names=input_names)
    if added:
        assert [n.name for n in graph.nodes] == ["x", "w", "up_weight", "up", "weight", ""]
        assert graph.nodes[2].attrs == graph.nodes[3].attrs == {"__lr_mult__": "2"}
        assert graph.nodes[2].attrs is not graph.nodes[3].attrs
        assert graph.nodes[3].inputs == [(0, 0, 0), (2, 0, 0)]
        assert graph.nodes[5].inputs == [(3, 0, 0), (4, 0, 0)]
        assert graph.heads == [(5, 0, 0), (3, 0, 0)]
    else:
        assert graph.nodes[2].inputs == [(0, 0, 0)]


@pytest.mark.parametrize(("version", "given"), [(903, True), (904, False)])
def test_initializers_are_given_before_0_9_4(version: int, given: bool) -> None:
    nodes = [node("null", name) for name in BN_INPUTS]
    nodes[4]["attr"] = {"__init__": "own"}
    nodes.append(node("BatchNorm", "bn", [(index, 0) for index in range(5)]))
    graph = parse(json.dumps(document(nodes, [[5, 0]], version)), input_attrs=input_attrs)
    assert graph.nodes[3].attrs == ({"__init__": '["zero", {}]'} if given else {})
    assert graph.nodes[4].attrs == {"__init__": "own"}


@pytest.mark.parametrize(
    ("version", "axis", "left"),
    [(None, "-1", {}), (904, "-1", {}), (905, "-1", {"axis": "-1"}), (904, "1", {"axis": "1"})],
)
def test_axis_minus_1_meant_all_axes_before_0_9_5(version: int | None, axis: str, left: dict[str, str]) -> None:
    nodes = [node("null", "x"), node("argmax", "a", [(0, 0)], attr={"axis": axis})]
    assert parse(json.dumps(document(nodes, [[1, 0]], version))).nodes[1].attrs == left


def test_param_attr_and_attrs_are_merged() -> None:
    fields = {"param": {"a": "1", "b": "1"}, "attrs": {"b": "2", "c": "2"}, "attr": {"c": "3"}}
    graph = parse(json.dumps(document([node("null", "x", **fields)], [[0, 0]])))
    assert graph.nodes[0].attrs == {"a": "1", "b": "2", "c": "3"}


def test_inputs_listed_after_their_use_are_put_before_it() -> None:
    nodes = [
        node("relu", "c", [(1, 0)]),
        node("relu", "b", [(2, 1)]),
        node("Cut", "a", [(3, 0)]),
        node("null", "x"),
    ]
    graph = parse(json.dumps(document(nodes, [[0, 0], [2, 1]], node_row_ptr=[0, 1, 2, 4, 5])))
    assert flat(graph) == [
        ("null", "x", {}, []),
        ("Cut", "a", {}, [(0, 0, 0)]),
        ("relu", "b", {}, [(1, 1, 0)]),
        ("relu", "c", {}, [(2, 0, 0)]),
    ]
    assert graph.heads == [(3, 0, 0), (1, 1, 0)]
    assert graph.node_row_ptr == []


def test_long_chain_in_the_wrong_order() -> None:
    nodes = [node("relu", f"r{index}", [(index + 1, 0)]) for index in range(20000)]
    graph = parse(json.dumps(document([*nodes, node("null", "x")], [[0, 0]])))
    assert [n.name for n in graph.nodes[:3]] == ["x", "r19999", "r19998"]


def test_control_dependencies_and_empty_subgraphs_are_dropped() -> None:
    graph = parse(json.dumps(document(upsampling(control_deps=[0], subgraphs=[]), [[2, 0]])))
    assert flat(graph)[2][3] == [(0, 0, 0), (1, 0, 0)]


def test_graph_attributes_of_other_kinds_are_dropped() -> None:
    text = json.dumps(document(upsampling(), [[2, 0]]) | {"attrs": {"is_np_shape": ["int", 1], "x": ["str", "y"]}})
    assert parse(text).attrs == {"is_np_shape": 1}


def test_byte_order_mark_and_raw_control_characters_are_read() -> None:
    text = json.dumps(document([node("null", "x\ty")], [[0, 0]])).replace("\\t", "\t\x01")
    assert parse(b"\xef\xbb\xbf" + text.encode()).nodes[0].name == "x\t\x01y"


NODES = st.builds(
    NodeRecord,
    st.text(min_size=1).filter(lambda op: op != "null"),
    st.text(),
    st.dictionaries(st.text(), st.text(), max_size=3),
)


@st.composite
def graphs(draw: st.DrawFn) -> GraphRecord:
    number = st.integers(0, 2**32 - 1)
    nodes = [NodeRecord("null", draw(st.text()), draw(st.dictionaries(st.text(), st.text(), max_size=3)))]
    for index in range(1, draw(st.integers(1, 6))):
        entry = st.integers(0, index - 1).flatmap(
            lambda source: st.tuples(st.just(source), number if source else st.just(0), number)
        )
        found = draw(NODES)
        found.inputs = draw(st.lists(entry, max_size=13))
        nodes.append(found)
    heads = draw(st.lists(st.tuples(st.integers(0, len(nodes) - 1), st.just(0), number), min_size=1, max_size=12))
    row_ptr = draw(st.lists(number, max_size=12))
    return GraphRecord(nodes, heads, row_ptr, {**draw(st.dictionaries(st.text(), number)), "mxnet_version": 10901})


@given(graphs())
def test_round_trip(graph: GraphRecord) -> None:
    text = render(graph)
    assert parse(text) == graph
    assert parse(text.encode()) == graph
    assert render(parse(text)) == text


@pytest.mark.parametrize("count", [0, 1, 10, 11])
def test_lists_wrap_above_ten(count: int) -> None:
    text = render(GraphRecord([NodeRecord("null", "x")], [(0, 0, 0)] * count, list(range(count))))
    inner = (
        ("\n    " + ", \n    ".join(map(str, range(count))) + "\n  ")
        if count > 10
        else ", ".join(map(str, range(count)))
    )
    assert f'  "node_row_ptr": [{inner}], \n' in text


def test_attribute_names_are_escaped() -> None:
    graph = GraphRecord([NodeRecord("null", "x", {'__a"\n\\__': "1"})], [(0, 0, 0)])
    assert '"attrs": {"__a\\"\\n\\\\__": "1"}' in render(graph)
    assert parse(render(graph)) == graph


def test_save_and_load(tmp_path: Path) -> None:
    graph = parse((GOLDEN / "mxnet_1.9.1-symbol.json").read_bytes())
    path = tmp_path / "up-symbol.json"
    symbol_json.save(path, graph)
    assert symbol_json.load(path) == graph
    with pytest.raises(FormatError, match=r"symbol JSON: names: got '.ud800'; need text that UTF-8 can hold"):
        symbol_json.save(path, GraphRecord([NodeRecord("null", "\ud800")], [(0, 0, 0)]))
    assert symbol_json.load(path) == graph
    with pytest.raises(FormatError, match=r"symbol JSON file '.*': got No such file or directory"):
        symbol_json.load(tmp_path / "absent")
    with pytest.raises(MXNetError, match=r"symbol JSON file '.*': got No such file or directory; need a place"):
        symbol_json.save(tmp_path / "absent" / "x", graph)


GOOD = document(upsampling(), [[2, 0]], 10901, node_row_ptr=[0, 1, 2, 3])


def changed(value: Any, *path: Any) -> str:
    found = copy.deepcopy(GOOD)
    inner: Any = found
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(found)


def without(*path: Any) -> str:
    found = copy.deepcopy(GOOD)
    inner: Any = found
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return json.dumps(found)


TEXT = json.dumps(GOOD)
UP = r"symbol JSON: node 2 'up'"
REFUSED = [
    ("", r"symbol JSON: line 1, column 1: got ''; need JSON \(Expecting value\)"),
    ("not json", r"line 1, column 1: got 'not json'; need JSON"),
    (TEXT[:-5], r"need JSON"),
    (TEXT + "{}", r"got '\{\}'; need JSON \(Extra data\)"),
    (b"\xff\xfe", r"symbol JSON: byte 0: got .*; need UTF-8"),
    ("[]", r"symbol JSON: content: got \[\]; need an object with nodes, arg_nodes and heads"),
    ("3", r"content: got 3"),
    ("null", r"content: got None"),
    (without("nodes"), r"symbol JSON: content: nodes: got nothing; need this key"),
    (without("heads"), r"content: heads: got nothing"),
    (without("arg_nodes"), r"content: arg_nodes: got nothing"),
    (changed(1, "extra"), r"content: key: got 'extra'; need one of arg_nodes, attrs, heads, node_row_ptr, nodes"),
    (changed({}, "nodes"), r"symbol JSON: nodes: got \{\}; need a list"),
    (changed([], "nodes"), r"symbol JSON: nodes: got \[\]; need at least one"),
    (changed([], "nodes", 2), r"symbol JSON: node 2: got \[\]; need an object with op, name and inputs"),
    (without("nodes", 2, "op"), rf"{UP}: op: got nothing; need this key"),
    (without("nodes", 2, "name"), r"symbol JSON: node 2: name: got nothing"),
    (without("nodes", 2, "inputs"), rf"{UP}: inputs: got nothing"),
    (changed("1", "nodes", 2, "extra"), rf"{UP}: key: got 'extra'; need one of"),
    (changed([1], "nodes", 2, "subgraphs"), rf"{UP}: got subgraphs \(control flow\); need a node without"),
    (changed([7], "nodes", 2, "control_deps"), rf"{UP}: control_deps: got 7; need a whole number from 0 to 2"),
    (changed(3, "nodes", 2, "op"), rf"{UP}: op: got 3; need text"),
    (changed(3, "nodes", 2, "name"), r"symbol JSON: node 2 3: name: got 3; need text"),
    (changed("\ud800", "nodes", 2, "name"), r"name: got '.ud800'; need text that UTF-8 can hold"),
    (changed([], "nodes", 2, "attrs"), rf"{UP}: attrs: got \[\]; need an object of texts"),
    (changed(3, "nodes", 2, "attrs", "num_filter"), rf"{UP}: attrs: 'num_filter': got 3; need text"),
    (changed("\udfff", "nodes", 2, "attrs", "x"), rf"{UP}: attrs: 'x': got '.udfff'"),
    (changed("a", "nodes", 2, "attrs", "\udfff"), rf"{UP}: attrs: got '.udfff'"),
    (changed("0", "nodes", 2, "inputs"), rf"{UP}: inputs: got '0'; need a list"),
    (changed([[0]], "nodes", 2, "inputs"), rf"{UP}: inputs: got \[0\]; need \[node, output\] or"),
    (changed([[0, 0, 0, 0]], "nodes", 2, "inputs"), rf"{UP}: inputs: got \[0, 0, 0, 0\]"),
    (changed([0], "nodes", 2, "inputs"), rf"{UP}: inputs: got 0; need \[node"),
    (changed([[3, 0]], "nodes", 2, "inputs"), rf"{UP}: inputs: got 3; need a whole number from 0 to 2"),
    (changed([[-1, 0]], "nodes", 2, "inputs"), rf"{UP}: inputs: got -1"),
    (changed([[0, -1]], "nodes", 2, "inputs"), rf"{UP}: inputs: got -1; need a whole number from 0 to 4294967295"),
    (changed([[0, 2**32]], "nodes", 2, "inputs"), rf"{UP}: inputs: got 4294967296"),
    (changed([[0, 0, "1"]], "nodes", 2, "inputs"), rf"{UP}: inputs: got '1'"),
    (changed([[0, 0.0]], "nodes", 2, "inputs"), rf"{UP}: inputs: got 0.0"),
    (changed([[True, 0]], "nodes", 2, "inputs"), rf"{UP}: inputs: got True"),
    (changed([[0, 1]], "nodes", 2, "inputs"), rf"{UP}: inputs: got output 1 of variable 'x'; need output 0"),
    (changed([[2, 0]], "nodes", 2, "inputs"), rf"{UP}: inputs: got a cycle that leads back to the node"),
    (
        changed([[1, 0]], "nodes", 0, "inputs"),
        r"node 0 'x': inputs: got \[\[1, 0\]\]; need none, as it is a variable",
    ),
    (changed([], "heads"), r"symbol JSON: heads: got \[\]; need at least one"),
    (changed([[3, 0]], "heads"), r"symbol JSON: heads: got 3; need a whole number from 0 to 2"),
    (changed([[0, 1]], "heads"), r"heads: got output 1 of variable 'x'"),
    (changed([2], "arg_nodes"), r"symbol JSON: arg_nodes: got 2; need the index of a variable"),
    (changed([9], "arg_nodes"), r"arg_nodes: got 9"),
    (changed([-1], "node_row_ptr"), r"symbol JSON: node_row_ptr: got -1"),
    (changed([], "attrs"), r"symbol JSON: attrs: got \[\]; need an object"),
    (
        changed(["str", "1"], "attrs", "mxnet_version"),
        r"attrs: 'mxnet_version': got \['str', '1'\]; need \[\"int\", number\]",
    ),
    (changed(["int", "1"], "attrs", "mxnet_version"), r"attrs: 'mxnet_version': got '1'"),
    (changed(["float", 1], "attrs", "x"), r"attrs: 'x': got \['float', 1\]; need a pair of one of int"),
    (changed([["int"], 1], "attrs", "x"), r"attrs: 'x': got"),
    (TEXT.replace("10901", "NaN"), r"symbol JSON: a number: got NaN; need a whole number"),
    (TEXT.replace("10901", "-Infinity"), r"got -Infinity"),
    (TEXT.replace("10901", "1e999"), r"attrs: 'mxnet_version': got inf"),
    (TEXT.replace("10901", "9" * 5000), r"a number: got '9.*9'; need at most 20 digits"),
    (
        TEXT.replace('"name": "up"', '"name": "up", "name": "down"'),
        r"key 'name': got it repeatedly; need every key once",
    ),
    ("[" * 10**6, r"symbol JSON: brackets: got 1000000 within each other; need at most 64"),
    ('{"a":' * 10**5, r"brackets: got 100000 within"),
    ('["]]]]",' * 10**5, r"brackets: got 100000 within"),
    ('"' + '\\"' * 10**6, r"need JSON \(Unterminated string"),
    ('"' * (10**6 + 1), r"need JSON"),
]


@pytest.mark.parametrize(("source", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refused_in_a_sentence(source: str | bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        parse(source, input_names=input_names, input_attrs=input_attrs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_other_objects_are_refused() -> None:
    with pytest.raises(DTypeError, match=r"symbol JSON: got dict; need text or bytes"):
        parse({})  # type: ignore[arg-type]


def test_many_repeated_keys_are_found_in_one_pass() -> None:
    pairs = ", ".join(f'"k{index}": "v"' for index in range(200000))
    with pytest.raises(FormatError, match=r"key 'k0': got it repeatedly"):
        parse(f'{{{pairs}, "k0": "v"}}')


@pytest.mark.parametrize("file", ["mxnet_1.9.1", "mxnet_0.10", "mxnet_0.8"])
def test_mutated_files_load_or_are_refused(file: str) -> None:
    original = (GOLDEN / f"{file}-symbol.json").read_bytes()
    rng = random.Random(file)
    messages: list[str] = []
    loaded = 0
    tracemalloc.start()
    try:
        for _ in range(300):
            content = bytearray(original)
            for _ in range(rng.randint(1, 2)):
                content[rng.randrange(len(content))] = rng.choice(
                    (*b'"[]{},:0123456789-.\\en \n', rng.randrange(256))
                )
            if rng.random() < 0.1:
                del content[rng.randrange(len(content)) :]
            try:
                graph = parse(bytes(content), input_names=input_names, input_attrs=input_attrs)
            except FormatError as error:
                messages.append(str(error))
            else:
                assert all(entry[0] < index for index, n in enumerate(graph.nodes) for entry in n.inputs)
                graph.attrs["mxnet_version"] = symbol_json.VERSION
                assert parse(render(graph)) == graph
                loaded += 1
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert messages
    assert loaded
    assert not any("\n" in message for message in messages)


def test_megabytes_are_read_and_written() -> None:
    count = 5000
    nodes = [NodeRecord("null", "x")]
    nodes += [NodeRecord("relu", f"r{index}", {"a": "(2, 2)", "b": "é"}, [(index, 0, 0)]) for index in range(count)]
    graph = GraphRecord(nodes, [(count, 0, 0)], list(range(count + 2)))
    assert parse(render(graph)) == graph
