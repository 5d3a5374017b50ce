"""Spellings of operator parameters: what is read, as what, and what is refused when."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tconv.errors import MXNetError, ParameterError, ShapeError
from tconv.geometry import Window, infer_deconvolution
from tconv.params import (
    BOOL,
    FLOAT,
    INT,
    UINT32,
    UINT64,
    ChoiceText,
    ConvolutionParams,
    DeconvolutionParams,
    OrNone,
    ShapeText,
    per_axis,
    to_text,
    workspace_bytes,
)

REQUIRED = {"kernel": (3, 3), "num_filter": 2}


def deconvolution(**params: Any) -> DeconvolutionParams:
    """Parse parameters given as objects, as an array or symbol function does."""
    texts = {name: to_text(value) for name, value in {**REQUIRED, **params}.items()}
    parsed: DeconvolutionParams = DeconvolutionParams.parse(texts)
    return parsed


SHAPES = [
    ("(2,3)", (2, 3)),
    ("[2,3]", (2, 3)),
    (" ( 2 , 3 ) ", (2, 3)),
    ("\t[2,\n3]\r", (2, 3)),
    ("(2,3,)", (2, 3)),
    ("[2,3, ]", (2, 3)),
    ("(+2,3)", (2, 3)),
    ("(002,3)", (2, 3)),
    ("(2L,3L)", (2, 3)),
    ("(2 L,3 L )", (2, 3)),
    ("(-2,3)", (-2, 3)),
    ("3", (3,)),
    ("-3", (-3,)),
    (" 3", (3,)),
    ("3 ", (3,)),
    ("003", (3,)),
    ("(3)", (3,)),
    ("(3,)", (3,)),
    ("[3]", (3,)),
    ("()", ()),
    ("[ ]", ()),
    ("None", None),
    ("(9223372036854775807,)", (2**63 - 1,)),
    ("(-9223372036854775808,)", (-(2**63),)),
]


@pytest.mark.parametrize(("text", "shape"), SHAPES)
def test_shape_text(text: str, shape: tuple[int, ...] | None) -> None:
    assert ShapeText().read(text) == shape


NOT_SHAPES = [
    "3,3",
    "(3 3)",
    "(3,,3)",
    "(,)",
    "(,3)",
    "(3,,)",
    "3L",
    "+3",
    "3.0",
    "(3.0,3)",
    "(3,1e2)",
    "{3,3}",
    "",
    " ",
    "(3,3)x",
    "(3,3)(3)",
    "(3",
    "3)",
    "(3]",
    "[3)",
    "((3,3))",
    "(3,(3))",
    "(- 3)",
    "(--3)",
    "(LL)",
    "(3LL)",
    "(3l)",
    "0x3",
    "(0x3)",
    "(1_0)",
    "1_0",
    "none",
    "(None,3)",
    "(True,3)",
    "(9223372036854775808,)",
    "9223372036854775808",
    "(" + "9" * 5000 + ")",
    "(" + "1," * 10000 + ")",
    "(\uff13,3)",
    "\u00b3",
    "\u00a03",
    "(3\u00a0,3)",
    "(3,3)\x00",
    "array([3, 3])",
]


@pytest.mark.parametrize("text", NOT_SHAPES, ids=lambda text: repr(text[:20]))
def test_not_a_shape_text(text: str) -> None:
    with pytest.raises(ParameterError, match=r"^Deconvolution: kernel: got .*; need Shape\(tuple\)$") as caught:
        deconvolution(kernel=text)
    assert len(str(caught.value)) < 200


INTEGERS = [("4", 4), (" 4", 4), ("4 ", 4), ("\t4\n", 4), ("+4", 4), ("004", 4), ("0", 0), ("-0", 0), ("-4", -4)]


@pytest.mark.parametrize(("text", "number"), INTEGERS)
def test_integer_text(text: str, number: int) -> None:
    for grammar in (INT, UINT32, UINT64):
        assert grammar.read(text) == number


NOT_INTEGERS = [
    "4.0",
    "4e0",
    "0x4",
    "4L",
    "True",
    "None",
    "",
    " ",
    "+ 4",
    "++4",
    "4 4",
    "4,",
    "(4)",
    "4_0",
    "\uff14",
]


@pytest.mark.parametrize("text", [*NOT_INTEGERS, "9" * 5000])
def test_not_an_integer_text(text: str) -> None:
    for name in ("num_filter", "num_group", "workspace"):
        with pytest.raises(
            ParameterError, match=rf"^Deconvolution: {name}: got .*; need (int|long) \(non-negative\)$"
        ):
            deconvolution(**{name: text})


RANGES = [(INT, -(2**31), 2**31 - 1), (UINT32, -(2**32) + 1, 2**32 - 1), (UINT64, -(2**64) + 1, 2**64 - 1)]


@pytest.mark.parametrize(("grammar", "low", "high"), RANGES)
def test_range_of_integers(grammar: Any, low: int, high: int) -> None:
    assert grammar.read(str(low)) == low
    assert grammar.read(str(high)) == high
    for beyond in (low - 1, high + 1):
        with pytest.raises(ValueError, match=str(beyond)):
            grammar.read(str(beyond))


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "tRuE", "1"])
def test_true(text: str) -> None:
    assert BOOL.read(text) is True


@pytest.mark.parametrize("text", ["false", "False", "FALSE", "fAlSe", "0"])
def test_false(text: str) -> None:
    assert BOOL.read(text) is False


@pytest.mark.parametrize(
    "text", ["2", "1.0", "yes", "01", "None", " true", "true ", " 1", "1 ", "", "t", "-1", "+1"]
)
def test_not_a_boolean_text(text: str) -> None:
    for name in ("no_bias", "cudnn_off"):
        with pytest.raises(ParameterError, match=rf"^Deconvolution: {name}: got .*; need boolean$"):
            deconvolution(**{name: text})


@pytest.mark.parametrize(("text", "number"), [("0.5", 0.5), (" -2e-3 ", -0.002), ("inf", float("inf")), ("7", 7.0)])
def test_float_text(text: str, number: float) -> None:
    assert FLOAT.read(text) == number


@pytest.mark.parametrize("text", ["1_0", "\uff11", "one", "1e", "0x1", "1.0.0"])
def test_not_a_float_text(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        FLOAT.read(text)


def test_none_or_another_grammar() -> None:
    grammar = OrNone(UINT32)
    assert grammar.read("None") is None
    assert grammar.read("7") == 7
    assert grammar.expects == "int (non-negative) or None"


LAYOUTS_2D = ("NCHW", "NHWC")
WRONG_CHOICES = ["nchw", " NCHW", "NCHW ", "XYZ", "none", "", "NCHW,", "'NCHW'"]


@pytest.mark.parametrize("layout", LAYOUTS_2D)
def test_layout(layout: str) -> None:
    window = deconvolution(layout=layout).window
    assert window.channels_last == (layout == "NHWC")


@pytest.mark.parametrize("text", WRONG_CHOICES)
def test_layout_and_tune_are_exact_texts(text: str) -> None:
    listed = r"\{None, 'NCW', 'NCHW', 'NCDHW', 'NWC', 'NHWC', 'NDHWC'\}"
    with pytest.raises(ParameterError, match=rf"^Deconvolution: layout: got .*; need {listed}$"):
        deconvolution(layout=text)
    with pytest.raises(
        ParameterError, match=r"cudnn_tune: got .*; need \{None, 'fastest', 'limited_workspace', 'off'\}"
    ):
        deconvolution(cudnn_tune=text)


@pytest.mark.parametrize("value", [None, "None"])
def test_choices_may_be_unset(value: str | None) -> None:
    params = deconvolution(layout=value, cudnn_tune=value, target_shape=value)
    assert (params.layout, params.cudnn_tune, params.target_shape) == (None, None, None)


def test_choice_without_none_refuses_it() -> None:
    with pytest.raises(ValueError, match="None"):
        ChoiceText(("a",)).read("None")


OBJECTS = [
    ((3, 3), "(3, 3)"),
    ([3, 3], "[3, 3]"),
    (3, "3"),
    (True, "True"),
    (None, "None"),
    ("( 3,3)", "( 3,3)"),
    (np.int64(3), "3"),
    (np.uint8(3), "3"),
    ((np.int64(3), 3), "(3, 3)"),
    ([np.int32(3), np.uint64(4)], "[3, 4]"),
    ((np.int64(3),), "(3,)"),
    (np.bool_(True), "True"),
    (3.0, "3.0"),
]


@pytest.mark.parametrize(("value", "text"), OBJECTS)
def test_text_of_an_object(value: object, text: str) -> None:
    assert to_text(value) == text


class Pair(NamedTuple):
    h: int
    w: int


ACCEPTED: list[tuple[str, Any, Any]] = [
    ("kernel", (2, 3), (2, 3)),
    ("kernel", [2, 3], (2, 3)),
    ("kernel", "[2,3]", (2, 3)),
    ("kernel", (np.int64(2), np.int32(3)), (2, 3)),
    ("kernel", [np.uint8(2), 3], (2, 3)),
    ("stride", (), ()),
    ("stride", "[]", ()),
    ("dilate", (1, 4), (1, 4)),
    ("pad", [0, 1], (0, 1)),
    ("adj", "(0, 1)", (0, 1)),
    ("target_shape", None, None),
    ("target_shape", (), ()),
    ("target_shape", (0, 0), (0, 0)),
    ("target_shape", 5, (5,)),
    ("num_filter", 7, 7),
    ("num_filter", "+7", 7),
    ("num_filter", np.int16(7), 7),
    ("num_filter", -1, -1),
    ("num_filter", 2**32 - 1, 2**32 - 1),
    ("num_group", 0, 0),
    ("num_group", np.uint64(2), 2),
    ("workspace", 0, 0),
    ("workspace", -1, -1),
    ("workspace", 2**64 - 1, 2**64 - 1),
    ("no_bias", False, False),
    ("no_bias", 0, False),
    ("no_bias", np.bool_(False), False),
    ("no_bias", np.int64(1), True),
    ("no_bias", "TRUE", True),
    ("cudnn_off", 1, True),
    ("cudnn_tune", "fastest", "fastest"),
    ("cudnn_tune", "off", "off"),
    ("cudnn_tune", "limited_workspace", "limited_workspace"),
    ("layout", "NHWC", "NHWC"),
    ("layout", "NCDHW", "NCDHW"),
]


@pytest.mark.parametrize(("name", "value", "parsed"), ACCEPTED)
def test_accepted(name: str, value: Any, parsed: Any) -> None:
    got = getattr(deconvolution(**{name: value}), name)
    assert got == parsed
    assert type(got) is type(parsed)


REFUSED: list[tuple[str, Any]] = [
    ("kernel", None),
    ("kernel", ()),
    ("kernel", (3, 3, 3, 3)),
    ("kernel", np.array([3, 3])),
    ("kernel", Pair(3, 3)),
    ("kernel", (3.0, 3)),
    ("kernel", (np.float64(3), 3)),
    ("kernel", (True, 3)),
    ("kernel", (np.bool_(True), 3)),
    ("kernel", {3}),
    ("kernel", 10**5000),
    ("kernel", (10**5000, 3)),
    ("stride", None),
    ("stride", 2),
    ("stride", (2, 2, 2)),
    ("dilate", None),
    ("dilate", (1,)),
    ("pad", None),
    ("pad", 1),
    ("adj", None),
    ("adj", (0, 0, 0)),
    ("target_shape", 5.0),
    ("num_filter", 0),
    ("num_filter", 2.0),
    ("num_filter", True),
    ("num_filter", None),
    ("num_filter", np.bool_(True)),
    ("num_filter", np.array(3)),
    ("num_filter", 2**32),
    ("num_filter", 10**5000),
    ("num_group", 1.5),
    ("num_group", 2**32),
    ("workspace", 0.5),
    ("workspace", 2**64),
    ("no_bias", 2),
    ("no_bias", 1.0),
    ("no_bias", None),
    ("cudnn_off", "no"),
    ("cudnn_tune", True),
    ("layout", "NWC"),
    ("layout", 1),
    ("foo", 1),
]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda value: to_text(value)[:20])
def test_refused_at_creation(name: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=rf"^Deconvolution: {name}: ") as caught:
        deconvolution(**{name: value})
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 300
    assert isinstance(caught.value, MXNetError)


def test_missing_parameter() -> None:
    with pytest.raises(ParameterError, match=r"^Deconvolution: kernel: missing; need Shape\(tuple\)$"):
        DeconvolutionParams.parse({"num_filter": "2"})
    with pytest.raises(ParameterError, match=r"^Deconvolution: num_filter: missing; need int \(non-negative\)$"):
        DeconvolutionParams.parse({"kernel": "(3,)"})


def test_unknown_parameter_names_the_known() -> None:
    known = ", ".join(row.name for row in DeconvolutionParams.rows())
    with pytest.raises(
        ParameterError, match=f"^Deconvolution: foo: unknown argument; possible arguments: {known}$"
    ):
        deconvolution(foo=1)
    assert known == (
        "kernel, stride, dilate, pad, adj, target_shape, num_filter, num_group, workspace, no_bias, cudnn_tune, "
        "cudnn_off, layout"
    )


def test_defaults() -> None:
    params = deconvolution()
    assert (params.stride, params.dilate, params.pad, params.adj, params.target_shape) == ((), (), (), (), None)
    assert (params.num_group, params.workspace, params.no_bias) == (1, 512, True)
    assert (params.cudnn_tune, params.cudnn_off, params.layout) == (None, False, None)
    assert params.window == Window((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), (0, 0), filters=2)


def test_defaults_of_convolution() -> None:
    params: ConvolutionParams = ConvolutionParams.parse({"kernel": "3", "num_filter": "2"})
    assert (params.workspace, params.no_bias) == (1024, False)
    with pytest.raises(ParameterError, match=r"^Convolution: adj: unknown argument"):
        ConvolutionParams.parse({"kernel": "3", "num_filter": "2", "adj": "1"})


def test_what_only_inference_refuses() -> None:
    data = (1, 4, 5, 5)
    for late in (
        {"num_group": 0},
        {"num_group": 3},
        {"num_filter": -2},
        {"num_group": -1},
        {"stride": (0, 1)},
        {"dilate": (1, 0)},
        {"kernel": (0, 3)},
        {"kernel": (-3, 3)},
        {"adj": (1, 0)},
        {"adj": (-1, 0)},
        {"target_shape": (9, 9)},
        {"target_shape": (-1, 9)},
        {"target_shape": 9},
    ):
        params = deconvolution(**late)
        with pytest.raises(ShapeError, match=r"^Deconvolution: "):
            infer_deconvolution("Deconvolution", params.window, data)
    for late in ({"pad": (-1, 0)}, {"layout": "NCDHW"}, {"layout": "NCW"}, {"layout": "NDHWC"}):
        params = deconvolution(**late)
        with pytest.raises(ParameterError, match=r"^Deconvolution: "):
            assert params.window


def test_target_of_zeros_is_not_set() -> None:
    for unset in (None, (), (0, 0), 0, (0, 0, 0)):
        assert deconvolution(target_shape=unset).window.target is None


def test_surplus_entries_of_target_only_set_it() -> None:
    assert deconvolution(target_shape=(7, 8, 9)).window.target == (7, 8)
    assert deconvolution(target_shape=(0, 0, 9)).window.target == (0, 0)
    assert deconvolution(target_shape=(7, 0)).window.target == (7, 0)
    assert deconvolution(target_shape=7).window.target == (7,)


def test_one_number_is_one_axis() -> None:
    assert deconvolution(kernel=3).window.rank == 1
    assert deconvolution(kernel=(3, 3, 3)).window.rank == 3


def test_rank_of_a_parameter_names_the_kernel() -> None:
    with pytest.raises(
        ParameterError, match=r"^Deconvolution: stride: got \(2,\); need 2 entries, as kernel \(3, 3\) has$"
    ):
        deconvolution(stride=2)


def test_equality_and_hash_are_by_value() -> None:
    one = deconvolution(stride="(2, 2)", num_filter="+4", no_bias="0")
    other = deconvolution(no_bias=False, stride=[2, 2], num_filter=4)
    assert one == other
    assert hash(one) == hash(other)
    assert one != deconvolution(stride=(2, 2), num_filter=4)
    assert deconvolution(stride=(1, 1)) != deconvolution()


def test_memo_of_parsing_tells_spellings_apart() -> None:
    # True, 1 and 1.0 are equal keys in Python; their texts are not.
    assert deconvolution(no_bias=True).no_bias is True
    assert deconvolution(no_bias=1).no_bias is True
    with pytest.raises(ParameterError):
        deconvolution(no_bias=1.0)
    assert deconvolution(num_group=1).num_group == 1
    for other in (True, 1.0):
        with pytest.raises(ParameterError):
            deconvolution(num_group=other)


@given(st.text(max_size=8) | st.text("()[],L+- 0123N", max_size=10))
def test_any_text_is_read_or_refused(text: str) -> None:
    for name in ("kernel", "target_shape", "num_filter", "workspace", "no_bias", "layout"):
        try:
            deconvolution(**{name: text})
        except ParameterError:
            continue


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8), st.booleans())
def test_shape_of_any_integers_is_read_back(entries: list[int], as_list: bool) -> None:
    assert ShapeText().read(to_text(entries if as_list else tuple(entries))) == tuple(entries)


def test_workspace_in_bytes() -> None:
    assert workspace_bytes(0) == 0
    assert workspace_bytes(16) == 16 * 2**20
    assert workspace_bytes(-1) == workspace_bytes(2**64 - 1) == 2**62


PER_AXIS: list[tuple[Any, tuple[int, int]]] = [
    (2, (2, 2)),
    (np.int8(2), (2, 2)),
    (np.array(2), (2, 2)),
    ((2, 3), (2, 3)),
    ([2, np.uint16(3)], (2, 3)),
    (np.array([2, 3], np.int32), (2, 3)),
    (-1, (-1, -1)),
    (Pair(2, 3), (2, 3)),
    (2**63 - 1, (2**63 - 1, 2**63 - 1)),
]


@pytest.mark.parametrize(("value", "entries"), PER_AXIS)
def test_per_axis(value: Any, entries: tuple[int, int]) -> None:
    got = per_axis("f", "stride", value, 2)
    assert got == entries
    assert all(type(entry) is int for entry in got)


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.bool_(True),
        (True, 1),
        1.0,
        (1.0, 1),
        "2",
        None,
        (),
        (1,),
        (1, 2, 3),
        {1, 2},
        np.array([2.0, 3.0]),
        np.array([[2, 3]]),
        np.array([True, True]),
        np.zeros(1000, int),
        2**63,
        10**5000,
        (1, 10**5000),
    ],
    ids=lambda value: to_text(value)[:20],
)
def test_per_axis_refuses(value: Any) -> None:
    with pytest.raises(ParameterError, match=r"^f: stride: got .*; need a 64-bit int or 2 of them$"):
        per_axis("f", "stride", value, 2)


def test_rows_declare_every_field_with_a_sentence() -> None:
    for params in (DeconvolutionParams, ConvolutionParams):
        for row in params.rows():
            assert row.doc.endswith("."), row.name
            assert row.required == (row.name in REQUIRED)
