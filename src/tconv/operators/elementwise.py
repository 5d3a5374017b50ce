"""Functions of one array, element by element: a table of rows and one factory that declares them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tconv.operators.compute import Function, arithmetic, no_gradient, quiet, widened
from tconv.operators.registry import Array, Call, Operator, register
from tconv.params import FLOAT, Params, named, param


@cache
def _erf_table() -> list[Array]:
    """Return, per power of the distance to the nearest of the points k / 64, the Taylor coefficients of erf."""
    points = [k / 64 for k in range(6 * 64 + 1)]
    rows = []
    for x in points:
        hermite = [1.0, 2 * x]
        while len(hermite) < 8:
            hermite.append(2 * x * hermite[-1] - 2 * (len(hermite) - 1) * hermite[-2])
        slope = 2 / math.sqrt(math.pi) * math.exp(-x * x)
        rows.append(
            [math.erf(x)] + [(-1) ** n * slope * value / math.factorial(n + 1) for n, value in enumerate(hermite)]
        )
    return list(np.array(rows).T.copy())


def erf(x: Array) -> Array:
    """Return the error function of a floating-point array, exact to its type's rounding."""
    table = _erf_table()
    size = np.minimum(np.abs(x.astype(np.float64)), 6.0)
    nearest = np.rint(np.nan_to_num(size * 64)).astype(np.intp)
    distance = size - nearest / 64
    value = table[-1][nearest]
    for column in table[-2::-1]:
        value = value * distance + column[nearest]
    signed: Array = np.copysign(value, x).astype(x.dtype)
    return signed


def _each(function: Callable[[float], float]) -> Function:
    """Return the array function of a scalar one."""
    vectorized = np.frompyfunc(function, 1, 1)
    return lambda x: np.asarray(vectorized(x.astype(np.float64)), dtype=np.float64).astype(x.dtype)


def _gamma_of(x: float) -> float:
    if x == 0:
        return math.copysign(math.inf, x)
    if math.isnan(x) or x == -math.inf or (x < 0 and x == math.floor(x)):
        return math.nan
    try:
        return math.gamma(x)
    except OverflowError:
        return math.inf


def _gammaln_of(x: float) -> float:
    if math.isinf(x) or (x <= 0 and x == math.floor(x)):
        return math.inf
    try:
        return math.lgamma(x)
    except OverflowError:
        return math.inf


def _digamma(x: float) -> float:
    if math.isnan(x):
        return math.nan
    if math.isinf(x) or (x <= 0 and x == math.floor(x)):
        return math.inf
    if x < 0:
        return _digamma(1 - x) - math.pi / math.tan(math.pi * x)
    shift = 0.0
    while x < 10:
        shift -= 1 / x
        x += 1
    square = 1 / (x * x)
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132))))
    return shift + math.log(x) - 0.5 / x - series


_gamma = _each(_gamma_of)
_gammaln = _each(_gammaln_of)
_psi = _each(_digamma)


def _erfinv(x: Array) -> Array:
    """Return the inverse of the error function: a first guess, and Halley's steps to the type's precision."""
    size = np.abs(x.astype(np.float64))
    tail = np.log((1 - size) * (1 + size))
    half = 2 / (math.pi * 0.147) + tail / 2
    guess = np.sqrt(np.sqrt(half * half - tail / 0.147) - half)
    for _ in range(3):
        step = (erf(guess) - size) / (2 / math.sqrt(math.pi) * np.exp(-guess * guess))
        guess = guess - step / (1 + guess * step)
    guess = np.where(size < 1, guess, np.where(size == 1, np.inf, np.nan))
    return np.copysign(guess, x).astype(x.dtype)


def _sign(x: Array) -> Array:
    above: Array = (x > 0).astype(x.dtype)
    return above - (x < 0)


def _round(x: Array) -> Array:
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.copysign(1, x), whole).astype(x.dtype)


def _rint(x: Array) -> Array:
    low, high = np.floor(x), np.ceil(x)
    return np.where(x - low <= high - x, low, high)


def _sigmoid(x: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-x))
    return result


def softrelu(x: Array) -> Array:
    """Return log(1 + exp(x)), x itself where that is the same in float32."""
    return np.where(x > 20, x, np.log1p(np.exp(x)))


def relu(x: Array) -> Array:
    """Return x above 0, NaN at NaN, else 0."""
    result: Array = np.maximum(x, x.dtype.type(0))
    return result


@dataclass(frozen=True)
class Unary:
    """A function of one array.

    Attributes
    ----------
    name : str
        The operator.
    function : callable
        The values, from an array in its working type.
    slope : callable or None
        The derivative, from the input and the output; None where MXNet passes zeros on.
    aliases : tuple of str
        Other names of it.
    exact : bool
        Whether `function` works in integers too, which then keep out of floating point.
    view : bool
        Whether the output is the input itself.
    doc : str
        What it computes.
    """

    name: str
    function: Function
    slope: Function | None
    doc: str
    aliases: tuple[str, ...] = ()
    exact: bool = False
    view: bool = False


_LN2, _LN10 = math.log(2), math.log(10)
_TO_DEGREES = 180 / math.pi

UNARY = (
    Unary("abs", np.abs, lambda x, y: _sign(x), "The absolute value.", exact=True),
    Unary("sign", _sign, lambda x, y: np.zeros_like(x), "-1, 0 or 1.", exact=True),
    Unary("negative", np.negative, lambda x, y: x.dtype.type(-1), "-x.", exact=True),
    Unary("square", np.square, lambda x, y: 2 * x, "x * x.", exact=True),
    Unary("relu", relu, lambda x, y: np.where(np.isnan(y), y, y > 0), "max(x, 0).", exact=True),
    Unary("reciprocal", lambda x: 1 / x, lambda x, y: -1 / (x * x), "1 / x."),
    Unary("sqrt", np.sqrt, lambda x, y: 0.5 / y, "The square root."),
    Unary("rsqrt", lambda x: 1 / np.sqrt(x), lambda x, y: -0.5 / (np.sqrt(x) * x), "1 / sqrt(x)."),
    Unary("cbrt", np.cbrt, lambda x, y: 1 / (3 * y * y), "The cube root."),
    Unary("rcbrt", lambda x: 1 / np.cbrt(x), lambda x, y: -1 / (3 * np.cbrt(x) * x), "1 / cbrt(x)."),
    Unary("exp", np.exp, lambda x, y: y, "e to the power x."),
    Unary("expm1", np.expm1, lambda x, y: np.exp(x), "exp(x) - 1, precise near 0."),
    Unary("log", np.log, lambda x, y: 1 / x, "The natural logarithm."),
    Unary("log2", np.log2, lambda x, y: 1 / (_LN2 * x), "The logarithm to base 2."),
    Unary("log10", np.log10, lambda x, y: 1 / (_LN10 * x), "The logarithm to base 10."),
    Unary("log1p", np.log1p, lambda x, y: 1 / (1 + x), "log(1 + x), precise near 0."),
    Unary("sin", np.sin, lambda x, y: np.cos(x), "The sine."),
    Unary("cos", np.cos, lambda x, y: -np.sin(x), "The cosine."),
    Unary("tan", np.tan, lambda x, y: y * y + 1, "The tangent."),
    Unary("arcsin", np.arcsin, lambda x, y: 1 / np.sqrt(1 - x * x), "The inverse sine."),
    Unary("arccos", np.arccos, lambda x, y: -1 / np.sqrt(1 - x * x), "The inverse cosine."),
    Unary("arctan", np.arctan, lambda x, y: 1 / (x * x + 1), "The inverse tangent."),
    Unary("sinh", np.sinh, lambda x, y: np.cosh(x), "The hyperbolic sine."),
    Unary("cosh", np.cosh, lambda x, y: np.sinh(x), "The hyperbolic cosine."),
    Unary("tanh", np.tanh, lambda x, y: 1 - y * y, "The hyperbolic tangent."),
    Unary("arcsinh", np.arcsinh, lambda x, y: 1 / np.hypot(x, x.dtype.type(1)), "The inverse hyperbolic sine."),
    Unary("arccosh", np.arccosh, lambda x, y: 1 / np.sqrt(x * x - 1), "The inverse hyperbolic cosine."),
    Unary("arctanh", np.arctanh, lambda x, y: 1 / (1 - x * x), "The inverse hyperbolic tangent."),
    Unary("degrees", np.degrees, lambda x, y: x.dtype.type(_TO_DEGREES), "Radians to degrees."),
    Unary("radians", np.radians, lambda x, y: x.dtype.type(1 / _TO_DEGREES), "Degrees to radians."),
    Unary("sigmoid", _sigmoid, lambda x, y: y * (1 - y), "1 / (1 + exp(-x))."),
    Unary("softsign", lambda x: x / (1 + np.abs(x)), lambda x, y: 1 / np.square(1 + np.abs(x)), "x / (1 + |x|)."),
    Unary("erf", erf, lambda x, y: 2 / math.sqrt(math.pi) * np.exp(-x * x), "The error function."),
    Unary(
        "erfinv",
        _erfinv,
        lambda x, y: 0.5 * math.sqrt(math.pi) * np.exp(y * y),
        "The inverse of the error function.",
    ),
    Unary("gamma", _gamma, lambda x, y: y * _psi(x), "The gamma function."),
    Unary("gammaln", _gammaln, lambda x, y: _psi(x), "The logarithm of the gamma function's size."),
    Unary("floor", np.floor, None, "The largest whole number not above x."),
    Unary("ceil", np.ceil, None, "The least whole number not below x."),
    Unary("trunc", np.trunc, None, "The whole number next to x towards 0."),
    Unary("fix", np.trunc, None, "The whole number next to x towards 0."),
    Unary("round", _round, None, "The nearest whole number; halves go away from 0."),
    Unary("rint", _rint, None, "The nearest whole number; halves go down."),
    Unary("logical_not", lambda x: x == 0, None, "1 where x is 0, else 0.", exact=True),
    Unary("zeros_like", np.zeros_like, None, "Zeros in the shape and type of the input.", exact=True),
    Unary("ones_like", np.ones_like, None, "Ones in the shape and type of the input.", exact=True),
    Unary(
        "_copy",
        np.positive,
        lambda x, y: x.dtype.type(1),
        "The input.",
        aliases=("identity",),
        exact=True,
        view=True,
    ),
    Unary(
        "BlockGrad",
        np.positive,
        None,
        "The input, through which no gradient passes back.",
        aliases=("stop_gradient",),
        exact=True,
        view=True,
    ),
)


def _declare_unary(row: Unary) -> None:
    def prepared(array: Array) -> Array:
        return arithmetic(array) if row.exact else widened(array)

    @quiet
    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        (x,) = inputs
        if row.view:
            return [x]
        if x.dtype == bool:
            return [np.asarray(row.function(x.astype(np.float32))).astype(bool)]
        if isinstance(row.function, np.ufunc) and x.dtype.kind == "f" and x.dtype.itemsize > 2:
            return [np.asarray(row.function(x, out=call.out))]
        return [np.asarray(row.function(prepared(x))).astype(x.dtype, copy=False)]

    @quiet
    def backward(
        call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
    ) -> Sequence[Array | None]:
        assert row.slope is not None
        (x,), (y,), (grad,) = inputs, outputs, out_grads
        slope = row.slope(prepared(x), prepared(y))
        return [(arithmetic(grad) * slope).astype(x.dtype, copy=False)]

    register(
        Operator(
            name=row.name,
            params=named(Params, row.name),
            inputs=("data",),
            forward=forward,
            backward=no_gradient if row.slope is None else backward,
            aliases=row.aliases,
            view=row.view,
            doc=row.doc,
        )
    )


for _row in UNARY:
    _declare_unary(_row)


class ClipParams(Params):
    """Parameters of `clip`."""

    a_min: float = param(FLOAT, "Least value.")
    a_max: float = param(FLOAT, "Largest value.")


class SmoothL1Params(Params):
    """Parameters of `smooth_l1`."""

    scalar: float = param(FLOAT, "What the input is multiplied by near 0.", default=1.0)


class HardSigmoidParams(Params):
    """Parameters of `hard_sigmoid`."""

    alpha: float = param(FLOAT, "Slope.", default=0.2)
    beta: float = param(FLOAT, "Value at 0.", default=0.5)


def _bounds(params: ClipParams, x: Array) -> tuple[Array, Array]:
    low, high = np.float64(params.a_min), np.float64(params.a_max)
    return low.astype(x.dtype), high.astype(x.dtype)


def _clip(params: ClipParams, x: Array) -> Array:
    low, high = _bounds(params, x)
    return np.where(x > high, high, np.where(x < low, low, x))


def _clip_slope(params: ClipParams, x: Array) -> Array:
    low, high = _bounds(params, x)
    outside: Array = (x > high) | (x < low)
    return ~outside


def _smooth_l1(params: SmoothL1Params, x: Array) -> Array:
    square = params.scalar * params.scalar
    return np.where(np.abs(x) > 1 / square, np.abs(x) - 0.5 / square, 0.5 * x * x * square)


def _smooth_l1_slope(params: SmoothL1Params, x: Array) -> Array:
    square = params.scalar * params.scalar
    return np.where(np.abs(x) > 1 / square, np.sign(x), square * x)


def _hard_sigmoid(params: HardSigmoidParams, x: Array) -> Array:
    return np.clip(params.alpha * x + params.beta, 0, 1)


def _hard_sigmoid_slope(params: HardSigmoidParams, x: Array) -> Array:
    line = params.alpha * x + params.beta
    return np.where((line > 0) & (line < 1), x.dtype.type(params.alpha), 0)


def _declare_shaped(base: type[Params], name: str, function: Function, slope: Function, doc: str) -> None:
    """Declare a function of one array whose parameters shape it."""

    @quiet
    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        return [function(call.params, arithmetic(inputs[0])).astype(inputs[0].dtype, copy=False)]

    @quiet
    def backward(
        call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
    ) -> Sequence[Array | None]:
        grad = arithmetic(out_grads[0]) * slope(call.params, arithmetic(inputs[0]))
        return [grad.astype(inputs[0].dtype, copy=False)]

    register(
        Operator(name=name, params=named(base, name), inputs=("data",), forward=forward, backward=backward, doc=doc)
    )


_declare_shaped(ClipParams, "clip", _clip, _clip_slope, "`data`, with what is out of bounds at the bound.")
_declare_shaped(
    SmoothL1Params,
    "smooth_l1",
    _smooth_l1,
    _smooth_l1_slope,
    "`(scalar * x)**2 / 2` up to `|x| = 1 / scalar**2`, a straight line beyond.",
)
_declare_shaped(
    HardSigmoidParams,
    "hard_sigmoid",
    _hard_sigmoid,
    _hard_sigmoid_slope,
    "The line `alpha * x + beta`, cut at 0 and 1.",
)
