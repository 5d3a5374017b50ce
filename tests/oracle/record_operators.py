"""Record what MXNet 1.9.1 computes, infers and refuses, operator by operator, for `tests/test_operators.py`.

Run in an environment with MXNet 1.9.1: `python tests/oracle/record_operators.py`. It writes
`tests/golden/operators.jsonl`, one case a line, and `tests/golden/operators.npz`, the arrays. A case whose process
dies is recorded as such. Everything is made from fixed seeds, so a second run writes the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"

UNARY = {
    "any": "abs sign negative square relu exp expm1 sin cos tan arctan sinh cosh tanh arcsinh degrees radians "
    "sigmoid softsign erf floor ceil trunc fix round rint logical_not cbrt zeros_like ones_like _copy BlockGrad "
    "make_loss identity stop_gradient",
    "positive": "reciprocal sqrt rsqrt rcbrt log log2 log10 log1p gamma gammaln",
    "unit": "arcsin arccos arctanh erfinv",
    "above_one": "arccosh",
}
BINARY = (
    "elemwise_add elemwise_sub elemwise_mul elemwise_div _mod _power _maximum _minimum _hypot _equal _not_equal "
    "_greater _greater_equal _lesser _lesser_equal _logical_and _logical_or _logical_xor"
)
BROADCAST = (
    "add sub mul div mod power maximum minimum hypot equal not_equal greater greater_equal lesser lesser_equal "
    "logical_and logical_or logical_xor"
)
SCALAR = (
    "plus minus rminus mul div rdiv mod rmod power rpower maximum minimum hypot equal not_equal greater "
    "greater_equal lesser lesser_equal logical_and logical_or logical_xor"
)
ALIASES = (
    "_Plus _plus _add _Minus _minus _sub _Mul _mul _Div _div _Mod _Power _Maximum _Minimum _Hypot _Equal "
    "_Not_Equal _Greater _Greater_Equal _Lesser _Lesser_Equal _Logical_And _Logical_Or _Logical_Xor "
    "broadcast_plus broadcast_minus"
)
SCALAR_ALIASES = (
    "_PlusScalar _MinusScalar _RMinusScalar _MulScalar _DivScalar _RDivScalar _ModScalar _RModScalar _PowerScalar "
    "_RPowerScalar _MaximumScalar _MinimumScalar _HypotScalar _EqualScalar _NotEqualScalar _GreaterScalar "
    "_GreaterEqualScalar _LesserScalar _LesserEqualScalar _LogicalAndScalar _LogicalOrScalar _LogicalXorScalar"
)
REDUCTIONS = "sum mean prod nansum nanprod max min"


def values(kind: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return the array a case names by kind, shape and type."""
    rng = np.random.RandomState(zlib.crc32(f"{kind}{shape}".encode()))
    if kind == "special":
        table = [0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, -0.5, 1.5, -1.5, 2.5, 1e30, -1e30]
        return np.resize(table, shape).astype(dtype)
    made = {
        "any": lambda: rng.uniform(-3, 3, shape),
        "other": lambda: rng.uniform(-3, 3, shape),
        "grad": lambda: rng.uniform(-1, 1, shape),
        "positive": lambda: rng.uniform(0.2, 4, shape),
        "unit": lambda: rng.uniform(-0.9, 0.9, shape),
        "above_one": lambda: rng.uniform(1.2, 5, shape),
        "small": lambda: rng.randint(-3, 4, shape),
        "count": lambda: rng.randint(0, 4, shape),
        "wild": lambda: rng.randint(-6, 9, shape),
        "one": lambda: np.ones(shape),
        "nans": lambda: np.where(rng.uniform(size=shape) < 0.3, np.nan, rng.uniform(-3, 3, shape)),
    }[kind]()
    return made.astype(dtype)


def case(op: str, *inputs, train: bool = True, **params) -> dict:
    """Return a call to record; an input is (kind, shape) or (kind, shape, type)."""
    filled = [(*given, "float32")[:3] for given in inputs]
    return {"what": "call", "op": op, "params": params, "inputs": filled, "train": train}


def infer(op: str, shapes: list, out: tuple[int, ...] = (), **params) -> dict:
    """Return an inference to record: shapes of inputs, and of the first output, with 0 for what is unknown."""
    return {"what": "shape", "op": op, "params": params, "shapes": shapes, "out": out}


def infer_type(op: str, dtypes: list, out: str = "", **params) -> dict:
    """Return an inference of types to record; an empty name is unknown."""
    return {"what": "dtype", "op": op, "params": params, "dtypes": dtypes, "out": out}


def elementwise_cases():
    for kind, names in UNARY.items():
        for op in names.split():
            yield case(op, (kind, (2, 3)))
            yield case(op, (kind, (2, 3), "float64"))
            yield case(op, ("special", (12,)))
            if op not in ("erfinv", "gamma", "gammaln"):
                yield case(op, ("small" if kind == "any" else "count", (5,), "int32"))
                yield case(op, (kind, (2, 3), "float16"))
    for op in BINARY.split():
        yield case(op, ("any", (2, 3)), ("other", (2, 3)))
        yield case(op, ("positive", (2, 3), "float64"), ("other", (2, 3), "float64"))
        yield case(op, ("small", (4, 5)), ("count", (4, 5)))
        yield case(op, ("small", (7,), "int32"), ("positive", (7,), "int32"))
        yield case(op, ("any", (2, 3)), ("other", (3, 2)))
        yield case(op, ("any", (2, 3), "float16"), ("positive", (2, 3), "float16"))
        yield infer(op, [(2, 0), (0, 3)])
        yield infer(op, [(), ()], (2, 3))
        yield infer(op, [(2, 3), ()])
        yield infer(op, [(2, 3), (3, 2)])
        yield infer_type(op, ["", "float64"])
        yield infer_type(op, ["", ""], "float16")
    for name in BROADCAST.split():
        op = f"broadcast_{name}"
        for left, right in [
            ((2, 3), (2, 3)),
            ((2, 1, 4), (1, 3, 1)),
            ((4,), (2, 3, 4)),
            ((1,), (2, 3)),
            ((2, 3), (3, 2)),
        ]:
            yield case(op, ("any", left), ("positive", right))
        yield case(op, ("small", (2, 4)), ("count", (1, 4)))
        yield case(op, ("small", (2, 1), "int32"), ("positive", (1, 3), "int32"))
        yield infer(op, [(2, 0, 1), (3, 1)])
        yield infer(op, [(2, 3), ()])
        yield infer(op, [(), ()], (2, 3))
        yield infer(op, [(2, 3), (2, 4)])
        yield infer_type(op, ["float64", ""])
    for name in SCALAR.split():
        op = f"_{name}_scalar"
        yield case(op, ("any", (2, 3)), scalar=1.5)
        yield case(op, ("small", (3, 5)), scalar=2.0)
        yield case(op, ("small", (9,)), scalar=0.0)
        yield case(op, ("positive", (2, 3), "float64"), scalar=-0.75)
        yield case(op, ("small", (9,), "int32"), scalar=2.7)
        yield case(op, ("small", (9,), "int32"), scalar=2.5, is_int=False, train=False)
        yield case(op, ("any", (2, 3), "float16"), scalar=0.3)
        yield case(op, ("positive", (2, 3)))
        yield infer(op, [(2, 0)], (0, 3), scalar=1)
        yield infer_type(op, [""], "float64", scalar=1)
        yield infer_type(op, ["int32"], scalar=1.5, is_int=False)
        yield infer_type(op, ["bool"], scalar=1.5)
    for op in ALIASES.split():
        yield case(op, ("any", (2, 3)), ("positive", (2, 3)))
    for op in SCALAR_ALIASES.split():
        yield case(op, ("positive", (2, 3)), scalar=1.25)
    for op in ("add_n", "ElementWiseSum"):
        yield case(op, ("any", (2, 3)), num_args=1)
        yield case(op, ("any", (2, 3)), ("other", (2, 3)), ("positive", (2, 3)), num_args=3)
    yield infer("add_n", [(2, 0), (0, 3)], num_args=2)
    for op, low, high in (("clip", -1.0, 1.5), ("clip", 2.0, -2.0)):
        yield case(op, ("any", (2, 3)), a_min=low, a_max=high)
        yield case(op, ("small", (9,)), a_min=-2, a_max=2)
        yield case(op, ("special", (12,)), a_min=low, a_max=high)
        yield case(op, ("small", (9,), "int32"), a_min=-1, a_max=2)
    for scalar in (1.0, 2.0, 0.5):
        yield case("smooth_l1", ("any", (2, 6)), scalar=scalar)
    yield case("hard_sigmoid", ("any", (2, 6)))
    yield case("hard_sigmoid", ("any", (2, 6), "float64"), alpha=0.5, beta=0.25)
    for op in ("Cast", "cast"):
        for dtype in ("float64", "float16", "int32", "uint8", "int8", "int64", "bool"):
            yield case(op, ("positive", (2, 3)), dtype=dtype)
        yield case(op, ("any", (9,), "float64"), dtype="int32")
        yield infer_type(op, ["float32"], dtype="float16")
        yield infer_type(op, [""], dtype="float16")
    for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign"):
        yield case("Activation", ("any", (2, 3, 4)), act_type=kind)
        yield case("Activation", ("any", (2, 3), "float64"), act_type=kind)
        yield case("Activation", ("special", (12,)), act_type=kind)
        yield infer("Activation", [(2, 0)], (0, 3), act_type=kind)
    for kind in ("leaky", "elu", "selu", "gelu", "rrelu"):
        yield case("LeakyReLU", ("any", (2, 3, 4)), act_type=kind, train=kind != "rrelu")
        yield case("LeakyReLU", ("any", (2, 3, 4), "float64"), act_type=kind, slope=0.1, train=kind != "rrelu")
        yield case("LeakyReLU", ("special", (12,)), act_type=kind, train=False)
        yield infer("LeakyReLU", [(2, 0, 3)], act_type=kind)
    for slope in (0.0, 1.0, 2.0, -0.5):
        yield case("LeakyReLU", ("any", (2, 3, 4)), act_type="leaky", slope=slope)
        yield case("LeakyReLU", ("any", (2, 3, 4)), act_type="elu", slope=slope)
    for data, gamma in [
        ((2, 3, 4), (3,)),
        ((2, 3, 4), (1,)),
        ((2, 3), (3,)),
        ((2, 3, 2, 2), (2, 3)),
        ((4,), (1,)),
        ((2, 3), (2, 3)),
        ((2, 3, 4), (4,)),
        ((2, 3), (2,)),
        ((2, 3, 4), (1, 3)),
    ]:
        yield case("LeakyReLU", ("any", data), ("unit", gamma), act_type="prelu")
        yield infer("LeakyReLU", [data, gamma], act_type="prelu")
    yield infer("LeakyReLU", [(2, 3, 4), ()], act_type="prelu")
    yield infer("LeakyReLU", [(2, 0, 4), ()], act_type="prelu")


def reduce_cases():
    axes = [None, (), 0, -1, (0, 2), (-1, 0), (0, 1, 2), 3, (1, 1), (0, -3)]
    for op in REDUCTIONS.split():
        kind = "nans" if op.startswith("nan") else "any"
        for axis in axes:
            for keepdims, exclude in ((False, False), (True, False), (False, True), (True, True)):
                if exclude and op not in ("sum", "max"):
                    continue
                params = {"keepdims": keepdims, "exclude": exclude}
                if axis is not None:
                    params["axis"] = axis
                yield case(op, (kind, (2, 3, 4)), **params)
        yield case(op, (kind, (2, 3), "float64"), axis=1)
        yield case(op, ("small", (3, 4)), axis=1)
        yield case(op, ("small", (3, 4), "int32"), axis=1, train=False)
        yield case(op, (kind, (3, 4), "float16"), axis=1)
        yield case(op, (kind, (5,)))
        yield infer(op, [(2, 0, 4)], axis=0)
        yield infer(op, [(2, 0, 4)], axis=1)
        yield infer(op, [(2, 3, 4)], (0, 3), axis=1)
        yield infer(op, [()], (3,), axis=1)
        yield infer_type(op, [""], "float64", axis=0)
    for op in ("sum_axis", "max_axis", "min_axis"):
        yield case(op, ("any", (2, 3, 4)), axis=1)
    for order in (1, 2, 3):
        for axis in (None, 0, -1, (0, 2), (1, 2)):
            for keepdims in (False, True):
                params = {} if axis is None else {"axis": axis}
                yield case("norm", ("any", (2, 3, 4)), ord=order, keepdims=keepdims, **params)
    yield case("norm", ("any", (2, 3), "float64"))
    yield case("norm", ("any", (2, 3)), out_dtype="float64", train=False)
    yield infer("norm", [(2, 0)], axis=1)
    for op in ("argmax", "argmin"):
        for params in (
            {},
            {"axis": 0},
            {"axis": -1},
            {"axis": 1, "keepdims": True},
            {"keepdims": True},
            {"axis": 3},
        ):
            yield case(op, ("any", (2, 3, 4)), **params)
        yield case(op, ("small", (3, 9)), axis=1)
        yield case(op, ("small", (3, 9), "int32"), axis=1, train=False)
        yield case(op, ("any", (5,)), axis=0)
        yield infer(op, [(2, 0, 4)], axis=0)
        yield infer(op, [(2, 3, 4)], axis=0)
    yield case("argmax_channel", ("any", (2, 3)))
    yield case("argmax_channel", ("any", (2, 3, 4)))


def tensor_cases():
    shapes = [
        ((2, 3, 4), (4, 0, 2)),
        ((2, 3, 4), (2, 0, 0)),
        ((2, 3, 4), (6, 1, -1)),
        ((2, 3, 4), (3, -1, 8)),
        ((2, 3, 4), (-1,)),
        ((2, 3, 4), (-2,)),
        ((2, 3, 4), (2, -2)),
        ((2, 3, 4), (-2, 1, 1)),
        ((2, 3, 4), (-3, 4)),
        ((2, 3, 4, 5), (-3, -3)),
        ((2, 3, 4), (0, -3)),
        ((2, 3, 4), (-3, -2)),
        ((2, 3, 4), (-4, 1, 2, -2)),
        ((2, 3, 4), (2, -4, -1, 3, -2)),
        ((2, 3, 4), (0, 0, -4, 2, -1)),
        ((2, 3, 4), (-1, -1)),
        ((2, 3), (0, 0, 0)),
        ((2, 3, 4), (-4, -1, -1, -2)),
        ((2, 3, 4), (-4, 3, -1, -2)),
        ((2, 3, 4), (0, -1)),
        ((2, 3, 4), (-1, 0)),
        ((8, 3), (-4, 2, 4, 3)),
    ]
    # MXNet does not notice a wrong number of elements, and reads or writes beyond its arrays.
    beyond = [(2, -2), (-2, 1, 1)]
    for data, shape in shapes:
        for reverse in (False, True):
            if not (reverse and shape in beyond):
                yield case("Reshape", ("any", data), shape=shape, reverse=reverse)
    yield case("reshape", ("any", (10, 5, 4)), shape=(-1, 0), reverse=True)
    yield case("Reshape", ("any", (2, 3, 4)), target_shape=(2, 0))
    yield case("Reshape", ("any", (2, 3, 4)), target_shape=(0, 12), keep_highest=True)
    yield case("Reshape", ("any", (2, 3, 4)), target_shape=(0, 0), keep_highest=True)
    for data, shape, out in [
        ((0, 3, 4), (-1, 12), ()),
        ((2, 0, 4), (2, -1), ()),
        ((0, 3), (3, 4), ()),
        ((0, 3, 4), (0, -3), ()),
        ((2, 0, 4), (0, -3), ()),
        ((0, 3), (-4, 2, -1, 3), ()),
        ((2, 0), (-1,), (12,)),
        ((0, 0), (3, 4), ()),
        ((), (3, 4), ()),
        ((0, 3), (-2,), ()),
        ((0, 3, 4), (-1, 12), (5, 12)),
    ]:
        yield infer("Reshape", [data], out, shape=shape)
    for op in ("Flatten", "flatten"):
        for data in [(2, 3, 4), (5,), (2, 1, 1, 3)]:
            yield case(op, ("any", data))
        yield infer(op, [(0, 3, 4)])
        yield infer(op, [(2, 3, 4)])
    for left, right, params in [
        ((2, 6), (3, 4), {}),
        ((2, 6), (3, 5), {}),
        ((30, 7), (15, 2, 4), {"lhs_begin": 0, "lhs_end": 1, "rhs_begin": 0, "rhs_end": 2}),
        ((3, 5), (1, 15, 4), {"lhs_begin": 0, "lhs_end": 2, "rhs_begin": 1, "rhs_end": 2}),
        ((30, 12), (4, 2, 2, 3), {"lhs_begin": -1, "lhs_end": None, "rhs_begin": 1, "rhs_end": None}),
    ]:
        yield case("reshape_like", ("any", left), ("other", right), **params)
    for axes in ((), (1, 0, 2), (2, 0, 1), (0, 1), (-1, 0, 1), (0, 0, 1), (0, 1, 3)):
        yield case("transpose", ("any", (2, 3, 4)), axes=axes)
    yield infer("transpose", [(2, 0, 4)], axes=(2, 0, 1))
    yield infer("transpose", [(2, 0, 4)], (4, 2, 3), axes=(2, 0, 1))
    yield infer("transpose", [()], (4, 2, 3), axes=(2, 0, 1))
    for op in ("SwapAxis", "swapaxes"):
        for one, two in ((0, 2), (1, -1), (0, 0), (0, 3)):
            yield case(op, ("any", (2, 3, 4)), dim1=one, dim2=two)
    yield infer("SwapAxis", [(2, 0, 4)], dim1=0, dim2=1)
    for axis in (0, 1, 3, -1, -4, 4, -5):
        yield case("expand_dims", ("any", (2, 3, 4)), axis=axis)
    yield infer("expand_dims", [(2, 0)], axis=1)
    yield infer("expand_dims", [()], (2, 1, 3), axis=1)
    yield infer("expand_dims", [(2, 0)], (2, 1, 3), axis=1)
    for data, params in [
        ((1, 3, 1, 2), {}),
        ((1, 3, 1, 2), {"axis": 0}),
        ((1, 3, 1, 2), {"axis": (0, -2)}),
        ((1, 1), {}),
        ((1, 3), {"axis": 1}),
        ((2, 3), {}),
        ((1, 1), {"axis": (0, 1)}),
        ((1, 3), {"axis": (0, 0)}),
    ]:
        yield case("squeeze", ("any", data), **params)
    yield infer("squeeze", [(1, 0, 3)])
    yield infer("squeeze", [(1, 0, 3)], axis=0)


def slicing_cases():
    for params in [
        {"begin": (0, 1), "end": (2, 3)},
        {"begin": (0, None), "end": (None, 2)},
        {"begin": 1, "end": 2},
        {"begin": (-1,), "end": (None,)},
        {"begin": (None, None, None), "end": (None, None, None), "step": (-1, 1, -2)},
        {"begin": (0, 0, 3), "end": (2, 3, 0), "step": (1, 1, -1)},
        {"begin": (0, 1), "end": (2,)},
        {"begin": (0, 0, 0, 0), "end": (1, 1, 1, 1)},
        {"begin": (0,), "end": (9,)},
        {"begin": (0, -2), "end": (1, -1)},
        {"begin": (0,), "end": (2,), "step": (0,)},
        {"begin": (0, 0, 0), "end": (2, 3, 4), "step": (None, 2, 3)},
        {"begin": (-9,), "end": (2,)},
        {"begin": (0, 5), "end": (2, None), "step": (1, -2)},
        {"begin": [0, 1], "end": [1, 2]},
    ]:
        yield case("slice", ("any", (2, 3, 4)), **params)
    yield case("crop", ("any", (2, 3, 4)), begin=(0, 1), end=(2, 3))
    yield infer("slice", [(2, 0, 4)], begin=(0, 0), end=(1, 2))
    yield infer("slice", [(2, 0, 4)], begin=(0, None, 1), end=(1, None, 3))
    for axis, begin, end in [
        (0, 0, 1),
        (1, 1, 3),
        (-1, -2, None),
        (2, 0, -1),
        (1, 2, 2),
        (1, 2, 1),
        (0, 0, 3),
        (3, 0, 1),
        (1, -4, 2),
        (1, 0, None),
    ]:
        yield case("slice_axis", ("any", (2, 3, 4)), axis=axis, begin=begin, end=end)
    yield infer("slice_axis", [(2, 0, 4)], axis=1, begin=0, end=1)
    yield infer("slice_axis", [(2, 0, 4)], axis=2, begin=1, end=3)
    for like, params in [
        ((1, 2, 3), {}),
        ((1, 2, 3), {"axes": (0, -1)}),
        ((1, 2), {}),
        ((1, 2), {"axes": (1,)}),
        ((3, 3, 4), {}),
        ((1, 2, 9), {"axes": (0, 1)}),
    ]:
        yield case("slice_like", ("any", (2, 3, 4)), ("other", like), **params)
    yield infer("slice_like", [(2, 3, 4), (0, 2, 2)])
    for params in [
        {"h_w": (2, 3)},
        {"h_w": (2, 3), "offset": (1, 2)},
        {"h_w": (2, 3), "center_crop": True},
        {"h_w": (5, 3)},
        {"h_w": (2, 3), "offset": (3, 0)},
        {},
        {"h_w": (4, 6)},
    ]:
        yield case("Crop", ("any", (1, 2, 4, 6)), num_args=1, **params)
    for like, params in [
        ((1, 2, 3, 3), {}),
        ((1, 7, 3, 3), {"offset": (1, 2)}),
        ((2, 1, 3, 3), {"center_crop": True}),
        ((1, 2, 5, 3), {}),
    ]:
        yield case("Crop", ("any", (1, 2, 4, 6)), ("other", like), num_args=2, **params)
    yield infer("Crop", [(0, 2, 4, 6)], num_args=1, h_w=(2, 3))
    yield infer("Crop", [(1, 0, 4, 6), (1, 2, 2, 3)], num_args=2)
    for axis in (0, 1, -1, (0, 2), (1, 1), 3, ()):
        yield case("reverse", ("any", (2, 3, 4)), axis=axis)
    yield case("flip", ("any", (2, 3, 4)), axis=1)
    for mode in ("constant", "edge", "reflect"):
        for width in [
            (0, 0, 0, 0, 1, 2, 2, 1),
            (0, 0, 0, 0, 0, 0, 0, 0),
            (0, 0, 0, 0, 3, 0, 0, 2),
            (0, 0, 0, 0, 4, 0, 0, 0),
            (0, 0, 1, 0, 0, 0, 0, 0),
            (0, 0, 0, 0, 1, 1),
        ]:
            yield case("Pad", ("any", (1, 2, 4, 3)), mode=mode, pad_width=width, constant_value=1.5)
        yield case("pad", ("any", (1, 2, 2, 3, 3)), mode=mode, pad_width=(0, 0, 0, 0, 1, 1, 0, 2, 1, 0))
        yield case("Pad", ("any", (1, 2, 4)), mode=mode, pad_width=(0, 0, 0, 0, 1, 2))
        yield infer("Pad", [(0, 2, 4, 3)], mode=mode, pad_width=(0, 0, 0, 0, 1, 2, 2, 1))


def joining_cases():
    for op in ("Concat", "concat"):
        yield case(op, ("any", (2, 3)), num_args=1)
        yield case(op, ("any", (2, 3)), ("other", (2, 1)), num_args=2)
        yield case(op, ("any", (2, 3)), ("other", (4, 3)), num_args=2, dim=0)
        yield case(op, ("any", (2, 3)), ("other", (2, 4)), ("positive", (2, 2)), num_args=3, dim=-1)
        yield case(op, ("any", (2, 3)), ("other", (3, 3)), num_args=2)
        yield case(op, ("any", (2, 3)), ("other", (2, 3)), num_args=2, dim=2)
        yield infer(op, [(2, 3), (0, 4)], num_args=2)
        yield infer(op, [(2, 3), (2, 0)], num_args=2)
        yield infer(op, [(2, 3), ()], num_args=2)
        yield infer(op, [(0, 3), (0, 4)], (2, 7), num_args=2)
        yield infer(op, [(2, 3), (3, 4)], num_args=2)
    for axis in (0, 1, -1, 2, 3):
        yield case("stack", ("any", (2, 3)), ("other", (2, 3)), num_args=2, axis=axis)
    yield case("stack", ("any", (2, 3)), ("other", (3, 2)), num_args=2)
    yield infer("stack", [(2, 3), ()], num_args=2)
    yield infer("stack", [(2, 0), (0, 3)], num_args=2)
    for op in ("SliceChannel", "split"):
        for params in [
            {"num_outputs": 3},
            {"num_outputs": 2, "axis": -1},
            {"num_outputs": 3, "squeeze_axis": True},
            {"num_outputs": 2, "axis": 1},
            {"num_outputs": 2, "axis": 0, "squeeze_axis": True},
            {"num_outputs": 1},
            {"num_outputs": 2, "axis": 2, "squeeze_axis": True},
        ]:
            yield case(op, ("any", (2, 3, 4)), **params)
        yield infer(op, [(2, 0, 4)], num_outputs=2)
        yield infer(op, [(0, 4, 4)], num_outputs=2)
        yield infer(op, [(0, 2, 4)], num_outputs=2, squeeze_axis=True)
    for params in [
        {"indices": (0, 1), "axis": 1},
        {"indices": (0, 1, 3), "axis": 2},
        {"indices": (), "sections": 2, "axis": 2},
        {"indices": (), "sections": 3, "axis": 1, "squeeze_axis": True},
        {"indices": (), "sections": 2, "axis": 1},
        {"indices": (0, 1), "axis": 0, "squeeze_axis": True},
    ]:
        yield case("_split_v2", ("any", (2, 3, 4)), **params)
    for reps in ((2,), (2, 1, 3), (2, 1, 1, 2), (), 2, (1, 2)):
        yield case("tile", ("any", (2, 3)), reps=reps)
    yield infer("tile", [(2, 0)], reps=(2, 2))
    for params in [
        {"repeats": 2},
        {"repeats": 2, "axis": 0},
        {"repeats": 3, "axis": -1},
        {"repeats": 1, "axis": 1},
        {"repeats": 2, "axis": 2},
        {"repeats": -1},
    ]:
        yield case("repeat", ("any", (2, 3)), **params)
    yield infer("repeat", [(2, 0)], repeats=2, axis=0)
    yield case("depth_to_space", ("any", (1, 8, 2, 3)), block_size=2)
    yield case("space_to_depth", ("any", (1, 2, 4, 6)), block_size=2)
    yield case("depth_to_space", ("any", (1, 6, 2, 3)), block_size=2)
    yield case("space_to_depth", ("any", (1, 2, 3, 6)), block_size=2)
    yield case("shape_array", ("any", (2, 3, 4)), train=False)
    yield case("size_array", ("any", (2, 3, 4)), train=False)
    for params in [{}, {"k": 1}, {"k": -1}, {"k": 5}]:
        yield case("diag", ("any", (3, 4)), **params)
        yield case("diag", ("any", (3,)), **params)
    yield case("diag", ("any", (2, 3, 4)), axis1=0, axis2=2)
    for op in ("broadcast_axis", "broadcast_axes"):
        yield case(op, ("any", (2, 1, 3, 1)), axis=(1, 3), size=(2, 4))
        yield case(op, ("any", (2, 1, 3, 1)), axis=1, size=5)
        yield case(op, ("any", (2, 1)), axis=0, size=5)
        yield case(op, ("any", (2, 1)), axis=(0, 1), size=5)
    for shape in ((2, 4, 3), (0, 4, 0), (2, 5, 3), (2, 4), (3, 4, 3), (2, 1, 3)):
        yield case("broadcast_to", ("any", (2, 1, 3)), shape=shape)
    for left, right, params in [
        ((2, 1), (2, 4), {}),
        ((2, 1), (3, 4), {}),
        ((2, 1), (1, 4, 4), {}),
        ((1, 2, 1), (5, 6), {"lhs_axes": (0, 2), "rhs_axes": (0, 1)}),
        ((1, 3), (5, 6), {"lhs_axes": (0,), "rhs_axes": (-1,)}),
        ((2, 3), (5, 6), {"lhs_axes": (0,), "rhs_axes": (1,)}),
    ]:
        yield case("broadcast_like", ("any", left), ("other", right), **params)
    yield infer("broadcast_to", [(2, 0, 3)], shape=(2, 4, 3))
    yield infer("broadcast_like", [(2, 1), (0, 4)])


def linear_cases():
    for left, right, params in [
        ((4,), (4,), {}),
        ((3, 4), (4, 2), {}),
        ((4, 3), (4, 2), {"transpose_a": True}),
        ((3, 4), (2, 4), {"transpose_b": True}),
        ((4, 3), (2, 4), {"transpose_a": True, "transpose_b": True}),
        ((2, 3, 4), (4, 5), {}),
        ((3, 4), (4, 2, 3), {}),
        ((2, 3, 4), (4, 3, 2), {}),
        ((4, 2, 3), (4, 5), {"transpose_a": True}),
        ((3, 4), (2, 3, 4), {"transpose_b": True}),
        ((4,), (4, 3), {}),
        ((3, 4), (4,), {}),
        ((3, 4), (3, 4), {}),
        ((4,), (4,), {"transpose_a": True}),
    ]:
        yield case("dot", ("any", left), ("other", right), **params)
    yield case("dot", ("any", (3, 4), "float64"), ("other", (4, 2), "float64"))
    for shapes in [[(3, 0), (4, 2)], [(3, 4), ()], [(0, 4), (4, 2)], [(2, 3), (4, 2)]]:
        yield infer("dot", shapes)
    for left, right, params in [
        ((2, 3, 4), (2, 4, 5), {}),
        ((2, 4, 3), (2, 4, 5), {"transpose_a": True}),
        ((2, 3, 4), (2, 5, 4), {"transpose_b": True}),
        ((2, 4, 3), (2, 5, 4), {"transpose_a": True, "transpose_b": True}),
        ((2, 3, 4), (3, 4, 5), {}),
        ((3, 4), (4, 5), {}),
        ((1, 2, 3, 4), (1, 2, 4, 2), {}),
    ]:
        yield case("batch_dot", ("any", left), ("other", right), **params)
        for op in ("_linalg_gemm2", "linalg_gemm2"):
            yield case(op, ("any", left, "float64"), ("other", right, "float64"), alpha=1.5, **params)
    yield case("_linalg_gemm2", ("any", (3, 2, 4), "float64"), ("other", (4, 2, 5), "float64"), axis=0)
    yield infer("batch_dot", [(2, 0, 4), (2, 4, 5)])
    for data, weight, bias, params in [
        ((2, 3), (5, 3), (5,), {}),
        ((2, 3, 4), (5, 12), (5,), {}),
        ((2, 3, 4), (5, 4), (5,), {"flatten": False}),
        ((2, 3), (5, 3), None, {"no_bias": True}),
        ((2, 3), (5, 4), (5,), {}),
        ((2, 3), (5, 3), (5, 1), {}),
        ((4,), (5, 1), (5,), {}),
    ]:
        inputs = [("any", data), ("other", weight), *([("positive", bias)] if bias else [])]
        yield case("FullyConnected", *inputs, num_hidden=5, **params)
        yield case("FullyConnected", *((*one, "float64") for one in inputs), num_hidden=5, **params)
    for shapes, out, params in [
        ([(2, 3), (), ()], (), {}),
        ([(0, 3), (), ()], (), {}),
        ([(0, 3), (), ()], (2, 5), {}),
        ([(2, 0, 4), (), ()], (), {}),
        ([(2, 0, 4), (), ()], (), {"flatten": False}),
        ([(), (5, 3), ()], (2, 5), {}),
        ([(2, 3), (6, 3), ()], (), {}),
        ([(2, 3), (), ()], (), {"num_hidden": 0}),
    ]:
        yield infer("FullyConnected", shapes, out, **{"num_hidden": 5, **params})
    yield infer_type("FullyConnected", ["float64", "", ""], num_hidden=5)
    yield infer_type("FullyConnected", ["", "float64", ""], num_hidden=5)
    yield infer_type("FullyConnected", ["", "", ""], "float64", num_hidden=5)


def creation_cases():
    for op in ("_zeros", "_ones"):
        yield case(op, shape=(2, 3))
        yield case(op, shape=(2, 3), dtype="int32")
        yield case(op, shape=4, dtype="float16")
        yield infer(op, [], (2, 3), shape=(0, 3))
        yield infer(op, [], (2, 3), shape=())
    yield case("_full", shape=(2, 3), value=2.5)
    yield case("_full", shape=(2, 3), value=2.5, dtype="int32")
    for params in [
        {"start": 0, "stop": 5},
        {"start": 1, "stop": 7, "step": 2},
        {"start": 5, "stop": 0, "step": -2},
        {"start": 0, "stop": 1, "step": 0.3},
        {"start": 0, "stop": 3, "repeat": 2},
        {"start": 0, "stop": 3, "dtype": "int64"},
        {"start": 3, "stop": 3},
        {"start": 0, "stop": 3, "step": 0},
        {"start": 3, "stop": None},
        {"start": 0, "stop": 3, "step": -1},
    ]:
        yield case("_arange", **params)
    for params in [{"N": 3}, {"N": 3, "M": 4, "k": 1}, {"N": 3, "M": 2, "k": -1, "dtype": "int32"}]:
        yield case("_eye", **params)


def indexing_cases():
    for params in [
        {},
        {"axis": 1},
        {"axis": -1},
        {"mode": "wrap"},
        {"axis": 1, "mode": "wrap"},
        {"axis": 3},
        {"mode": "raise", "train": False},
    ]:
        yield case("take", ("any", (4, 3, 2)), ("wild", (2, 3)), **params)
        yield case("take", ("any", (4, 3, 2)), ("count", (2,), "int32"), **params)
    yield case("take", ("any", (4, 3, 2)), ("any", (5,)))
    yield infer("take", [(4, 0, 2), (2, 3)])
    yield infer("take", [(4, 3, 2), (0, 3)])
    yield case("Embedding", ("wild", (2, 3)), ("any", (4, 5)), input_dim=4, output_dim=5)
    yield case("Embedding", ("count", (2, 3), "int32"), ("any", (4, 5)), input_dim=4, output_dim=5)
    yield infer("Embedding", [(2, 0), ()], input_dim=4, output_dim=5)
    for index, params in [
        ((2, 3), {}),
        ((2, 3, 1), {}),
        ((2, 4), {"axis": 1}),
        ((3, 4), {"axis": 0, "keepdims": True}),
        ((2, 3), {"mode": "wrap"}),
        ((2, 4), {}),
        ((2, 3), {"keepdims": True}),
    ]:
        yield case("pick", ("any", (2, 3, 4)), ("wild", index), **params)
    yield case("choose_element_0index", ("any", (3, 4)), ("wild", (3,)))
    yield case("pick", ("any", (4,)), ("wild", (1,)), axis=0)
    yield infer("pick", [(2, 3, 4), ()])
    yield infer("pick", [(2, 0, 4), ()])
    yield case("batch_take", ("any", (3, 4)), ("wild", (3,), "int32"))
    for condition in ((2, 3), (2,), (3,), (1, 3)):
        yield case("where", ("small", condition), ("any", (2, 3)), ("other", (2, 3)))
    yield case("where", ("small", (2, 3), "int32"), ("any", (2, 3)), ("other", (2, 3)))
    yield infer("where", [(2, 3), (2, 0), ()])
    yield infer("where", [(2, 3), (), ()])
    for params in [
        {"depth": 3},
        {"depth": 5, "on_value": 2.0, "off_value": -1.0},
        {"depth": 3, "dtype": "int32"},
        {"depth": 0},
    ]:
        yield case("one_hot", ("wild", (2, 3)), **params)
        yield case("one_hot", ("count", (4,), "int32"), train=False, **params)
    yield infer("one_hot", [(2, 0)], depth=3)
    for data, index in [
        ((3, 4), (2, 5)),
        ((3, 4), (1, 5)),
        ((3, 4, 2), (2, 2, 2)),
        ((3, 4), (3, 2)),
        ((3, 4), (2,)),
    ]:
        yield case("gather_nd", ("any", data), ("count", index))
    yield case("gather_nd", ("any", (4, 4)), ("small", (2, 5)))
    yield case("scatter_nd", ("any", (2,)), ("one", (2, 2)), shape=(3, 4))
    yield case("scatter_nd", ("any", (1, 4)), ("count", (1, 1)), shape=(5, 4))
    for params in [{}, {"axis": 0}, {"axis": None}, {"is_ascend": False}, {"axis": 3}]:
        yield case("sort", ("any", (2, 3, 4)), **params)
        yield case("argsort", ("any", (2, 3, 4)), **params)
    yield case("argsort", ("any", (2, 3)), dtype="int32", train=False)
    for ret in ("indices", "value", "both", "mask"):
        for params in [
            {},
            {"k": 2},
            {"k": 2, "axis": 1},
            {"k": 2, "axis": None},
            {"k": 0},
            {"k": 2, "is_ascend": True},
            {"k": 5},
        ]:
            yield case("topk", ("any", (2, 3, 4)), ret_typ=ret, **params)
        yield infer("topk", [(2, 0, 4)], ret_typ=ret, k=2)
    yield case("topk", ("any", (2, 3)), dtype="int32", train=False)


def loss_cases():
    for op in ("softmax", "log_softmax", "softmin"):
        for params in [{}, {"axis": 1}, {"axis": 0}, {"axis": -2}, {"temperature": 2.0}, {"axis": 3}]:
            yield case(op, ("any", (2, 3, 4)), **params)
        yield case(op, ("any", (2, 3), "float64"))
        yield case(op, ("special", (2, 5)))
        yield case(op, ("any", (2, 3)), dtype="float64", train=False)
        yield infer(op, [(2, 0)], (0, 3))
        yield infer_type(op, ["float16"], dtype="float32")
    yield case("softmax", ("any", (2, 4)), ("count", (2,), "int32"), use_length=True)
    yield case("softmax", ("any", (2, 4, 3)), ("count", (2, 3), "int32"), use_length=True, axis=1)
    for data in [(2, 3), (2, 3, 4)]:
        for mode in ("instance", "channel"):
            yield case("SoftmaxActivation", ("any", data), mode=mode)
    for params in [
        {},
        {"grad_scale": 2.0},
        {"use_ignore": True, "ignore_label": 1},
        {"normalization": "batch"},
        {"normalization": "valid"},
        {"normalization": "valid", "use_ignore": True, "ignore_label": 2},
        {"out_grad": True},
        {"smooth_alpha": 0.1},
        {"smooth_alpha": 0.1, "use_ignore": True, "ignore_label": 0},
    ]:
        yield case("SoftmaxOutput", ("any", (5, 4)), ("count", (5,)), **params)
        yield case("SoftmaxOutput", ("any", (2, 4, 3)), ("count", (2, 3)), multi_output=True, **params)
        yield case("SoftmaxOutput", ("any", (2, 3, 4)), ("count", (2, 3)), preserve_shape=True, **params)
        yield case("SoftmaxOutput", ("any", (2, 4)), ("unit", (2, 4)), **params)
    yield case("SoftmaxOutput", ("any", (2, 4, 3, 2)), ("count", (2, 3, 2)), multi_output=True)
    yield case("SoftmaxOutput", ("any", (2, 4, 3, 2)), ("count", (2, 1, 3, 2)), multi_output=True)
    yield case("SoftmaxOutput", ("any", (2, 4, 3, 2)), ("count", (2, 3, 1)), multi_output=True)
    yield case("Softmax", ("any", (5, 4)), ("count", (5,)))
    yield infer("SoftmaxOutput", [(2, 3), ()])
    yield infer("SoftmaxOutput", [(2, 3, 4), ()])
    yield infer("SoftmaxOutput", [(2, 3, 4, 5), ()], multi_output=True)
    yield infer("SoftmaxOutput", [(0, 3), ()])
    yield infer_type("SoftmaxOutput", ["float64", ""])
    for op in ("LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput"):
        for data, label in [((3, 2), (3, 2)), ((3, 1), (3,)), ((4,), (4,)), ((3, 2), (2, 3)), ((2, 3, 2), (2, 6))]:
            yield case(op, ("any", data), ("unit", label), grad_scale=1.5)
        yield infer(op, [(3, 1), ()])
        yield infer(op, [(3, 2), ()])
        yield infer(op, [(0, 2), ()])
    for params in [
        {},
        {"grad_scale": 3.0},
        {"normalization": "batch"},
        {"normalization": "valid"},
        {"normalization": "valid", "valid_thresh": 1.0},
    ]:
        yield case("MakeLoss", ("any", (4, 3)), **params)
    yield case("softmax_cross_entropy", ("any", (5, 4)), ("count", (5,)))


def layer_cases():
    for params in [
        {},
        {"fix_gamma": False},
        {"fix_gamma": False, "use_global_stats": True},
        {"fix_gamma": False, "eps": 0.1, "momentum": 0.5},
        {"fix_gamma": False, "output_mean_var": True},
        {"fix_gamma": False, "axis": -1},
        {"fix_gamma": False, "axis": 0},
    ]:
        for data in [(2, 3, 3, 2), (4, 3), (2, 3, 4), (2, 3, 2, 2, 2)]:
            channels = data[params.get("axis", 1)]
            inputs = [("any", data), *((kind, (channels,)) for kind in ("positive", "other", "unit", "above_one"))]
            for train in (True, False):
                yield case("BatchNorm", *inputs, train=train, **params)
            yield case("BatchNorm", *((*one, "float64") for one in inputs), **params)
    yield infer("BatchNorm", [(2, 3, 0), (), (), (), ()])
    yield infer("BatchNorm", [(2, 0, 4), (), (), (), ()])
    yield infer("BatchNorm", [(), (3,), (), (), ()])
    yield infer_type("BatchNorm", ["float16", "", "", "", ""])
    yield infer_type("BatchNorm", ["float64", "", "", "", ""])
    for data in [(2, 3, 4), (2, 3, 2, 3), (2, 3)]:
        yield case("InstanceNorm", ("any", data), ("positive", (3,)), ("other", (3,)))
        yield case("InstanceNorm", ("any", data), ("positive", (3,)), ("other", (3,)), eps=0.1)
        for mode in ("instance", "channel", "spatial"):
            yield case("L2Normalization", ("any", data), mode=mode)
            yield case("L2Normalization", ("any", data, "float64"), mode=mode, eps=0.5)
    yield infer("InstanceNorm", [(2, 3, 4), (), ()])
    yield infer("L2Normalization", [(2, 0, 4)])
    for params in [{}, {"axis": 1}, {"axis": 0, "eps": 0.1}, {"output_mean_var": True}]:
        size = (2, 3, 4)[params.get("axis", -1)]
        yield case("LayerNorm", ("any", (2, 3, 4)), ("positive", (size,)), ("other", (size,)), **params)
    yield infer("LayerNorm", [(2, 0, 4), (), ()])
    for groups in (1, 2, 3):
        yield case(
            "GroupNorm", ("any", (2, 6, 3)), ("positive", (groups,)), ("other", (groups,)), num_groups=groups
        )
        yield case("GroupNorm", ("any", (2, 6, 3)), ("positive", (6,)), ("other", (6,)), num_groups=groups)
    for params in [{"nsize": 3}, {"nsize": 5, "alpha": 0.1, "beta": 0.5, "knorm": 1.0}, {"nsize": 1}]:
        yield case("LRN", ("any", (2, 6, 2, 2)), **params)
    windows = [
        {"kernel": (2, 2)},
        {"kernel": (2, 2), "stride": (2, 2)},
        {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)},
        {"kernel": (3, 2), "stride": (1, 2), "pad": (0, 1)},
        {"kernel": (2, 2), "stride": (2, 2), "pooling_convention": "full"},
        {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1), "pooling_convention": "full"},
        {"global_pool": True},
        {"global_pool": True, "kernel": (2, 2), "stride": (2, 2), "pad": (1, 1)},
        {"kernel": (1, 1), "stride": (3, 3), "pooling_convention": "full"},
        {"kernel": (6, 6)},
        {"kernel": (7, 7), "pad": (1, 1)},
        {"kernel": (5, 6)},
        {"kernel": (2, 2), "stride": (3, 3), "pad": (1, 1), "pooling_convention": "full"},
        {"kernel": (3,)},
        {"kernel": (2, 2), "pad": (2, 2)},
        {},
        {"kernel": (2, 2), "stride": (2,)},
        {"kernel": (0, 2)},
    ]
    for params in windows:
        for kind, more in [
            ("max", {}),
            ("avg", {}),
            ("avg", {"count_include_pad": False}),
            ("sum", {}),
            ("lp", {"p_value": 2}),
            ("lp", {"p_value": 1}),
        ]:
            yield case("Pooling", ("any", (1, 2, 5, 6)), pool_type=kind, **more, **params)
            if "lp" not in kind:
                yield case("Pooling", ("small", (1, 2, 5, 6), "float64"), pool_type=kind, **more, **params)
    for kind in ("max", "avg", "sum"):
        yield case("Pooling", ("any", (2, 3, 7)), pool_type=kind, kernel=3, stride=2, pad=1)
        yield case(
            "Pooling", ("any", (2, 3, 7)), pool_type=kind, kernel=(3,), stride=(2,), pooling_convention="same"
        )
        yield case(
            "Pooling", ("any", (1, 2, 4, 3, 5)), pool_type=kind, kernel=(2, 2, 3), stride=(2, 1, 2), pad=(1, 0, 1)
        )
        yield case(
            "Pooling",
            ("any", (1, 2, 4, 3, 5)),
            pool_type=kind,
            kernel=(2, 2, 3),
            stride=(3, 1, 2),
            pad=(1, 0, 1),
            pooling_convention="full",
        )
        yield case("Pooling", ("any", (1, 2, 4, 3, 5)), pool_type=kind, global_pool=True)
        yield case("Pooling", ("any", (1, 5, 6, 2)), pool_type=kind, kernel=(2, 2), layout="NHWC")
        yield case("Pooling", ("any", (1, 7, 2)), pool_type=kind, kernel=(2,), layout="NWC")
        yield case("Pooling", ("any", (3, 4)), pool_type=kind, kernel=(2,))
    yield infer("Pooling", [(0, 3, 5, 6)], kernel=(2, 2))
    yield infer("Pooling", [(2, 3, 5, 0)], kernel=(2, 2))
    yield infer("Pooling", [(2, 3, 5, 6)], kernel=(2, 2), stride=(2, 2), pooling_convention="full")
    for params in [{"scale": 2}, {"scale": 3}, {"scale": 1}]:
        yield case("UpSampling", ("any", (1, 2, 2, 3)), sample_type="nearest", num_args=1, **params)
    yield case(
        "UpSampling", ("any", (1, 2, 2, 3)), ("other", (1, 3, 4, 6)), sample_type="nearest", num_args=2, scale=2
    )
    yield case(
        "UpSampling",
        ("any", (1, 2, 2, 3)),
        ("other", (1, 2, 4, 6)),
        sample_type="nearest",
        num_args=2,
        scale=2,
        multi_input_mode="sum",
    )
    for scale, kernel in ((2, 4), (3, 5), (1, 1)):
        yield case(
            "UpSampling",
            ("any", (1, 2, 3, 4)),
            ("other", (2, 1, kernel, kernel)),
            sample_type="bilinear",
            num_args=2,
            scale=scale,
            num_filter=2,
        )
    yield infer("UpSampling", [(1, 2, 3, 4)], sample_type="nearest", num_args=1, scale=2)
    yield infer("UpSampling", [(1, 2, 3, 4), ()], sample_type="bilinear", num_args=2, scale=2, num_filter=2)
    yield case("Dropout", ("any", (2, 3)), p=0.5, train=False)
    yield case("Dropout", ("any", (2, 3)), p=0.0)
    yield case("Dropout", ("any", (2, 3)), p=1.5)
    yield infer("Dropout", [(2, 0)], (0, 3))


def all_cases() -> list[dict]:
    """Return every case, in a fixed order."""
    groups = (
        elementwise_cases,
        reduce_cases,
        tensor_cases,
        slicing_cases,
        joining_cases,
        linear_cases,
        creation_cases,
        indexing_cases,
        loss_cases,
        layer_cases,
    )
    return [one for group in groups for one in group()]


def text_of(value: object) -> str:
    """Return a parameter as MXNet's Python layer writes it."""
    return str(value)


def find(module, op: str):
    """Return the function of an operator."""
    if op.startswith("_linalg_"):
        return getattr(module.linalg, op[len("_linalg_") :])
    return getattr(module, op, None) or getattr(module._internal, op)


def call_in_mxnet(mx, one: dict) -> dict:
    """Run one call; return arrays by role."""
    function = find(mx.nd, one["op"])
    arrays = [values(*spec) for spec in one["inputs"]]
    inputs = [mx.nd.array(array, dtype=array.dtype) for array in arrays]
    params = dict(one["params"])
    if one["op"] in ("add_n", "ElementWiseSum"):
        params.pop("num_args")
    wants = [array.dtype.kind == "f" for array in arrays]
    for array, wanted in zip(inputs, wants):
        if wanted:
            array.attach_grad()
    with mx.autograd.record(train_mode=one["train"]):
        outputs = function(*inputs, **params)
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    result = {"outputs": [output.asnumpy() for output in outputs]}
    if params.get("act_type") == "rrelu":
        # Outside of training MXNet leaves the slopes it drew unset, and differentiates with them.
        return {"outputs": result["outputs"][:1]}
    if any(wants):
        heads = [values("grad", output.shape, str(np.dtype(output.dtype))) for output in outputs]
        try:
            mx.autograd.backward(
                outputs, [mx.nd.array(head, dtype=head.dtype) for head in heads], train_mode=one["train"]
            )
            result["grads"] = [array.grad.asnumpy() if want else None for array, want in zip(inputs, wants)]
            result["heads"] = heads
        except mx.MXNetError:
            result["no_grads"] = True
    if one["op"] == "BatchNorm":
        result["moving"] = [array.asnumpy() for array in inputs[3:]]
    return result


def infer_in_mxnet(mx, one: dict) -> dict:
    """Infer the shapes or types of one operator; return those of inputs and outputs."""
    function = find(mx.sym, one["op"])
    params = dict(one["params"])
    if one["op"] in ("add_n", "ElementWiseSum"):
        params.pop("num_args")
    known = one["shapes"] if one["what"] == "shape" else one["dtypes"]
    names = [f"in{index}" for index in range(len(known))]
    symbol = function(*(mx.sym.Variable(name) for name in names), name="node", **params)
    given = {name: value for name, value in zip(names, known) if value}
    if one["out"]:
        # Adding an array of known shape or type tells the operator what its first output has.
        first = symbol[0] if len(symbol.list_outputs()) > 1 else symbol
        symbol = mx.sym.elemwise_add(first, mx.sym.Variable("out"))
        given["out"] = one["out"]
    if one["what"] == "shape":
        arguments, outputs, states = symbol.infer_shape_partial(**given)
        convert = list
    else:
        arguments, outputs, states = symbol.infer_type_partial(**{k: np.dtype(v) for k, v in given.items()})

        def convert(kind):
            return "" if kind is None else np.dtype(kind).name

    found = dict(zip(symbol.list_arguments(), map(convert, arguments)))
    found.update(zip(symbol.list_auxiliary_states(), map(convert, states)))
    return {"inputs": [found[name] for name in names], "outputs": list(map(convert, outputs))}


def interfaces() -> list[dict]:
    """Return names, aliases and parameters of the operators, as the library tells them."""
    import ctypes

    from mxnet.base import _LIB, OpHandle, c_str, check_call, py_str

    names, size = ctypes.POINTER(ctypes.c_char_p)(), ctypes.c_uint()
    check_call(_LIB.MXListAllOpNames(ctypes.byref(size), ctypes.byref(names)))
    found: dict[str, dict] = {}
    for name in sorted(py_str(names[index]) for index in range(size.value)):
        if name.startswith(
            ("_np", "_backward", "_contrib", "_sg_", "_image", "_sparse", "_random", "_sample", "_cv")
        ):
            continue
        handle, count = OpHandle(), ctypes.c_uint()
        real, text, key, kind = (ctypes.c_char_p() for _ in range(4))
        args, types, docs = (ctypes.POINTER(ctypes.c_char_p)() for _ in range(3))
        check_call(_LIB.NNGetOpHandle(c_str(name), ctypes.byref(handle)))
        pointers = (real, text, count, args, types, docs, key, kind)
        check_call(_LIB.MXSymbolGetAtomicSymbolInfo(handle, *map(ctypes.byref, pointers)))
        rows = [(py_str(args[index]), py_str(types[index])) for index in range(count.value)]
        entry = found.setdefault(py_str(real.value), {"what": "interface", "aliases": [], "rows": rows})
        if name != py_str(real.value):
            entry["aliases"].append(name)
    return [{**entry, "op": op} for op, entry in sorted(found.items()) if not op.startswith("_np")]


def serve() -> None:
    """Answer cases that arrive by number on standard input, until it ends."""
    warnings.filterwarnings("ignore")
    import mxnet as mx

    cases = all_cases()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin:
        one = cases[int(line)] if int(line) >= 0 else {}
        try:
            if not one:
                result = {"interfaces": interfaces()}
            else:
                result = call_in_mxnet(mx, one) if one["what"] == "call" else infer_in_mxnet(mx, one)
        except Exception as error:
            text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+ ", "", str(error).strip().splitlines()[-1])
            result = {"error": type(error).__name__, "text": text[:160]}
        blob = pickle.dumps(result)
        answers.write(len(blob).to_bytes(8, "little") + blob)
        answers.flush()


class Oracle:
    """A process that runs MXNet, started again when a case kills it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None

    def ask(self, number: int) -> dict:
        """Return the result of one case, or for a negative number the interfaces."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        self.process.stdin.write(f"{number}\n".encode())
        self.process.stdin.flush()
        size = self.process.stdout.read(8)
        if len(size) < 8:
            self.process.wait()
            self.process = None
            return {"error": "died", "text": ""}
        return pickle.loads(self.process.stdout.read(int.from_bytes(size, "little")))


class Store:
    """Arrays, each kept once, in one flat array a type."""

    def __init__(self) -> None:
        self.parts: dict[str, list[np.ndarray]] = {}
        self.sizes: dict[str, int] = {}
        self.places: dict[tuple, int] = {}

    def put(self, array: np.ndarray) -> list:
        """Return a reference to an array: type, first element, shape."""
        array = np.ascontiguousarray(array)
        kind = array.dtype.name
        key = (kind, array.tobytes())
        if key not in self.places:
            self.places[key] = self.sizes.get(kind, 0)
            self.parts.setdefault(kind, []).append(array.reshape(-1))
            self.sizes[kind] = self.places[key] + array.size
        return [kind, self.places[key], list(array.shape)]

    def save(self, path: Path) -> None:
        """Write all arrays."""
        np.savez_compressed(path, **{kind: np.concatenate(parts) for kind, parts in self.parts.items()})


def main() -> None:
    """Record all cases."""
    oracle, store = Oracle(), Store()
    lines = [json.dumps(one) for one in oracle.ask(-1)["interfaces"]]
    for number, one in enumerate(all_cases()):
        result = oracle.ask(number)
        line = {"what": one["what"], "op": one["op"], "params": {k: text_of(v) for k, v in one["params"].items()}}
        if one["what"] == "call":
            line["inputs"] = [store.put(values(*spec)) for spec in one["inputs"]]
            if not one["train"]:
                line["train"] = False
        else:
            line["given"] = one["shapes"] if one["what"] == "shape" else one["dtypes"]
            if one["out"]:
                line["out"] = one["out"]
        if "error" in result:
            line["error"] = result["error"]
            line["text"] = result["text"]
        elif one["what"] == "call":
            for key in ("outputs", "heads", "grads", "moving"):
                if key in result:
                    line[key] = [None if array is None else store.put(array) for array in result[key]]
            if "no_grads" in result:
                line["no_grads"] = True
        else:
            line["found"] = result
        lines.append(json.dumps(line))
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "operators.jsonl").write_text("\n".join(lines) + "\n")
    store.save(GOLDEN / "operators.npz")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="answer cases by number (used by the recorder itself)")
    serve() if parser.parse_args().serve else main()
