"""Random arrays, `mx.random` and `mx.nd.random`: reproducible from a seed, in every thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tconv.context import Context, usable
from tconv.dtypes import DType
from tconv.errors import DTypeError, OutOfMemoryError, ParameterError, ShapeError
from tconv.geometry import Shape
from tconv.ndarray.creation import as_shape
from tconv.ndarray.ndarray import NDArray, supported, wrap
from tconv.operators import generator as numbers
from tconv.operators.registry import Array

__all__ = [
    "exponential",
    "exponential_like",
    "gamma",
    "gamma_like",
    "generalized_negative_binomial",
    "generalized_negative_binomial_like",
    "multinomial",
    "negative_binomial",
    "negative_binomial_like",
    "normal",
    "normal_like",
    "poisson",
    "poisson_like",
    "randint",
    "randn",
    "seed",
    "shuffle",
    "uniform",
    "uniform_like",
]

ShapeLike = int | Sequence[int] | None
Parameter = float | NDArray
Draw = Callable[..., Any]

_FLOATS = ("float32", "float64", "float16", "bfloat16")
_WHOLE = ("int32", "int64")


def seed(seed_state: int, ctx: Context | str = "all") -> None:
    """Start the random numbers of all threads afresh.

    Parameters
    ----------
    seed_state : int
        The seed. The same one gives the same numbers.
    ctx : Context or str
        Accepted as in MXNet; all contexts share one generator.

    Raises
    ------
    ParameterError
        If `seed_state` is no int.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.random.seed(7)
    >>> first = mx.nd.random.normal(shape=(3,)).asnumpy()
    >>> mx.random.seed(7)
    >>> bool((mx.nd.random.normal(shape=(3,)).asnumpy() == first).all())
    True
    """
    if not isinstance(seed_state, (int, np.integer)) or isinstance(seed_state, bool):
        raise ParameterError(f"seed: seed_state: got {seed_state!r}; need an int")
    if ctx != "all":
        usable(ctx)
    numbers.seed(int(seed_state))


def _dtype(name: str, dtype: Any, known: tuple[str, ...]) -> DType:
    if dtype is None or dtype == "None":
        return np.dtype(known[0])
    found = supported(dtype, f"{name}: dtype")
    if found.name not in known:
        raise DTypeError(f"{name}: dtype: got {found}; need one of {', '.join(known)}")
    return found


def _number(name: str, argument: str, value: Any) -> Any:
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise DTypeError(f"{name}: {argument}: got {type(value).__name__}; need numbers, or NDArrays for all")
    return value


def _sample(
    name: str,
    draw: Draw,
    parameters: dict[str, Parameter],
    shape: ShapeLike,
    dtype: Any,
    ctx: Context | None,
    out: NDArray | None,
    known: tuple[str, ...] = _FLOATS,
) -> NDArray:
    """Draw numbers: an array of `shape`, or one of `shape` for each element of parameters that are arrays."""
    first = next(iter(parameters.values()))
    values: list[Any]
    outer: Shape = ()
    if isinstance(first, NDArray):
        for argument, value in parameters.items():
            if not isinstance(value, NDArray) or value.shape != first.shape:
                raise ParameterError(f"{name}: {argument}: got no array of shape {first.shape}, as the others are")
        outer = first.shape
        values = [value._data.astype(np.float64) for value in parameters.values() if isinstance(value, NDArray)]
        place = first._ctx
    else:
        values = [_number(name, argument, value) for argument, value in parameters.items()]
        place = usable(ctx)
    if shape is None:
        sizes = out.shape if out is not None else outer or (1,)
    else:
        sizes = outer + as_shape(name, shape)
    inner = len(sizes) - len(outer)
    spread = [value.reshape(outer + (1,) * inner) if outer else value for value in values]
    wanted = out._data.dtype if out is not None and dtype is None else _dtype(name, dtype, known)
    if out is not None and (out.shape != sizes or out._data.dtype != wanted):
        raise ShapeError(f"{name}: out: got shape {out.shape} of {out._data.dtype}; need {sizes} of {wanted}")
    return _finish(name, lambda: draw(numbers.generator(), *spread, sizes), wanted, place, out)


def _finish(name: str, draw: Callable[[], Any], dtype: DType, ctx: Context, out: NDArray | None) -> NDArray:
    try:
        with np.errstate(all="ignore"):
            drawn: Array = np.asarray(draw()).astype(dtype, copy=False)
    except ValueError as error:
        raise ParameterError(f"{name}: {error}") from None
    except MemoryError as error:
        raise OutOfMemoryError(f"{name}: {error}") from None
    if out is None:
        return wrap(drawn, ctx)
    out[:] = drawn
    return out


def uniform(
    low: Parameter = 0,
    high: Parameter = 1,
    shape: ShapeLike = None,
    dtype: Any = None,
    ctx: Context | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """Draw from the uniform distribution.

    Parameters
    ----------
    low, high : float or NDArray
        Bounds, `high` exclusive but for rounding. With arrays, each pair of elements is drawn from.
    shape : int or tuple of int, optional
        Shape of the result, or of what is drawn for each pair; a single number by default.
    dtype : dtype, type or str, optional
        A floating-point type; float32 by default.
    ctx : Context, optional
        Where to make the array.
    out : NDArray, optional
        Array to fill instead of a new one.
    """

    def draw(rng: np.random.Generator, a: Any, b: Any, size: Shape) -> Any:
        return a + (b - a) * rng.random(size, np.float32 if dtype is None else np.float64)

    return _sample("uniform", draw, {"low": low, "high": high}, shape, dtype, ctx, out)


def normal(
    loc: Parameter = 0,
    scale: Parameter = 1,
    shape: ShapeLike = None,
    dtype: Any = None,
    ctx: Context | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """Draw from the normal distribution of mean `loc` and standard deviation `scale`; else as `uniform`."""
    if not isinstance(scale, NDArray) and _number("normal", "scale", scale) < 0:
        raise ParameterError(f"normal: scale: got {scale}; need no negative number")

    def draw(rng: np.random.Generator, a: Any, b: Any, size: Shape) -> Any:
        return a + b * rng.standard_normal(size, np.float32 if dtype is None else np.float64)

    return _sample("normal", draw, {"loc": loc, "scale": scale}, shape, dtype, ctx, out)


def randn(
    *shape: int,
    loc: Parameter = 0,
    scale: Parameter = 1,
    dtype: Any = None,
    ctx: Context | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """Draw from the normal distribution; the shape is given size by size."""
    return normal(loc, scale, shape or None, dtype, ctx, out)


def randint(
    low: int,
    high: int,
    shape: ShapeLike = None,
    dtype: Any = None,
    ctx: Context | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """Draw whole numbers from `low` up to, not including, `high`, in int32 or int64."""
    for argument, value in (("low", low), ("high", high)):
        if not isinstance(value, (int, np.integer)):
            raise DTypeError(f"randint: {argument}: got {type(value).__name__}; need an int")
    if low >= high:
        raise ParameterError(f"randint: high: got {high}; need more than low {low}")

    def draw(rng: np.random.Generator, a: Any, b: Any, size: Shape) -> Any:
        return rng.integers(a, b, size, np.int64)

    return _sample("randint", draw, {"low": low, "high": high}, shape, dtype, ctx, out, _WHOLE)


def exponential(
    scale: Parameter = 1,
    shape: ShapeLike = None,
    dtype: Any = None,
    ctx: Context | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """Draw from the exponential distribution of mean `scale`; else as `uniform`."""
    return _sample("exponential", np.random.Generator.exponential, {"scale": scale}, shape, dtype, ctx, out)


def gamma(
    alpha: Parameter = 1,
    beta: Parameter = 1,
    shape: ShapeLike = None,
    dtype: Any = None,
    ctx: Context | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """Draw from the gamma distribution of shape `alpha` and scale `beta`; else as `uniform`."""
    return _sample("gamma", np.random.Generator.gamma, {"alpha": alpha, "beta": beta}, shape, dtype, ctx, out)


def poisson(
    lam: Parameter = 1,
    shape: ShapeLike = None,
    dtype: Any = None,
    ctx: Context | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """Draw from the Poisson distribution of mean `lam`, in a floating-point type; else as `uniform`."""
    return _sample("poisson", np.random.Generator.poisson, {"lam": lam}, shape, dtype, ctx, out)


def negative_binomial(
    k: Parameter = 1,
    p: Parameter = 1,
    shape: ShapeLike = None,
    dtype: Any = None,
    ctx: Context | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """Draw how often tries fail before `k` succeed, each with probability `p`; else as `uniform`."""
    draw = np.random.Generator.negative_binomial
    return _sample("negative_binomial", draw, {"k": k, "p": p}, shape, dtype, ctx, out)


def generalized_negative_binomial(
    mu: Parameter = 1,
    alpha: Parameter = 1,
    shape: ShapeLike = None,
    dtype: Any = None,
    ctx: Context | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """Draw from the negative binomial distribution of mean `mu` and dispersion `alpha`; else as `uniform`."""

    def draw(rng: np.random.Generator, a: Any, b: Any, size: Shape) -> Any:
        # A Poisson distribution whose mean is drawn from a gamma distribution; without dispersion, the plain one.
        spread = np.maximum(b, np.finfo(np.float64).tiny)
        return rng.poisson(np.where(np.equal(b, 0), a, rng.gamma(1 / spread, spread * a, size)), size)

    name = "generalized_negative_binomial"
    return _sample(name, draw, {"mu": mu, "alpha": alpha}, shape, dtype, ctx, out)


def multinomial(
    data: NDArray, shape: ShapeLike = None, get_prob: bool = False, out: NDArray | None = None, dtype: Any = "int32"
) -> Any:
    """Draw places with the probabilities that `data` gives.

    Parameters
    ----------
    data : NDArray
        Probabilities along its last axis; they are scaled to sum to 1.
    shape : int or tuple of int, optional
        How many to draw from each; one by default.
    get_prob : bool
        Whether to return the logarithms of the probabilities of what was drawn too.
    out : NDArray, optional
        Array to fill instead of a new one.
    dtype : dtype, type or str
        Type of the places.

    Raises
    ------
    ParameterError
        If probabilities are negative or all zero.
    """
    if not isinstance(data, NDArray) or not data.ndim or not data.shape[-1]:
        raise DTypeError("multinomial: data: got no probabilities; need an NDArray of one axis at least")
    weights = data._data.astype(np.float64)
    sums = weights.sum(axis=-1, keepdims=True)
    if not (np.all(weights >= 0) and np.all(np.isfinite(sums)) and np.all(sums > 0)):
        raise ParameterError("multinomial: data: got negative or no probabilities; need some above 0")
    inner = () if shape is None else as_shape("multinomial", shape)
    outer = data.shape[:-1]
    bounds = np.cumsum(weights / sums, axis=-1).reshape(-1, data.shape[-1])
    # Rounding may leave the last bound below 1; what lies behind it belongs to the last place that can be drawn.
    bounds[bounds >= bounds[:, -1:]] = np.inf
    draws = numbers.generator().random((len(bounds), int(np.prod(inner, dtype=np.int64))))
    places = np.stack([np.searchsorted(row, drawn, side="right") for row, drawn in zip(bounds, draws)])
    wanted = supported(dtype, "multinomial: dtype")
    drawn = _finish("multinomial", lambda: places.reshape((outer + inner) or (1,)), wanted, data._ctx, out)
    if not get_prob:
        return drawn
    chances = np.take_along_axis(np.log(np.maximum(weights, 1e-300)).reshape(len(bounds), -1), places, axis=1)
    return [drawn, wrap(chances.reshape(drawn.shape).astype(data._data.dtype), data._ctx)]


def shuffle(data: NDArray, out: NDArray | None = None) -> NDArray:
    """Return the array with its first axis in random order."""
    return _finish(
        "shuffle", lambda: numbers.generator().permutation(data._data, axis=0), data._data.dtype, data._ctx, out
    )


def _like(sampler: Callable[..., NDArray], name: str) -> Callable[..., NDArray]:
    def function(*args: Any, data: NDArray | None = None, out: NDArray | None = None, **parameters: Any) -> NDArray:
        like = data if data is not None else next((one for one in args if isinstance(one, NDArray)), None)
        if like is None:
            raise ParameterError(f"{name}: data: missing; need the array to be like")
        rest = [one for one in args if one is not like]
        dtype = None if out is not None or like._data.dtype == np.float32 else like._data.dtype
        return sampler(*rest, shape=like.shape, dtype=dtype, ctx=like._ctx, out=out, **parameters)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Draw as `{sampler.__name__}` does, in shape and type of the array `data`."
    return function


uniform_like = _like(uniform, "uniform_like")
normal_like = _like(normal, "normal_like")
exponential_like = _like(exponential, "exponential_like")
gamma_like = _like(gamma, "gamma_like")
poisson_like = _like(poisson, "poisson_like")
negative_binomial_like = _like(negative_binomial, "negative_binomial_like")
generalized_negative_binomial_like = _like(generalized_negative_binomial, "generalized_negative_binomial_like")
