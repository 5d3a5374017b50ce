"""Parameters of gluon blocks: arrays with a name, made when their shape is known (`mx.gluon.Parameter`)."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any, NamedTuple

import numpy as np

from tconv import autograd, context, initializer, ndarray, symbol
from tconv.context import Context
from tconv.errors import MXNetError, ParameterError
from tconv.gluon import errors
from tconv.gluon.text import brief, indent
from tconv.ndarray import NDArray

__all__ = ["Constant", "DeferredInitializationError", "Parameter", "ParameterDict", "tensor_types"]

tensor_types = (symbol.Symbol, NDArray)

Shape = tuple[int, ...]

_STORAGE = ("default", "row_sparse", "csr")
_REQUESTS = ("write", "add", "null")


class DeferredInitializationError(MXNetError):
    """A parameter is asked for before the first forward pass has told its shape."""


class _Deferred(NamedTuple):
    """What is to be done once the shape is known; `data` stands in for the initializers."""

    init: Any
    contexts: list[Context]
    default_init: Any
    data: Any


def shape_is_known(shape: Sequence[int] | None) -> bool:
    """Tell whether no entry of `shape` is unknown, which is 0 or -1."""
    return shape is not None and len(shape) > 0 and all(size > 0 for size in shape)


def as_contexts(ctx: Context | Sequence[Context] | None) -> list[Context]:
    """Return the devices `ctx` names, the current one by default."""
    if ctx is None:
        return [context.current_context()]
    return [ctx] if isinstance(ctx, Context) else list(ctx)


def _slot(ctx: Context) -> tuple[bool, int]:
    # Pinned memory belongs to the processor it is seen from.
    return ctx.device_type == "gpu", ctx.device_id


class Parameter:
    """An array with a name that a block computes with, one copy a device, and its gradient.

    Parameters
    ----------
    name : str
        Its name.
    grad_req : {'write', 'add', 'null'}
        Whether `backward` writes the gradient, adds to it, or leaves it out.
    shape : int or tuple of int, optional
        0 where unknown.
    dtype : str or type
        Element type.
    lr_mult, wd_mult : float
        Factors of learning rate and weight decay.
    init : Initializer or str, optional
        Its own initializer, stronger than the default of `initialize`.
    allow_deferred_init : bool
        Whether an unknown shape may wait for the first forward pass.
    differentiable : bool
        Whether it can have a gradient; if not, `grad_req` stays 'null'.
    stype, grad_stype : str
        Storage; arrays are always dense here, so `stype` has to be 'default'.

    Raises
    ------
    ArgumentError
        If `grad_req` or a storage type is not one of those.

    Examples
    --------
    >>> import tconv as mx
    >>> weight = mx.gluon.Parameter("weight", shape=(2, 3))
    >>> weight.initialize(mx.init.One())
    >>> weight.data().asnumpy().tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    def __init__(
        self,
        name: str,
        grad_req: str = "write",
        shape: int | Sequence[int] | None = None,
        dtype: Any = np.float32,
        lr_mult: float = 1.0,
        wd_mult: float = 1.0,
        init: Any = None,
        allow_deferred_init: bool = False,
        differentiable: bool = True,
        stype: str = "default",
        grad_stype: str = "default",
    ) -> None:
        for key, storage in (("stype", stype), ("grad_stype", grad_stype)):
            if storage not in _STORAGE:
                raise errors.AssertionError(
                    f"Parameter {name}: {key}: got {storage!r}; need one of {', '.join(_STORAGE)}"
                )
        if stype != "default":
            raise ParameterError(f"Parameter {name}: stype: got {stype!r}; only dense parameters are supported")
        self._var: symbol.Symbol | None = None
        self._data: list[NDArray] | None = None
        self._grad: list[NDArray] | None = None
        self._ctx_list: list[Context] = []
        self._deferred_init: _Deferred | None = None
        self._trainer: Any = None
        self._differentiable = differentiable
        self._allow_deferred_init = allow_deferred_init
        self._grad_req = ""
        self._shape = (shape,) if isinstance(shape, int) else None if shape is None else tuple(shape)
        self._dtype = dtype
        self.name = name
        self.lr_mult = lr_mult
        self.wd_mult = wd_mult
        self.grad_req = grad_req
        self.init = init

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.name} (shape={self.shape}, dtype={self.dtype})"

    @property
    def grad_req(self) -> str:
        """Whether `backward` writes the gradient ('write'), adds to it ('add') or leaves it out ('null')."""
        return self._grad_req

    @grad_req.setter
    def grad_req(self, req: str) -> None:
        if req not in _REQUESTS:
            raise errors.AssertionError(
                f"Parameter {self.name}: grad_req: got {req!r}; need one of {', '.join(_REQUESTS)}"
            )
        if not self._differentiable:
            req = "null"
        if self._grad_req == req:
            return
        self._grad_req = req
        if self._data is None:
            return
        if req == "null":
            self._grad = None
            self._data = [array.detach() for array in self._data]
        else:
            self._init_grad()

    @property
    def dtype(self) -> Any:
        """Element type; setting it casts."""
        return self._dtype

    @dtype.setter
    def dtype(self, dtype: Any) -> None:
        self.cast(dtype)

    @property
    def shape(self) -> Shape | None:
        """Shape, 0 where unknown; None if nothing is known. May be set where it was unknown."""
        return self._shape

    @shape.setter
    def shape(self, shape: Sequence[int]) -> None:
        new = tuple(shape)
        known = self._shape
        if known is not None and (
            len(known) != len(new) or any(have not in (-1, 0, size) for size, have in zip(new, known))
        ):
            raise errors.AssertionError(
                f"Parameter {self.name}: shape: got {new}; need {known}, where 0 may be anything"
            )
        self._shape = new

    def _set_trainer(self, trainer: Any) -> None:
        self._trainer = trainer

    def _pick(self, arrays: list[NDArray] | None, ctx: Context | None) -> NDArray:
        """Return the copy on one device."""
        held = self._all(arrays)
        if ctx is None and len(held) == 1:
            return held[0]
        wanted = ctx or context.current_context()
        for array, place in zip(held, self._ctx_list):
            if _slot(place) == _slot(wanted):
                return array
        raise errors.RuntimeError(
            f"Parameter {self.name}: got {wanted}; it was initialized on {', '.join(map(str, self._ctx_list))} only"
        )

    def _all(self, arrays: list[NDArray] | None) -> list[NDArray]:
        if arrays is not None:
            return arrays
        if self._data is not None:
            raise errors.RuntimeError(f"Parameter {self.name}: it has no gradient, because grad_req is 'null'")
        if self._deferred_init:
            raise DeferredInitializationError(
                f"Parameter {self.name}: its shape {self.shape} is not known before the first forward pass; "
                "run one, or give the layer its in_channels or in_units"
            )
        raise errors.RuntimeError(
            f"Parameter {self.name}: it has not been initialized; call initialize() of the block, "
            "which reaches the parameters of its children too"
        )

    def _load_init(
        self,
        data: NDArray,
        ctx: Context | Sequence[Context] | None,
        cast_dtype: bool = False,
        dtype_source: str = "current",
    ) -> None:
        """Take shape, value and, if `dtype_source` is 'saved', type from `data`."""
        if cast_dtype and dtype_source not in ("current", "saved"):
            raise errors.AssertionError(
                f"Parameter {self.name}: dtype_source: got {dtype_source!r}; need 'current' or 'saved'"
            )
        if self.shape and _merged(data.shape, self.shape) is None:
            raise errors.AssertionError(f"Parameter {self.name}: got a saved shape {data.shape}; need {self.shape}")
        self._shape = tuple(data.shape)
        if self.dtype is not None and np.dtype(self.dtype) != np.dtype(data.dtype):
            if not cast_dtype:
                raise errors.AssertionError(
                    f"Parameter {self.name}: got a saved type {np.dtype(data.dtype).name}; need "
                    f"{np.dtype(self.dtype).name}, or cast_dtype=True"
                )
            if dtype_source == "saved":
                self.dtype = data.dtype
        if self._data is None:
            contexts = self._deferred_init.contexts if self._deferred_init else None
            self._check_devices(ctx, contexts)
            self._init_impl(data, contexts or ([context.cpu()] if ctx is None else as_contexts(ctx)))
        else:
            self._check_devices(ctx, self._ctx_list)
            self.set_data(data)
        self._deferred_init = None

    def _check_devices(self, ctx: Context | Sequence[Context] | None, known: list[Context] | None) -> None:
        if ctx is not None and known is not None and set(as_contexts(ctx)) != set(known):
            raise errors.AssertionError(
                f"Parameter {self.name}: ctx: got {ctx}; it is on {', '.join(map(str, known))} already"
            )

    def _finish_deferred_init(self) -> None:
        """Make the arrays now that the shape is known; without a deferred initialization do nothing."""
        deferred = self._deferred_init
        if deferred is None:
            return
        shape = self.shape
        if shape is None or not shape_is_known(shape):
            raise errors.AssertionError(
                f"Parameter {self.name}: shape: got {shape}; need all sizes, as by in_channels or in_units"
            )
        self._deferred_init = None
        with autograd.pause():
            if deferred.data is not None:
                value = deferred.data
            else:
                value = ndarray.zeros(shape, dtype=self.dtype, ctx=context.cpu())
                own = initializer.InitDesc(self.name, {"__init__": deferred.init})
                initializer.create(deferred.default_init)(own, value)
            self._init_impl(value, deferred.contexts)

    def _init_impl(self, data: Any, contexts: Sequence[Context]) -> None:
        """Put a copy of `data` on every device, and make room for gradients."""
        self._ctx_list = list(contexts)
        self._data = [ndarray.array(data, dtype=self.dtype, ctx=ctx) for ctx in self._ctx_list]
        self._init_grad()

    def _init_grad(self) -> None:
        if self.grad_req == "null" or self._data is None:
            self._grad = None
            return
        self._grad = [ndarray.zeros(array.shape, dtype=array.dtype, ctx=array.ctx) for array in self._data]
        autograd.mark_variables(self._data, self._grad, self.grad_req)

    def _reduce(self) -> NDArray:
        """Return a copy on the processor, the mean over devices."""
        held = self.list_data()
        if len(held) == 1:
            return held[0].detach().copyto(context.cpu())
        mean = np.mean([array.asnumpy() for array in held], axis=0)
        return ndarray.array(mean, dtype=self.dtype, ctx=context.cpu())

    def initialize(
        self,
        init: Any = None,
        ctx: Context | Sequence[Context] | None = None,
        default_init: Any = None,
        force_reinit: bool = False,
    ) -> None:
        """Make the arrays and fill them.

        Parameters
        ----------
        init : Initializer or str, optional
            The initializer, stronger than the parameter's own.
        ctx : Context or list of Context, optional
            Devices to hold a copy; the current one by default.
        default_init : Initializer or str, optional
            Taken where neither `init` nor the parameter's own is given; `Uniform()` by default.
        force_reinit : bool
            Whether to start anew if there are values already.

        Raises
        ------
        ShapeError
            If the shape is not known and may not be deferred.
        """
        if self._data is not None and not force_reinit:
            warnings.warn(
                f"Parameter {self.name} is initialized already; force_reinit=True starts anew", stacklevel=2
            )
            return
        self._data = self._grad = None
        default = initializer.Uniform() if default_init is None else default_init
        if init is None:
            init = default if self.init is None else self.init
        if not shape_is_known(self.shape) and not self._allow_deferred_init:
            raise errors.ValueError(f"Parameter {self.name}: shape: got {self.shape}; need all sizes")
        self._deferred_init = _Deferred(init, as_contexts(ctx), default, None)
        if shape_is_known(self.shape):
            self._finish_deferred_init()

    def reset_ctx(self, ctx: Context | Sequence[Context] | None) -> None:
        """Move to other devices.

        Raises
        ------
        ArgumentError
            If it has not been initialized.
        """
        contexts = as_contexts(ctx)
        if self._data is not None:
            value = self._reduce()
            with autograd.pause():
                self._init_impl(value, contexts)
        elif self._deferred_init:
            self._deferred_init = self._deferred_init._replace(contexts=contexts)
        else:
            raise errors.ValueError(f"Parameter {self.name}: it has not been initialized; it is on no device")

    def set_data(self, data: Any) -> None:
        """Set the value on all devices.

        Raises
        ------
        ArgumentError
            If the shape does not fit, or the parameter has not been initialized.
        """
        self.shape = data.shape
        if self._data is not None:
            for array in self._data:
                array[:] = data
        elif self._deferred_init:
            self._deferred_init = self._deferred_init._replace(data=data)
        else:
            raise errors.AssertionError(f"Parameter {self.name}: it has not been initialized")

    def data(self, ctx: Context | None = None) -> NDArray:
        """Return the array on one device.

        Raises
        ------
        DeferredInitializationError
            If it waits for its shape.
        MXNetError
            If it has not been initialized, or not on that device.
        """
        return self._pick(self._data, ctx)

    def list_data(self) -> list[NDArray]:
        """Return the arrays on all devices; raises as `data`."""
        return self._all(self._data)

    def grad(self, ctx: Context | None = None) -> NDArray:
        """Return the gradient on one device; raises as `data`, and MXNetError if `grad_req` is 'null'."""
        return self._pick(self._grad, ctx)

    def list_grad(self) -> list[NDArray]:
        """Return the gradients on all devices; raises as `grad`."""
        return self._all(self._grad)

    def list_ctx(self) -> list[Context]:
        """Return the devices it is on, or will be.

        Raises
        ------
        MXNetError
            If it has not been initialized.
        """
        if self._data is not None:
            return self._ctx_list
        if self._deferred_init:
            return self._deferred_init.contexts
        raise errors.RuntimeError(f"Parameter {self.name}: it has not been initialized")

    def zero_grad(self) -> None:
        """Set the gradients to 0, where there are any."""
        for grad in self._grad or ():
            grad[:] = 0

    def var(self) -> symbol.Symbol:
        """Return the variable that stands for the parameter in symbols."""
        if self._var is None:
            self._var = symbol.var(
                self.name,
                shape=self.shape,
                dtype=self.dtype,
                lr_mult=self.lr_mult,
                wd_mult=self.wd_mult,
                init=self.init,
                stype="default",
            )
        return self._var

    def cast(self, dtype: Any) -> None:
        """Change the element type of value and gradient."""
        self._dtype = dtype
        self._var = None
        if self._data is None:
            return
        with autograd.pause():
            self._data = [array.astype(dtype) for array in self._data]
            self._init_grad()


class Constant(Parameter):
    """A parameter that training leaves alone; `set_data` may change it.

    Parameters
    ----------
    name : str
        Its name.
    value : array_like
        Its value.

    Examples
    --------
    >>> import tconv as mx
    >>> kernel = mx.gluon.Constant("kernel", [[1, 2], [2, 4]])
    >>> kernel.initialize()
    >>> kernel.data().asnumpy().tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """

    def __init__(self, name: str, value: Any) -> None:
        self.value = value if isinstance(value, NDArray) else ndarray.array(value)
        super().__init__(
            name,
            grad_req="null",
            shape=self.value.shape,
            dtype=self.value.dtype,
            init=initializer.Constant(self.value),
            differentiable=False,
        )

    @property
    def grad_req(self) -> str:
        """Always 'null'."""
        return "null"

    @grad_req.setter
    def grad_req(self, req: str) -> None:
        if req != "null":
            warnings.warn(f"Constant {self.name} has no gradient; grad_req {req!r} is ignored", stacklevel=2)


class ParameterDict:
    """Parameters by name, in the order they came.

    Parameters
    ----------
    prefix : str
        Put before the name of every parameter that `get` makes.
    shared : ParameterDict, optional
        Where `get` looks before it makes a parameter.

    Examples
    --------
    >>> import tconv as mx
    >>> params = mx.gluon.ParameterDict("net_")
    >>> params.get("weight", shape=(2, 2))
    Parameter net_weight (shape=(2, 2), dtype=<class 'numpy.float32'>)
    """

    def __init__(self, prefix: str = "", shared: ParameterDict | None = None) -> None:
        self._prefix = prefix
        self._params: OrderedDict[str, Parameter] = OrderedDict()
        self._shared = shared

    def __repr__(self) -> str:
        lines = "\n".join(indent(f"  {param}") for param in self.values())
        return f"{self._prefix + ' ' if self._prefix else ''}(\n{lines}\n)"

    def __getitem__(self, key: str) -> Parameter:
        return self._params[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __contains__(self, key: object) -> bool:
        return key in self._params

    def items(self) -> ItemsView[str, Parameter]:
        """Return names and parameters."""
        return self._params.items()

    def keys(self) -> KeysView[str]:
        """Return the names."""
        return self._params.keys()

    def values(self) -> ValuesView[Parameter]:
        """Return the parameters."""
        return self._params.values()

    @property
    def prefix(self) -> str:
        """What is put before the name of every parameter that `get` makes."""
        return self._prefix

    def _find(self, name: str) -> Parameter | None:
        if name not in self._params and self._shared is not None and name in self._shared:
            self._params[name] = self._shared[name]
        return self._params.get(name)

    def get(self, name: str, **kwargs: Any) -> Parameter:
        """Return the parameter `prefix + name`, of this dict or the shared one, or make it.

        Parameters
        ----------
        name : str
            Name without the prefix.
        **kwargs
            Arguments of `Parameter`; where it exists they have to agree with it.

        Raises
        ------
        ArgumentError
            If an argument contradicts the parameter that exists.
        """
        name = self.prefix + name
        param = self._find(name)
        if param is None:
            param = self._params[name] = Parameter(name, **kwargs)
            return param
        for key, value in kwargs.items():
            existing = getattr(param, key, None)
            if existing is None:
                setattr(param, key, value)
            elif key == "shape" and (merged := _merged(value, existing)) is not None:
                param._shape = merged
            elif not (
                value is None or (key == "dtype" and np.dtype(value) == np.dtype(existing)) or value == existing
            ):
                raise errors.AssertionError(f"Parameter {name}: {key}: got {value}; it exists with {existing}")
        return param

    def get_constant(self, name: str, value: Any = None) -> Parameter:
        """Return the constant `prefix + name`, or make it from `value`.

        Raises
        ------
        KeyError
            If it does not exist and there is no value to make it from.
        ArgumentError
            If it exists with another value, or is no constant.
        """
        name = self.prefix + name
        param = self._find(name)
        if param is None:
            if value is None:
                raise KeyError(f"constant {name}: it does not exist; need a value to make it")
            param = self._params[name] = Constant(name, value)
        elif value is not None:
            if not isinstance(param, Constant):
                raise errors.AssertionError(f"Parameter {name}: it exists and is no constant")
            wanted = value.asnumpy() if isinstance(value, NDArray) else np.asarray(value)
            if not np.array_equal(wanted, param.value.asnumpy()):
                raise errors.AssertionError(f"constant {name}: it exists with another value")
        return param

    def update(self, other: ParameterDict | Mapping[str, Parameter]) -> None:
        """Take in all parameters of `other`.

        Raises
        ------
        ArgumentError
            If another parameter has one of the names.
        """
        for name, param in other.items():
            if self._params.get(name, param) is not param:
                raise errors.AssertionError(f"Parameter {name}: two different parameters have this name")
        self._params.update(other.items())

    def initialize(
        self,
        init: Any = None,
        ctx: Context | Sequence[Context] | None = None,
        verbose: bool = False,
        force_reinit: bool = False,
    ) -> None:
        """Initialize all parameters.

        Parameters
        ----------
        init : Initializer or str, optional
            Initializer of those that have none of their own; `Uniform()` by default.
        ctx : Context or list of Context, optional
            Devices to hold a copy.
        verbose : bool
            Whether to log every array.
        force_reinit : bool
            Whether to start anew where there are values already.
        """
        default = initializer.create(initializer.Uniform() if init is None else init)
        if verbose:
            default.set_verbosity(verbose=True)
        for param in self.values():
            param.initialize(None, ctx, default, force_reinit=force_reinit)

    def zero_grad(self) -> None:
        """Set all gradients to 0."""
        for param in self.values():
            param.zero_grad()

    def reset_ctx(self, ctx: Context | Sequence[Context] | None) -> None:
        """Move all parameters to other devices."""
        for param in self.values():
            param.reset_ctx(ctx)

    def list_ctx(self) -> list[Context]:
        """Return all devices the parameters are on."""
        return list(dict.fromkeys(ctx for param in self.values() for ctx in param.list_ctx()))

    def setattr(self, name: str, value: Any) -> None:
        """Set an attribute of every parameter, as in `setattr("grad_req", "null")`."""
        for param in self.values():
            setattr(param, name, value)

    def save(self, filename: str, strip_prefix: str = "") -> None:
        """Write all parameters to a `.params` file.

        Parameters
        ----------
        filename : str
            The file.
        strip_prefix : str
            Dropped from the beginning of every name.

        Raises
        ------
        ArgumentError
            If a name does not begin with it.
        """
        arrays = {}
        for param in self.values():
            if not param.name.startswith(strip_prefix):
                raise errors.ValueError(
                    f"Parameter {param.name}: its name does not begin with the prefix {strip_prefix!r} to be "
                    "dropped; it is shared with another block, or was made outside of name_scope()"
                )
            arrays[param.name[len(strip_prefix) :]] = param._reduce()
        ndarray.save(filename, arrays)

    def load(
        self,
        filename: str,
        ctx: Context | Sequence[Context] | None = None,
        allow_missing: bool = False,
        ignore_extra: bool = False,
        restore_prefix: str = "",
        cast_dtype: bool = False,
        dtype_source: str = "current",
    ) -> None:
        """Read a `.params` file.

        Parameters
        ----------
        filename : str
            The file; `arg:` and `aux:` before its names are dropped.
        ctx : Context or list of Context, optional
            Devices to hold a copy.
        allow_missing, ignore_extra : bool
            Whether the file may lack parameters, or have further ones.
        restore_prefix : str
            Put before the names of the file.
        cast_dtype : bool
            Whether another element type is cast instead of refused.
        dtype_source : {'current', 'saved'}
            Which type stays when casting.

        Raises
        ------
        ArgumentError
            If names, shapes or types do not fit.
        """
        self.load_dict(
            ndarray.load(filename),
            ctx,
            allow_missing,
            ignore_extra,
            restore_prefix,
            filename,
            cast_dtype,
            dtype_source,
        )

    def load_dict(
        self,
        param_dict: Any,
        ctx: Context | Sequence[Context] | None = None,
        allow_missing: bool = False,
        ignore_extra: bool = False,
        restore_prefix: str = "",
        filename: str | None = None,
        cast_dtype: bool = False,
        dtype_source: str = "current",
    ) -> None:
        """Take values from a dict of arrays; arguments and errors as of `load`."""
        source = f"file {filename}" if filename else "dict"
        arrays = {restore_prefix + name: array for name, array in named_arrays(param_dict, source).items()}
        for name in self.keys():
            if not name.startswith(restore_prefix):
                raise errors.AssertionError(
                    f"Parameter {name}: its name does not begin with restore_prefix {restore_prefix!r}"
                )
            if not allow_missing and name not in arrays:
                raise errors.AssertionError(
                    f"Parameter {name}: missing in {source}, which has {brief(arrays)}; need the same names, "
                    "or allow_missing=True"
                )
        for name, array in arrays.items():
            if name in self:
                self[name]._load_init(array, ctx, cast_dtype=cast_dtype, dtype_source=dtype_source)
            elif not ignore_extra:
                raise errors.AssertionError(
                    f"Parameter {name}: in {source}, but not among {brief(self.keys())}; need the same names, "
                    "or ignore_extra=True"
                )


def named_arrays(loaded: Any, source: str) -> dict[str, NDArray]:
    """Return arrays by name, `arg:` and `aux:` dropped.

    Raises
    ------
    ArgumentError
        If the arrays have no names.
    """
    if not isinstance(loaded, Mapping):
        if loaded:
            raise errors.AssertionError(f"{source}: got arrays without names; need one name an array")
        return {}
    return {name[4:] if name[:4] in ("arg:", "aux:") else name: array for name, array in loaded.items()}


def _merged(new: Iterable[int], known: Iterable[int]) -> Shape | None:
    """Return what two shapes with unknowns say together, or None if they differ."""
    new, known = tuple(new), tuple(known)
    if len(new) != len(known) or any(a != b and a > 0 and b > 0 for a, b in zip(new, known)):
        return None
    return tuple(max(a, b) for a, b in zip(new, known))
