"""Functions of one array, element by element: a table of rows and one factory that declares them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tconv.operators.compute import Function, arithmetic, no_gradient, quiet, widened
from tconv.operators.registry import Array, Call, Operator, register
from tconv.params import Params, named


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
    """Return an array function of a scalar one that raises where C gives infinity or NaN."""

    def guarded(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return math.inf
        except ValueError:
            return math.nan if x != 0 and not math.isinf(x) else math.inf

    vectorized = np.frompyfunc(guarded, 1, 1)
    return lambda x: np.asarray(vectorized(x.astype(np.float64)), dtype=np.float64).astype(x.dtype)


def _digamma(x: float) -> float:
    if x <= 0 and x == math.floor(x):
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


_gamma = _each(lambda x: math.nan if x == -math.inf else math.gamma(x))
_gammaln = _each(lambda x: math.inf if math.isinf(x) else math.lgamma(x))
_psi = _each(_digamma)


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
    doc : str
        What it computes.
    """

    name: str
    function: Function
    slope: Function | None
    doc: str
    aliases: tuple[str, ...] = ()
    exact: bool = False


_LN2, _LN10 = math.log(2), math.log(10)
_TO_DEGREES = 180 / math.pi

UNARY = (
    Unary("abs", np.abs, lambda x, y: np.sign(x), "The absolute value.", exact=True),
    Unary("sign", np.sign, lambda x, y: np.zeros_like(x), "-1, 0 or 1.", exact=True),
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
    Unary("_copy", np.positive, lambda x, y: x.dtype.type(1), "A copy.", aliases=("identity",), exact=True),
    Unary(
        "BlockGrad",
        np.positive,
        None,
        "The input, through which no gradient passes back.",
        aliases=("stop_gradient",),
        exact=True,
    ),
)


def _declare_unary(row: Unary) -> None:
    def prepared(array: Array) -> Array:
        return arithmetic(array) if row.exact else widened(array)

    @quiet
    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        (x,) = inputs
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
            doc=row.doc,
        )
    )


for _row in UNARY:
    _declare_unary(_row)
