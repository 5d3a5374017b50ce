"""Choose who computes, hand over arrays as a backend wants them, and give the result room."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from tconv import knobs, padding
from tconv.activations import NONE, Activation
from tconv.dtypes import DType
from tconv.errors import DTypeError, OutOfMemoryError, ParameterError
from tconv.geometry import Geometry, Shape

Array = np.ndarray[Any, Any]

_BOUND_KEPT_BY_A_GEOMETRY = 16

ORDER = ("native", "reference")
"""Backends, best first."""


@lru_cache(maxsize=1)
def _candidates() -> tuple[ModuleType, ...]:
    forced = knobs.read("backend")
    if forced and forced not in ORDER:
        raise ParameterError(f"TCONV_BACKEND: got {forced!r}; need one of {', '.join(ORDER)}")
    return tuple(import_module(f"tconv.backends.{name}") for name in ((forced,) if forced else ORDER))


def preferred() -> ModuleType:
    """Return the backend that is asked first."""
    return _candidates()[0]


def backend_for(geometry: Geometry, dtype: DType) -> ModuleType:
    """Return the first backend that does not refuse this problem.

    Raises
    ------
    DTypeError
        If all refuse it.
    """
    reasons = []
    for backend in _candidates():
        reason = backend.refusal(geometry, dtype)
        if reason is None:
            return backend
        reasons.append(f"{backend.name}: {reason}")
    raise DTypeError(f"no backend computes {geometry} in {dtype}: {'; '.join(reasons)}")


def explain(
    geometry: Geometry,
    pass_name: str,
    dtype: DType,
    *,
    workspace: int,
    threads: int | None,
    tune: str | None = None,
    packed: bool,
    measure: bool,
) -> dict[str, Any]:
    """Return what would run for the pass `forward`, `data_gradient` or `weight_gradient`, as its backend tells."""
    backend = backend_for(geometry, dtype)
    if 0 in geometry.small_shape or 0 in geometry.large_shape:
        # Never handed to a backend.
        return {"backend": backend.name, "algorithm": "none", "kernel": "none", "flops": 0, "refusals": {}}
    try:
        found: dict[str, Any] = backend.explain(
            padding.widened(geometry) if geometry.pad_mode != "zero" else geometry,
            pass_name,
            dtype,
            workspace=workspace,
            threads=threads,
            tune=tune,
            packed=packed,
            measure=measure,
        )
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"explain: arrays to measure with do not fit in memory: {error}") from None
    return {"backend": backend.name, **found}


def allocate(shape: Shape, dtype: DType) -> Array:
    """Return an array of undefined content.

    Raises
    ------
    OutOfMemoryError
        If the memory cannot be had.
    """
    return _allocated(lambda: preferred().empty(shape, dtype), shape, dtype)


def _allocated(make: Callable[[], Array], shape: Shape, dtype: DType, what: str = "output") -> Array:
    try:
        return make()
    except (MemoryError, ValueError):
        raise OutOfMemoryError(f"{what}: shape {shape} of {dtype} does not fit in memory") from None


def use_team(address: int) -> None:
    """Compute on the threads of the library whose `GOMP_parallel` lies at an address; 0 for the engine's own."""
    for backend in _candidates():
        backend.use_team(address)


def fingerprint(array: Array, *, threads: int | None = None) -> int:
    """Return a number that tells whether an array has changed: every bit of a C-contiguous array goes into it."""
    found: int = preferred().fingerprint(array, threads=threads)
    return found


def _ready(array: Array, dtype: DType) -> Array:
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned:
        return array
    return _copied(array, dtype)


def _copied(array: Array, dtype: DType) -> Array:
    return _allocated(lambda: np.array(array, dtype, order="C"), array.shape, dtype, "copy of an input")


class Weights:
    """Weights that do not change, kept by their owner in the order each backend wants.

    Parameters
    ----------
    weight : ndarray
        Is copied.
    """

    def __init__(self, weight: Array) -> None:
        self.plain = _copied(weight, weight.dtype.newbyteorder("="))
        self.plain.flags.writeable = False
        self._kept: dict[str, Any] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held, all orders together."""
        orders: int = sum(kept.nbytes for kept in self._kept.values() if kept is not self.plain)
        return self.plain.nbytes + orders

    def kept_by(self, backend: ModuleType) -> Any:
        """Return what `backend` takes in place of the plain weights."""
        kept = self._kept.get(backend.name)
        if kept is None:
            kept = self._kept[backend.name] = backend.KeptWeights(self.plain)
        return kept


class _Room:
    """The array a backend writes to: the caller's own where it will do, else one that is copied over at the end."""

    def __init__(self, out: Array | None, shape: Shape, dtype: DType, inputs: tuple[Array | None, ...]) -> None:
        direct = out is not None and (
            out.dtype == dtype
            and out.flags.c_contiguous
            and out.flags.aligned
            and not any(array is not None and np.may_share_memory(array, out) for array in inputs)
        )
        self.result = out
        self.buffer = out if direct and out is not None else allocate(shape, dtype)

    def finish(self) -> Array:
        if self.result is None:
            return self.buffer
        if self.result is not self.buffer:
            self.result[...] = self.buffer
        return self.result


class Bound(Protocol):
    """A pass for arrays that need no care: that costs more than a small layer computes."""

    def knows(self, source: Shape) -> bool:
        """Return whether a source of this shape has been met."""

    def __call__(self, source: Array, weight: Array | None, bias: Array | None, out: Array | None) -> Array | None:
        """Return the result.

        None, with nothing done, where the source is of a shape that has to be solved, or an array is strided,
        misaligned, of another type than that of the pass, or shares memory with `out`.

        Parameters
        ----------
        source, weight, bias, out : ndarray
            The weight is None where it was given to `bind`. Whoever calls has checked types and shapes of weight
            and bias.
        """


def bind(
    geometry: Geometry,
    pass_name: str,
    dtype: DType,
    weights: Weights | None = None,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
    activation: Activation = NONE,
    algorithms: tuple[str, ...] = (),
    any_size: bool = False,
    known: Bound | None = None,
) -> Bound | None:
    """Return the short way of a pass, with plain weights or these, if there is one.

    Parameters
    ----------
    geometry, pass_name, dtype, weights
        The pass. For `weight_gradient` source and weight are the small side and the large one.
    workspace, threads, tune, activation
        As for `forward`.
    algorithms : tuple of str
        Those to choose from, as `steady` gives them; by default all.
    any_size : bool
        Whether a small side of another shape means the same pads, so that the way may take it as well.
    known : Bound, optional
        A way made with the same arguments for another geometry, to which this one is added.
    """
    backend = backend_for(geometry, dtype)
    backend_bind = getattr(backend, "bind", None)
    if backend_bind is None or geometry.pad_mode != "zero" or not dtype.isnative:
        return None
    if 0 in geometry.small_shape or 0 in geometry.large_shape:
        return None
    kept = None if weights is None else weights.kept_by(backend)
    bound: Bound = backend_bind(
        geometry,
        pass_name,
        dtype,
        workspace=workspace,
        threads=threads,
        tune=tune,
        activation=activation,
        weight=kept,
        algorithms=algorithms,
        any_size=any_size,
        known=known,
    )
    return bound


class BoundGradients:
    """The gradients of one geometry and type, for arrays that need no care, as `Bound`."""

    __slots__ = ("_bias", "_data", "_dtype", "_filters", "_weight")

    def __init__(
        self,
        data: Bound | None,
        weight: Bound | None,
        bias: Callable[[Array, Array], None] | None,
        filters: int,
        dtype: DType,
    ) -> None:
        self._data = data
        self._weight = weight
        self._bias = bias
        self._filters = filters
        self._dtype = dtype

    def __call__(
        self, data: Array, weight: Array, grad: Array
    ) -> tuple[Array | None, Array | None, Array | None] | None:
        """Return the gradients of data, weight and bias, None for those not bound; None where an array needs care.

        Whoever calls has checked all shapes, and the type of the weight.
        """
        if grad.dtype != self._dtype:
            return None
        of_data = of_weight = of_bias = None
        if self._data is not None and (of_data := self._data(grad, weight, None, None)) is None:
            return None
        if self._weight is not None and (of_weight := self._weight(data, grad, None, None)) is None:
            return None
        if self._bias is not None:
            of_bias = allocate((self._filters,), self._dtype)
            self._bias(grad, of_bias)
        return of_data, of_weight, of_bias


def bind_gradients(
    geometry: Geometry,
    dtype: DType,
    wanted: tuple[bool, bool, bool],
    *,
    workspace: int,
    threads: int | None = None,
) -> BoundGradients | None:
    """Return the short way of the gradients of data, weight and bias that are wanted, if there is one.

    A bias alone has none: the others find out whether the arrays need care.
    """
    backend_bind = getattr(backend_for(geometry, dtype), "bind_bias_gradient", None)
    if backend_bind is None or not any(wanted[:2]):
        return None
    bound = [
        bind(geometry, pass_name, dtype, workspace=workspace, threads=threads) if want else None
        for pass_name, want in zip(("data_gradient", "weight_gradient"), wanted[:2], strict=True)
    ]
    if any(want and way is None for want, way in zip(wanted, bound, strict=False)):
        return None
    shape = geometry.large_shape
    axis = len(shape) - 1 if geometry.channels_last else 1
    of_bias = backend_bind(shape, axis, dtype, threads=threads) if wanted[2] else None
    return BoundGradients(bound[0], bound[1], of_bias, shape[axis], dtype)


def steady(geometry: Geometry, dtype: DType, *, workspace: int) -> tuple[tuple[str, ...], int]:
    """Return algorithms for `bind` that give an output the same bits wherever it lies on an axis with a grid.

    Returns
    -------
    tuple of str, int
        The algorithms, which all give the same bits in the forward pass; and after how many positions their grid
        repeats.
    """
    found: tuple[tuple[str, ...], int] = backend_for(geometry, dtype).steady(geometry, dtype, workspace=workspace)
    return found


def _quick(
    geometry: Geometry,
    pass_name: str,
    source: Array,
    weight: Array | Weights,
    bias: Array | None,
    out: Array | None,
    limits: dict[str, Any],
) -> Array | None:
    """Compute if the weights are plain and no array needs care, else return None."""
    dtype = source.dtype
    if isinstance(weight, Weights) or weight.dtype != dtype or (bias is not None and bias.dtype != dtype):
        return None
    known: dict[Any, Bound | None] = geometry.__dict__.setdefault("_bound", {})
    key = (pass_name, dtype, *limits.values())
    if key not in known:
        if len(known) >= _BOUND_KEPT_BY_A_GEOMETRY:
            known.clear()
        known[key] = bind(geometry, pass_name, dtype, **limits)
    bound = known[key]
    return None if bound is None else bound(source, weight, bias, out)


def forward(
    geometry: Geometry,
    data: Array,
    weight: Array | Weights,
    bias: Array | None = None,
    out: Array | None = None,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
    activation: Activation = NONE,
) -> Array:
    """Compute the large side from the small one: transposed convolution.

    Parameters
    ----------
    geometry : Geometry
        The problem; arrays have its shapes, which the caller has checked.
    data, weight, bias, out : ndarray
        Of one floating type; any strides, alignment and byte order. `out` may overlap the others. The weight may be
        a `Weights`.
    workspace : int
        Ceiling of temporary memory in bytes.
    threads : int, optional
        Threads to use; the knob's by default.
    tune : str, optional
        `limited_workspace` to time algorithms once and take the fastest, `fastest` to heed no ceiling at that.
    activation : Activation
        What is done to the result at last.
    """
    limits: dict[str, Any] = {"workspace": workspace, "threads": threads, "tune": tune, "activation": activation}
    quick = _quick(geometry, "forward", data, weight, bias, out, limits)
    if quick is not None:
        return quick
    dtype = data.dtype.newbyteorder("=")
    backend = backend_for(geometry, dtype)
    data = _ready(data, dtype)
    plain = weight.plain if isinstance(weight, Weights) else _ready(weight, dtype)
    bias = None if bias is None else _ready(bias, dtype)
    room = _Room(out, geometry.large_shape, dtype, (data, plain, bias))
    if room.buffer.size:
        operand = weight.kept_by(backend) if isinstance(weight, Weights) else plain
        if geometry.pad_mode == "zero":
            backend.forward(geometry, data, operand, bias, room.buffer, **limits)
        else:
            widened = padding.widened(geometry)
            wide = allocate(widened.large_shape, dtype)
            backend.forward(widened, data, operand, None, wide, **{**limits, "activation": NONE})
            # A bias is added once to what is folded, not to each of its parts.
            np.add(padding.fold(geometry, wide), _spread(geometry, bias, dtype), out=room.buffer)
            activation.apply(room.buffer)
    return room.finish()


def data_gradient(
    geometry: Geometry,
    out_grad: Array,
    weight: Array | Weights,
    bias: Array | None = None,
    out: Array | None = None,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
    activation: Activation = NONE,
) -> Array:
    """Compute the small side from the large one: convolution, or the data gradient of `forward`."""
    limits: dict[str, Any] = {"workspace": workspace, "threads": threads, "tune": tune, "activation": activation}
    quick = _quick(geometry, "data_gradient", out_grad, weight, bias, out, limits)
    if quick is not None:
        return quick
    dtype = out_grad.dtype.newbyteorder("=")
    backend = backend_for(geometry, dtype)
    out_grad = _ready(out_grad, dtype)
    plain = weight.plain if isinstance(weight, Weights) else _ready(weight, dtype)
    bias = None if bias is None else _ready(bias, dtype)
    room = _Room(out, geometry.small_shape, dtype, (out_grad, plain, bias))
    if room.buffer.size and out_grad.size:
        operand = weight.kept_by(backend) if isinstance(weight, Weights) else plain
        geometry, out_grad = _continued(geometry, out_grad)
        backend.data_gradient(geometry, out_grad, operand, bias, room.buffer, **limits)
    else:
        room.buffer[...] = _spread(geometry, bias, dtype)
        activation.apply(room.buffer)
    return room.finish()


def _spread(geometry: Geometry, bias: Array | None, dtype: DType) -> Array:
    """Return a bias as it is added to either side of `geometry`."""
    if bias is None:
        return np.zeros((), dtype)
    return bias if geometry.channels_last else bias.reshape(-1, *(1,) * len(geometry.axes))


def _continued(geometry: Geometry, large: Array) -> tuple[Geometry, Array]:
    """Return the problem and the large side that a backend reads, where a pad mode continues it."""
    if geometry.pad_mode == "zero":
        return geometry, large
    widened = padding.widened(geometry)
    wide = allocate(widened.large_shape, large.dtype)
    padding.fill(geometry, large, wide)
    return widened, wide


def weight_gradient(
    geometry: Geometry,
    data: Array,
    out_grad: Array,
    out: Array | None = None,
    *,
    workspace: int,
    threads: int | None = None,
    tune: str | None = None,
) -> Array:
    """Compute the weight's gradient from both sides."""
    limits: dict[str, Any] = {"workspace": workspace, "threads": threads, "tune": tune}
    quick = _quick(geometry, "weight_gradient", data, out_grad, None, out, limits)
    if quick is not None:
        return quick
    dtype = data.dtype.newbyteorder("=")
    data, out_grad = _ready(data, dtype), _ready(out_grad, dtype)
    room = _Room(out, geometry.weight_shape, dtype, (data, out_grad))
    if data.size and out_grad.size:
        geometry, out_grad = _continued(geometry, out_grad)
        backend_for(geometry, dtype).weight_gradient(geometry, data, out_grad, room.buffer, **limits)
    else:
        room.buffer[...] = 0
    return room.finish()


def bias_gradient(
    geometry: Geometry, grad: Array, out: Array | None = None, *, threads: int | None = None
) -> Array:
    """Sum `grad`, of either side of `geometry`, over all but its maps."""
    dtype = grad.dtype.newbyteorder("=")
    grad = _ready(grad, dtype)
    axis = grad.ndim - 1 if geometry.channels_last else 1
    room = _Room(out, (grad.shape[axis],), dtype, (grad,))
    if grad.size:
        backend_for(geometry, dtype).bias_gradient(grad, axis, room.buffer, threads=threads)
    else:
        room.buffer[...] = 0
    return room.finish()
