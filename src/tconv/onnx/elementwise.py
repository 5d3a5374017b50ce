"""Operators on every element, reductions, losses, and products of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from tconv.onnx.graph import Converter, Site, converts
from tconv.operators.reduce import reduced_axes
from tconv.operators.registry import find, names

UNARY = {
    **{name: name.capitalize() for name in ("abs", "sign", "relu", "reciprocal", "sqrt", "exp", "log", "sigmoid")},
    **{name: name.capitalize() for name in ("softsign", "erf", "floor", "ceil")},
    **{name: name.capitalize() for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": f"A{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "negative": "Neg",
}


@converts(*UNARY)
def _unary(site: Site) -> str:
    return site.add(UNARY[site.operator], site.inputs[0])


@converts("_copy", "BlockGrad", "MakeLoss", "make_loss", "LinearRegressionOutput", "MAERegressionOutput")
def _same(site: Site) -> str:
    return site.inputs[0]


@converts("Dropout")
def _dropout(site: Site) -> str:
    if site.params.mode == "always":
        raise site.refusal("mode", "'always'", "'training'")
    return site.inputs[0]


@converts("Cast", "amp_cast")
def _cast(site: Site) -> str:
    return site.cast(site.inputs[0], site.out_dtypes[0])


@converts("square")
def _square(site: Site) -> str:
    return site.add("Mul", site.inputs[0], site.inputs[0])


@converts("rsqrt")
def _rsqrt(site: Site) -> str:
    return site.add("Reciprocal", site.add("Sqrt", site.inputs[0]))


def _cube_root(site: Site) -> str:
    root = site.add("Pow", site.add("Abs", site.inputs[0]), site.number(1 / 3))
    return site.add("Mul", site.add("Sign", site.inputs[0]), root)


@converts("cbrt")
def _cbrt(site: Site) -> str:
    return _cube_root(site)


@converts("rcbrt")
def _rcbrt(site: Site) -> str:
    return site.add("Reciprocal", _cube_root(site))


@converts("expm1")
def _expm1(site: Site) -> str:
    return site.add("Sub", site.add("Exp", site.inputs[0]), site.number(1))


@converts("log1p")
def _log1p(site: Site) -> str:
    return site.add("Log", site.add("Add", site.inputs[0], site.number(1)))


@converts("log2", "log10")
def _log_of_base(site: Site) -> str:
    factor = 1 / math.log(2 if site.operator == "log2" else 10)
    return site.add("Mul", site.add("Log", site.inputs[0]), site.number(factor))


@converts("degrees", "radians")
def _angle(site: Site) -> str:
    factor = 180 / math.pi if site.operator == "degrees" else math.pi / 180
    return site.add("Mul", site.inputs[0], site.number(factor))


@converts("trunc", "fix", "round")
def _towards_zero(site: Site) -> str:
    size = site.add("Abs", site.inputs[0])
    if site.operator == "round":
        size = site.add("Add", size, site.number(0.5))
    return site.add("Mul", site.add("Sign", site.inputs[0]), site.add("Floor", size))


@converts("rint")
def _rint(site: Site) -> str:
    return site.add("Ceil", site.add("Sub", site.inputs[0], site.number(0.5)))


@converts("logical_not")
def _logical_not(site: Site) -> str:
    return site.cast(site.add("Equal", site.inputs[0], site.number(0)), site.out_dtypes[0])


@converts("clip")
def _clip(site: Site) -> str:
    return site.add("Clip", site.inputs[0], site.number(site.params.a_min), site.number(site.params.a_max))


@converts("smooth_l1")
def _smooth_l1(site: Site) -> str:
    (x,), square = site.inputs, site.params.scalar**2
    size = site.add("Abs", x)
    near = site.add("Mul", site.add("Mul", x, x), site.number(0.5 * square))
    far = site.add("Sub", size, site.number(0.5 / square))
    return site.add("Where", site.add("Less", size, site.number(1 / square)), near, far)


@converts("hard_sigmoid")
def _hard_sigmoid(site: Site) -> str:
    return site.add("HardSigmoid", site.inputs[0], alpha=site.params.alpha, beta=site.params.beta)


@converts("Activation")
def _activation(site: Site) -> str:
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}
    return site.add(kinds[site.params.act_type], site.inputs[0])


@converts("LeakyReLU")
def _leaky(site: Site) -> str:
    params, data = site.params, site.inputs[0]
    kind = params.act_type
    if kind == "prelu":
        rank, rank_of_slope = site.rank(), site.rank(1)
        behind = (1,) * (rank - max(rank_of_slope, 2))
        slope = site.reshape(site.inputs[1], [*(0,) * rank_of_slope, *behind]) if behind else site.inputs[1]
        return site.add("PRelu", data, slope)
    if kind == "elu":
        return site.add("Elu", data, alpha=params.slope)
    if kind == "selu":
        return site.add("Selu", data)
    if kind == "gelu":
        inner = site.add("Erf", site.add("Mul", data, site.number(math.sqrt(0.5))))
        half = site.add("Mul", data, site.number(0.5))
        return site.add("Mul", half, site.add("Add", inner, site.number(1)))
    slope_of_all = (params.lower_bound + params.upper_bound) / 2 if kind == "rrelu" else params.slope
    return site.add("LeakyRelu", data, alpha=slope_of_all)


@converts("LogisticRegressionOutput")
def _logistic(site: Site) -> str:
    return site.add("Sigmoid", site.inputs[0])


@converts("softmax", "softmin", "log_softmax")
def _softmax(site: Site) -> str:
    params, x = site.params, site.inputs[0]
    if params.use_length and len(site.inputs) > 1:
        raise site.refusal("use_length", True, "False")
    if site.operator == "softmin":
        x = site.add("Neg", x)
    if params.temperature not in (None, 1):
        x = site.add("Div", x, site.number(params.temperature))
    if site.out_dtypes[0] != site.dtypes[0]:
        x = site.cast(x, site.out_dtypes[0])
    return site.add("LogSoftmax" if site.operator == "log_softmax" else "Softmax", x, axis=params.axis)


@converts("SoftmaxActivation")
def _softmax_activation(site: Site) -> str:
    return site.add("Softmax", site.inputs[0], axis=1 if site.params.mode == "channel" else -1)


@converts("SoftmaxOutput")
def _softmax_output(site: Site) -> str:
    params = site.params
    if params.multi_output or params.preserve_shape or site.rank() <= 2:
        return site.add("Softmax", site.inputs[0], axis=1 if params.multi_output else -1)
    flat = site.add("Softmax", site.add("Flatten", site.inputs[0], axis=1), axis=1)
    return site.add("Reshape", flat, site.shape_of())


Binary = Callable[[Site, str, str], str]


def _calls(op: str) -> Binary:
    return lambda site, a, b: site.add(op, a, b)


def _compares(op: str, negated: bool = False) -> Binary:
    def compare(site: Site, a: str, b: str) -> str:
        found = site.add(op, a, b)
        return site.cast(site.add("Not", found) if negated else found, site.out_dtypes[0])

    return compare


def _connects(op: str) -> Binary:
    def connect(site: Site, a: str, b: str) -> str:
        return site.cast(site.add(op, site.cast(a, np.bool_), site.cast(b, np.bool_)), site.out_dtypes[0])

    return connect


def _modulo(site: Site, a: str, b: str) -> str:
    zero = site.number(0)
    rest = site.add("Sub", a, site.add("Mul", site.add("Floor", site.add("Div", a, b)), b))
    return site.add("Where", site.add("Equal", b, zero), zero, rest)


def _hypot(site: Site, a: str, b: str) -> str:
    return site.add("Sqrt", site.add("Add", site.add("Mul", a, a), site.add("Mul", b, b)))


BINARY: dict[str, tuple[Binary, str]] = {
    "add": (_calls("Add"), "plus"),
    "sub": (_calls("Sub"), "minus"),
    "mul": (_calls("Mul"), "mul"),
    "div": (_calls("Div"), "div"),
    "mod": (_modulo, "mod"),
    "power": (_calls("Pow"), "power"),
    "maximum": (_calls("Max"), "maximum"),
    "minimum": (_calls("Min"), "minimum"),
    "hypot": (_hypot, "hypot"),
    "equal": (_compares("Equal"), "equal"),
    "not_equal": (_compares("Equal", negated=True), "not_equal"),
    "greater": (_compares("Greater"), "greater"),
    "greater_equal": (_compares("GreaterOrEqual"), "greater_equal"),
    "lesser": (_compares("Less"), "lesser"),
    "lesser_equal": (_compares("LessOrEqual"), "lesser_equal"),
    "logical_and": (_connects("And"), "logical_and"),
    "logical_or": (_connects("Or"), "logical_or"),
    "logical_xor": (_connects("Xor"), "logical_xor"),
}
"""By the name in `broadcast_NAME`: what is appended, and the name in `_NAME_scalar`."""


def _with_scalar(site: Site) -> tuple[str, str]:
    """Return data and scalar, both in the type in which they are taken together."""
    data, dtype = site.inputs[0], site.out_dtypes[0]
    if dtype != site.dtypes[0]:
        data = site.cast(data, dtype)
    return data, site.constant(site.params.scalar, dtype)


def _enter_binary(name: str, function: Binary, scalar_name: str) -> None:
    def enter(wanted: Iterable[str], converter: Converter) -> None:
        converts(*(one for one in wanted if one in names() and find(one).name == one))(converter)

    enter((f"elemwise_{name}", f"_{name}", f"broadcast_{name}"), lambda site: function(site, *site.inputs))
    enter((f"_{scalar_name}_scalar",), lambda site: function(site, *_with_scalar(site)))
    enter((f"_r{scalar_name}_scalar",), lambda site: function(site, *reversed(_with_scalar(site))))


for _name, (_function, _scalar_name) in BINARY.items():
    _enter_binary(_name, _function, _scalar_name)


@converts("add_n")
def _add_n(site: Site) -> str:
    return site.add("Sum", *site.inputs)


@converts("where")
def _where(site: Site) -> str:
    condition, x, y = site.inputs
    met = site.cast(condition, np.bool_)
    if site.rank(0) == 1 and site.rank(1) > 1:
        met = site.reshape(met, [-1, *(1,) * (site.rank(1) - 1)])
    return site.add("Where", met, x, y)


def _reduced(site: Site, op: str, data: str, axes: list[int]) -> str:
    """Append a reduction; where MXNet leaves one axis of a scalar, so does it."""
    kept = int(site.params.keepdims)
    if op == "ReduceSum":
        out = site.add(op, data, site.integers(axes), keepdims=kept)
    else:
        out = site.add(op, data, axes=axes, keepdims=kept)
    return site.reshape(out, [1]) if not kept and len(axes) == site.rank() else out


@converts("sum", "mean", "prod", "max", "min", "nansum", "nanprod")
def _reduction(site: Site) -> str:
    params, data, name = site.params, site.inputs[0], site.operator
    if name.startswith("nan"):
        name = name.removeprefix("nan")
        data = site.add("Where", site.add("IsNaN", data), site.number(name == "prod"), data)
    axes = list(reduced_axes(site.operator, params.axis, site.rank(), params.exclude))
    return _reduced(site, f"Reduce{name.capitalize()}", data, axes) if axes else data


@converts("norm")
def _norm(site: Site) -> str:
    params = site.params
    axes = list(reduced_axes(site.operator, params.axis, site.rank()))
    return site.cast(_reduced(site, f"ReduceL{params.ord}", site.inputs[0], axes), site.out_dtypes[0])


@converts("FullyConnected")
def _fully_connected(site: Site) -> str:
    data, weight, *bias = site.inputs
    if bias and (shape := site.shapes[2]) is not None and len(shape) > 1:
        bias = [site.reshape(bias[0], [-1])]
    if site.params.flatten:
        flat = data if site.rank() == 2 else site.add("Flatten", data, axis=1)
        return site.add("Gemm", flat, weight, *bias, transB=1)
    product = site.add("MatMul", data, site.transpose(weight, (1, 0)))
    return site.add("Add", product, bias[0]) if bias else product


def _turned(site: Site, place: int, transposed: bool) -> str:
    """Return an input with its last two axes exchanged if asked to."""
    rank = site.rank(place)
    order = [*range(rank - 2), rank - 1, rank - 2] if transposed and rank > 1 else range(rank)
    return site.transpose(site.inputs[place], list(order))


@converts("batch_dot", "_linalg_gemm2")
def _matrix_product(site: Site) -> str:
    params = site.params
    if getattr(params, "axis", -2) not in (-2, site.rank() - 2):
        raise site.refusal("axis", params.axis, "-2")
    product = site.add("MatMul", _turned(site, 0, params.transpose_a), _turned(site, 1, params.transpose_b))
    factor = getattr(params, "alpha", 1.0)
    return product if factor == 1 else site.add("Mul", product, site.number(factor))


@converts("dot")
def _dot(site: Site) -> str:
    if max(site.rank(0), site.rank(1)) > 2:
        raise site.refusal("lhs", f"{site.rank(0)} and {site.rank(1)} dimensions", "at most 2")
    product = site.add(
        "MatMul", _turned(site, 0, site.params.transpose_a), _turned(site, 1, site.params.transpose_b)
    )
    return site.reshape(product, [1]) if site.rank(0) == site.rank(1) == 1 else product
