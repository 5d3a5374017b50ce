"""How parameters get their first values (`mx.init`, `mx.initializer`)."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tconv import ndarray, random, registry
from tconv.errors import ArgumentError, DTypeError, ParameterError, ShapeError
from tconv.ndarray import NDArray

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Bilinear",
    "Constant",
    "InitDesc",
    "Initializer",
    "LSTMBias",
    "Load",
    "MSRAPrelu",
    "Mixed",
    "Normal",
    "One",
    "Orthogonal",
    "Uniform",
    "Xavier",
    "Zero",
    "alias",
    "create",
    "register",
]


class InitDesc(str):
    """The name of a variable together with what is known about its initialization.

    Parameters
    ----------
    name : str
        Name of the variable.
    attrs : dict of str to str, optional
        Its attributes; `__init__` names an initializer of its own.
    global_init : Initializer, optional
        The initializer of the whole network.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.init.InitDesc("conv0_weight", {"__init__": "zeros"}).attrs
    {'__init__': 'zeros'}
    """

    attrs: Mapping[str, Any]
    global_init: Initializer | None

    def __new__(
        cls, name: str, attrs: Mapping[str, Any] | None = None, global_init: Initializer | None = None
    ) -> Self:
        """Make the name."""
        desc = super().__new__(cls, name)
        desc.attrs = attrs or {}
        desc.global_init = global_init
        return desc


class Initializer:
    """Base of the initializers. A subclass says in `_init_weight(name, array)` how weights start.

    Biases, betas and running means start at 0, gammas and running variances at 1, unless a subclass
    overrides `_init_bias`, `_init_gamma`, `_init_beta`, `_init_zero`, `_init_one`.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.init.Normal(0.5).dumps()
    '["normal", {"sigma": 0.5}]'
    """

    # Ending of a variable's name, and the method that fills such an array.
    _BY_ENDING: ClassVar[tuple[tuple[str, str], ...]] = (
        ("weight", "_init_weight"),
        ("bias", "_init_bias"),
        ("gamma", "_init_gamma"),
        ("beta", "_init_beta"),
        ("min", "_init_zero"),
        ("max", "_init_one"),
        ("moving_mean", "_init_zero"),
        ("running_mean", "_init_zero"),
        ("moving_var", "_init_one"),
        ("running_var", "_init_one"),
        ("moving_inv_var", "_init_zero"),
        ("moving_avg", "_init_zero"),
    )

    def __init__(self, **kwargs: Any) -> None:
        self._kwargs = kwargs
        self._verbose = False
        self._print_func: Callable[[NDArray], str] = _root_mean_square

    def set_verbosity(
        self, verbose: bool = False, print_func: Callable[[NDArray], str] | None = None
    ) -> Initializer:
        """Log each array as it is filled, with what `print_func` says of it (its root mean square by default)."""
        self._verbose = verbose
        self._print_func = print_func or _root_mean_square
        return self

    def dumps(self) -> str:
        """Return name and arguments as JSON, from which `create` makes the initializer again."""
        return json.dumps([type(self).__name__.lower(), self._kwargs])

    def __call__(self, desc: str, arr: NDArray) -> None:
        """Fill `arr`.

        Parameters
        ----------
        desc : InitDesc
            Name and attributes of the array; a plain str is deprecated.
        arr : NDArray
            The array, filled in place.

        Raises
        ------
        ParameterError
            If the name does not tell how the array should start.
        """
        if not isinstance(desc, InitDesc):
            warnings.warn(
                "an initializer was called with a plain name; need mx.init.InitDesc(name)",
                DeprecationWarning,
                stacklevel=2,
            )
            if not isinstance(desc, str):
                raise DTypeError(f"initializer: name: got {type(desc).__name__}; need str or InitDesc")
            if desc.startswith("upsampling"):
                Bilinear()._init_weight(desc, arr)
                return
            desc = InitDesc(desc)
        if desc.global_init is None:
            desc.global_init = self
        own = desc.attrs.get("__init__")
        if own:
            create(own)._init_weight(desc, arr)
            self._log(desc, own, arr)
            return
        for ending, method in self._BY_ENDING:
            if desc.endswith(ending):
                getattr(self, method)(desc, arr)
                self._log(desc, ending, arr)
                return
        self._init_default(desc, arr)

    def _log(self, desc: str, how: object, arr: NDArray) -> None:
        if self._verbose:
            logging.info("Initialized %s as %s: %s", desc, how, self._print_func(arr))

    def _init_zero(self, name: str, arr: NDArray) -> None:
        arr[:] = 0.0

    def _init_one(self, name: str, arr: NDArray) -> None:
        arr[:] = 1.0

    def _init_bias(self, name: str, arr: NDArray) -> None:
        arr[:] = 0.0

    def _init_gamma(self, name: str, arr: NDArray) -> None:
        arr[:] = 1.0

    def _init_beta(self, name: str, arr: NDArray) -> None:
        arr[:] = 0.0

    def _init_weight(self, name: str, arr: NDArray) -> None:
        raise NotImplementedError(f"{type(self).__name__}: _init_weight: missing; a subclass has to define it")

    def _init_default(self, name: str, arr: NDArray) -> None:
        endings = ", ".join(ending for ending, _ in self._BY_ENDING)
        raise ParameterError(
            f"initializer: name: got {name!r}; need one ending in {endings}, or a variable with init=..."
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Initializer):
            return NotImplemented
        return type(self) is type(other) and self._kwargs == other._kwargs

    __hash__ = None  # type: ignore[assignment]


def _root_mean_square(array: NDArray) -> str:
    return str(float(np.sqrt(np.mean(np.square(array.asnumpy(), dtype=np.float64)))))


alias = registry.get_alias_func(Initializer, "initializer")
create = registry.get_create_func(Initializer, "initializer")
_register = registry.get_register_func(Initializer, "initializer")


def register(klass: type) -> type:
    """Enter a subclass of Initializer, so that its lower-case name can stand for it.

    Examples
    --------
    >>> import tconv as mx
    >>> @mx.init.register
    ... class Tenth(mx.init.Initializer):
    ...     def _init_weight(self, name, arr):
    ...         arr[:] = 0.1
    >>> type(mx.init.create("tenth")).__name__
    'Tenth'
    """
    registered: type = _register(klass)
    return registered


class Load:
    """Take the values from a file or a dict of arrays, dropping `arg:` and `aux:` before their names.

    Parameters
    ----------
    param : str or dict of str to NDArray
        A `.params` file, or its content.
    default_init : Initializer, optional
        For names that are not there.
    verbose : bool
        Whether to log where each array came from.

    Raises
    ------
    ArgumentError
        If `param` has no names; at a call, if a shape differs or a name is missing without `default_init`.
    """

    def __init__(
        self,
        param: str | Mapping[str, NDArray],
        default_init: Callable[[str, NDArray], None] | None = None,
        verbose: bool = False,
    ) -> None:
        loaded = ndarray.load(param) if isinstance(param, str) else param
        if not isinstance(loaded, Mapping):
            raise ArgumentError(f"Load: param: got {type(loaded).__name__}; need arrays with names")
        self.param = {name[4:] if name[:4] in ("arg:", "aux:") else name: arr for name, arr in loaded.items()}
        self.default_init = default_init
        self.verbose = verbose

    def __call__(self, name: str, arr: NDArray) -> None:
        """Fill `arr` with the array of that name."""
        known = self.param.get(str(name))
        if known is not None:
            if arr.shape != known.shape:
                raise ArgumentError(f"Load: {name}: got shape {known.shape} in the file; need {arr.shape}")
            arr[:] = known
        elif self.default_init is not None:
            self.default_init(name, arr)
        else:
            raise ArgumentError(f"Load: {name}: not among the loaded arrays; need default_init for it")
        if self.verbose:
            logging.info("Initialized %s by %s", name, "default" if known is None else "loading")


class Mixed:
    """Choose the initializer by the first pattern that matches the beginning of the name.

    Parameters
    ----------
    patterns : list of str
        Regular expressions.
    initializers : list of Initializer
        One for each pattern.

    Raises
    ------
    ArgumentError
        If the lists differ in length; at a call, if no pattern matches.

    Examples
    --------
    >>> import tconv as mx
    >>> init = mx.init.Mixed(["bias", ".*"], [mx.init.Zero(), mx.init.Constant(2)])
    >>> array = mx.nd.zeros((2,))
    >>> init(mx.init.InitDesc("fc_weight"), array)
    >>> array.asnumpy().tolist()
    [2.0, 2.0]
    """

    def __init__(self, patterns: Sequence[str], initializers: Sequence[Callable[[str, NDArray], None]]) -> None:
        if len(patterns) != len(initializers):
            raise ArgumentError(
                f"Mixed: got {len(patterns)} patterns and {len(initializers)} initializers; need as many"
            )
        self.map = [(re.compile(pattern), init) for pattern, init in zip(patterns, initializers)]

    def __call__(self, name: str, arr: NDArray) -> None:
        """Fill `arr` by the initializer of the first pattern that matches."""
        for pattern, init in self.map:
            if pattern.match(name):
                init(name, arr)
                return
        raise ArgumentError(f"Mixed: name: {name!r} matches no pattern; add '.*' with a default as the last one")


@register
@alias("zeros")
class Zero(Initializer):
    """Start at 0."""

    def __init__(self) -> None:
        super().__init__()

    def _init_weight(self, name: str, arr: NDArray) -> None:
        arr[:] = 0


@register
@alias("ones")
class One(Initializer):
    """Start at 1."""

    def __init__(self) -> None:
        super().__init__()

    def _init_weight(self, name: str, arr: NDArray) -> None:
        arr[:] = 1


@register
class Constant(Initializer):
    """Start at a value.

    Parameters
    ----------
    value : float or NDArray
        A number, or an array of the parameter's shape.
    """

    def __init__(self, value: Any) -> None:
        super().__init__(value=value)
        self.value = value

    def _init_weight(self, name: str, arr: NDArray) -> None:
        arr[:] = self.value

    def dumps(self) -> str:
        """Return name and value as JSON, arrays as nested lists."""
        value = self.value.asnumpy() if isinstance(self.value, NDArray) else self.value
        return json.dumps([type(self).__name__.lower(), {"value": np.asarray(value).tolist()}])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.dumps() == other.dumps()

    __hash__ = None


@register
class Uniform(Initializer):
    """Draw evenly from -scale to scale.

    Parameters
    ----------
    scale : float
        The bound.
    """

    def __init__(self, scale: float = 0.07) -> None:
        super().__init__(scale=scale)
        self.scale = scale

    def _init_weight(self, name: str, arr: NDArray) -> None:
        _draw("uniform", self.scale, arr)


@register
class Normal(Initializer):
    """Draw from the normal distribution around 0.

    Parameters
    ----------
    sigma : float
        Its standard deviation.
    """

    def __init__(self, sigma: float = 0.01) -> None:
        super().__init__(sigma=sigma)
        self.sigma = sigma

    def _init_weight(self, name: str, arr: NDArray) -> None:
        _draw("gaussian", self.sigma, arr)


def _draw(kind: str, scale: float, arr: NDArray) -> None:
    if kind == "uniform":
        arr[:] = random.uniform(-scale, scale, arr.shape)
    elif kind in ("gaussian", "normal"):
        arr[:] = random.normal(0, scale, arr.shape)
    else:
        raise ParameterError(f"initializer: random type: got {kind!r}; need 'uniform' or 'gaussian'")


@register
class Orthogonal(Initializer):
    """Start with orthogonal rows or columns (Saxe, McClelland and Ganguli 2013).

    Parameters
    ----------
    scale : float
        Length of each row or column.
    rand_type : {'uniform', 'normal'}
        What the matrix is drawn from before it is made orthogonal.
    """

    def __init__(self, scale: float = 1.414, rand_type: str = "uniform") -> None:
        super().__init__(scale=scale, rand_type=rand_type)
        self.scale = scale
        self.rand_type = rand_type

    def _init_weight(self, name: str, arr: NDArray) -> None:
        drawn = ndarray.zeros((arr.shape[0], int(np.prod(arr.shape[1:]))))
        _draw(self.rand_type, 1.0, drawn)
        left, _, right = np.linalg.svd(drawn.asnumpy(), full_matrices=False)
        chosen = left if left.shape == drawn.shape else right
        arr[:] = (self.scale * chosen).reshape(arr.shape)


@register
class Xavier(Initializer):
    """Keep the size of signals even over layers (Glorot and Bengio 2010).

    Draws with scale `sqrt(magnitude / factor)`: the bound of a uniform, or the standard deviation of a normal
    distribution. The factor is the fan in `shape[1] * window`, the fan out `shape[0] * window`, or their mean,
    where the window is `prod(shape[2:])`.

    Parameters
    ----------
    rnd_type : {'uniform', 'gaussian'}
        The distribution.
    factor_type : {'avg', 'in', 'out'}
        The factor.
    magnitude : float
        Scale of the numbers.

    Raises
    ------
    ShapeError
        When filling an array of fewer than two axes.
    ParameterError
        When filling with an unknown distribution or factor.
    """

    def __init__(self, rnd_type: str = "uniform", factor_type: str = "avg", magnitude: float = 3) -> None:
        super().__init__(rnd_type=rnd_type, factor_type=factor_type, magnitude=magnitude)
        self.rnd_type = rnd_type
        self.factor_type = factor_type
        self.magnitude = float(magnitude)

    def _init_weight(self, name: str, arr: NDArray) -> None:
        if arr.ndim < 2:
            raise ShapeError(f"Xavier: {name}: got shape {arr.shape}; need two axes or more")
        window = float(np.prod(arr.shape[2:]))
        fan_in, fan_out = arr.shape[1] * window, arr.shape[0] * window
        factors = {"avg": (fan_in + fan_out) / 2, "in": fan_in, "out": fan_out}
        if self.factor_type not in factors:
            raise ParameterError(f"Xavier: factor_type: got {self.factor_type!r}; need 'avg', 'in' or 'out'")
        _draw(self.rnd_type, float(np.sqrt(self.magnitude / factors[self.factor_type])), arr)


@register
class MSRAPrelu(Xavier):
    """Keep the size of signals even over layers that end in a rectifier (He, Zhang, Ren and Sun 2015).

    Parameters
    ----------
    factor_type : {'avg', 'in', 'out'}
        The factor, as in `Xavier`.
    slope : float
        Slope of the rectifier below 0.
    """

    def __init__(self, factor_type: str = "avg", slope: float = 0.25) -> None:
        super().__init__("gaussian", factor_type, 2.0 / (1 + slope**2))
        self._kwargs = {"factor_type": factor_type, "slope": slope}


@register
class Bilinear(Initializer):
    """Make a Deconvolution interpolate linearly along its one, two or three spatial axes.

    Every filter of the weight becomes the same triangle, of a width that fits stride `ceil(kernel / 2)`. With
    `num_group` equal to the number of channels the operator then enlarges each channel by itself.

    Raises
    ------
    ShapeError
        When filling an array of fewer than three axes.

    Examples
    --------
    >>> import tconv as mx
    >>> weight = mx.nd.zeros((1, 1, 4, 4))
    >>> mx.init.Bilinear()(mx.init.InitDesc("up_weight"), weight)
    >>> weight.asnumpy()[0, 0, 1].tolist()
    [0.1875, 0.5625, 0.5625, 0.1875]
    """

    def __init__(self) -> None:
        super().__init__()

    def _init_weight(self, name: str, arr: NDArray) -> None:
        if arr.ndim < 3:
            raise ShapeError(f"Bilinear: {name}: got shape {arr.shape}; need the weight of a convolution")
        # All axes share the width of the last, as MXNet has it.
        half = np.ceil(arr.shape[-1] / 2.0)
        centre = (2 * half - 1 - half % 2) / (2.0 * half)
        window = np.ones((1,) * (arr.ndim - 2))
        for axis, size in enumerate(arr.shape[2:]):
            triangle = 1 - np.abs(np.arange(size) / half - centre)
            window = window * triangle.reshape(*(-1 if other == axis else 1 for other in range(arr.ndim - 2)))
        arr[:] = np.broadcast_to(window, arr.shape).astype(np.float32)


@register
class LSTMBias(Initializer):
    """Start the bias of an LSTM cell at 0, and at `forget_bias` for its forget gate, the second of four.

    Parameters
    ----------
    forget_bias : float
        Bias of the forget gate.
    """

    def __init__(self, forget_bias: float = 1.0) -> None:
        super().__init__(forget_bias=forget_bias)
        self.forget_bias = forget_bias

    def _init_weight(self, name: str, arr: NDArray) -> None:
        arr[:] = 0.0
        gate = arr.shape[0] // 4
        arr[gate : 2 * gate] = self.forget_bias
