"""How gradients change parameters (`mx.optimizer`)."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from tconv import ndarray, registry
from tconv.errors import ArgumentError, FormatError
from tconv.formats import params_file
from tconv.lr_scheduler import LRScheduler
from tconv.ndarray import NDArray
from tconv.symbol import Symbol

__all__ = ["SGD", "Adam", "Optimizer", "Updater", "create", "get_updater", "register"]

Array = np.ndarray[Any, Any]
Index = int | str


class Optimizer:
    """Base of the optimizers. A subclass says in `update(index, weight, grad, state)` how a parameter changes.

    Parameters
    ----------
    rescale_grad : float
        Factor of every gradient.
    param_idx2name : dict of int to str, optional
        Names of the parameters.
    wd : float
        Weight decay.
    clip_gradient : float, optional
        Bound of the elements of a gradient.
    learning_rate : float, optional
        The learning rate; 0.01 by default.
    lr_scheduler : LRScheduler, optional
        A schedule instead.
    sym : Symbol, optional
        Network whose variables tell factors by `__lr_mult__` and `__wd_mult__`.
    begin_num_update : int
        Number of updates that went before.
    multi_precision : bool
        Whether float16 parameters keep a float32 copy.
    param_dict : dict of int to Parameter, optional
        Gluon parameters, whose `lr_mult` and `wd_mult` count.

    Raises
    ------
    ArgumentError
        If `param_idx2name` is no dict.
    """

    def __init__(
        self,
        rescale_grad: float = 1.0,
        param_idx2name: Mapping[Index, str] | None = None,
        wd: float = 0.0,
        clip_gradient: float | None = None,
        learning_rate: float | None = None,
        lr_scheduler: LRScheduler | None = None,
        sym: Symbol | None = None,
        begin_num_update: int = 0,
        multi_precision: bool = False,
        param_dict: Mapping[Index, Any] | None = None,
    ) -> None:
        if param_idx2name is not None and not isinstance(param_idx2name, Mapping):
            raise ArgumentError(f"Optimizer: param_idx2name: got {type(param_idx2name).__name__}; need a dict")
        self.rescale_grad = rescale_grad
        self.lr_scheduler = lr_scheduler
        if lr_scheduler is not None and learning_rate is not None:
            lr_scheduler.base_lr = learning_rate
        self.lr: float = 0.01 if learning_rate is None else learning_rate
        self.wd = wd
        self.begin_num_update = begin_num_update
        self.num_update = begin_num_update
        self._counts_by_device: dict[int, dict[Index, int]] = {0: {}}
        self._index_update_count = self._counts_by_device[0]
        self.clip_gradient = clip_gradient
        self.multi_precision = multi_precision
        self.idx2name = dict(param_idx2name or {})
        self._attributes = sym.attr_dict() if sym is not None else {}
        self.param_dict: Mapping[Index, Any] = param_dict or {}
        self.lr_mult: dict[Index, float] = {}
        self.wd_mult: dict[Index, float] = {}
        self.set_lr_mult({})
        self.set_wd_mult({})

    @staticmethod
    def register(klass: type[Optimizer]) -> type[Optimizer]:
        """Enter a subclass, so that its lower-case name can stand for it."""
        registered: type[Optimizer] = _register(klass)
        return registered

    @staticmethod
    def create_optimizer(name: str, **kwargs: Any) -> Optimizer:
        """Return the optimizer of that name, lower or upper case.

        Raises
        ------
        ArgumentError
            If there is none.
        """
        made: Optimizer = _create(name, **kwargs)
        return made

    @property
    def learning_rate(self) -> float:
        """The learning rate in force."""
        return self.lr if self.lr_scheduler is None else self.lr_scheduler(self.num_update)

    def set_learning_rate(self, lr: float) -> None:
        """Change the learning rate.

        Raises
        ------
        UserWarning
            If a schedule decides it.
        """
        if self.lr_scheduler is not None:
            raise UserWarning("set_learning_rate: the learning rate follows an LRScheduler; change its base_lr")
        self.lr = lr

    def set_lr_mult(self, args_lr_mult: Mapping[Index, float]) -> None:
        """Set factors of the learning rate, by name or index."""
        self.lr_mult = {**self._noted("__lr_mult__"), **args_lr_mult}

    def set_wd_mult(self, args_wd_mult: Mapping[Index, float]) -> None:
        """Set factors of the weight decay, by name or index; 0 for what is neither weight nor gamma."""
        decayed = ("_weight", "_gamma")
        spared: dict[Index, float] = {n: 0.0 for n in self.idx2name.values() if not n.endswith(decayed)}
        self.wd_mult = {**spared, **self._noted("__wd_mult__"), **args_wd_mult}

    def _noted(self, key: str) -> dict[Index, float]:
        return {name: float(attrs[key]) for name, attrs in self._attributes.items() if key in attrs}

    def _factor(self, index: Index, attribute: str, factors: Mapping[Index, float]) -> float:
        if index in self.param_dict:
            return float(getattr(self.param_dict[index], attribute))
        if index in factors:
            return factors[index]
        return factors.get(self.idx2name.get(index, ""), 1.0)

    def _get_lr(self, index: Index) -> float:
        return self.learning_rate * self._factor(index, "lr_mult", self.lr_mult)

    def _get_wd(self, index: Index) -> float:
        return self.wd * self._factor(index, "wd_mult", self.wd_mult)

    def _set_current_context(self, device_id: int) -> None:
        self._index_update_count = self._counts_by_device.setdefault(device_id, {})

    def _update_count(self, index: Index) -> None:
        count = self._index_update_count.get(index, self.begin_num_update) + 1
        self._index_update_count[index] = count
        self.num_update = max(count, self.num_update)

    def create_state(self, index: Index, weight: NDArray) -> Any:
        """Return what the optimizer remembers of a parameter; nothing by default."""
        return None

    def create_state_multi_precision(self, index: Index, weight: NDArray) -> Any:
        """Return the state, with a float32 copy of the parameter where one is kept."""
        if weight.dtype == np.float16:
            if self.multi_precision:
                copy = weight.astype(np.float32)
                return copy, self.create_state(index, copy)
            warnings.warn(
                f"{type(self).__name__}: a float16 parameter changes by steps that are too small for it; "
                "multi_precision=True keeps a float32 copy",
                stacklevel=3,
            )
        return self.create_state(index, weight)

    def update(self, index: Index, weight: NDArray, grad: NDArray, state: Any) -> None:
        """Change `weight` and `state` in place; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__}: update: missing; a subclass has to define it")

    def update_multi_precision(self, index: Index, weight: NDArray, grad: NDArray, state: Any) -> None:
        """Change `weight` by way of its float32 copy where one is kept."""
        if self.multi_precision and weight.dtype == np.float16:
            copy, inner = state
            self.update(index, copy, grad.astype(np.float32), inner)
            weight[:] = copy
        else:
            self.update(index, weight, grad, state)

    def _clipped(self, grad: Array) -> Array:
        return np.clip(grad, -self.clip_gradient, self.clip_gradient) if self.clip_gradient else grad


_register = registry.get_register_func(Optimizer, "optimizer")
_create = registry.get_create_func(Optimizer, "optimizer")
register = Optimizer.register


def create(name: str | Optimizer, **kwargs: Any) -> Optimizer:
    """Return the optimizer of that name, or the optimizer itself.

    Raises
    ------
    ArgumentError
        If there is none of that name.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.optimizer.create("sgd", learning_rate=0.5).learning_rate
    0.5
    """
    made: Optimizer = _create(name, **kwargs)
    return made


@register
class SGD(Optimizer):
    """Gradient descent: `momentum = m * momentum - lr * (grad + wd * weight)`, `weight += momentum`.

    The gradient is rescaled and clipped before.

    Parameters
    ----------
    momentum : float
        The factor m; 0 for none.
    lazy_update : bool
        Known for the sake of scripts; there are no sparse gradients.
    **kwargs
        As of `Optimizer`.
    """

    def __init__(self, momentum: float = 0.0, lazy_update: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum

    def create_state(self, index: Index, weight: NDArray) -> Any:
        """Return the momentum, or None."""
        return ndarray.zeros(weight.shape, ctx=weight.ctx, dtype=weight.dtype) if self.momentum else None

    def update(self, index: Index, weight: NDArray, grad: NDArray, state: Any) -> None:
        """Take one step."""
        self._update_count(index)
        step = self._clipped(grad._data * self.rescale_grad)
        step = step + self._get_wd(index) * weight._data
        step *= -self._get_lr(index)
        if state is not None:
            state._data *= self.momentum
            state._data += step
            step = state._data
        weight._data += step


@register
class Adam(Optimizer):
    """Steps by running means of the gradient and of its square (Kingma and Ba 2014).

    The gradient is rescaled, weight decay is added, and the sum is clipped.

    Parameters
    ----------
    learning_rate : float
        The learning rate.
    beta1, beta2 : float
        Part of the means that is kept at each step.
    epsilon : float
        Added to the root of the mean square.
    lazy_update : bool
        Known for the sake of scripts; there are no sparse gradients.
    **kwargs
        As of `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        lazy_update: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def create_state(self, index: Index, weight: NDArray) -> Any:
        """Return the two means."""
        return tuple(ndarray.zeros(weight.shape, ctx=weight.ctx, dtype=weight.dtype) for _ in range(2))

    def update(self, index: Index, weight: NDArray, grad: NDArray, state: Any) -> None:
        """Take one step."""
        self._update_count(index)
        count = self._index_update_count[index]
        rate = self._get_lr(index) * math.sqrt(1 - self.beta2**count) / (1 - self.beta1**count)
        gradient = self._clipped(grad._data * self.rescale_grad + self._get_wd(index) * weight._data)
        mean, square = (array._data for array in state)
        mean *= self.beta1
        mean += (1 - self.beta1) * gradient
        square *= self.beta2
        square += (1 - self.beta2) * np.square(gradient)
        weight._data -= rate * mean / (np.sqrt(square) + self.epsilon)


class Updater:
    """An optimizer with the states of all parameters it has seen: `updater(index, grad, weight)`.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.states: dict[Index, Any] = {}

    def __call__(self, index: Any, grad: Any, weight: Any) -> None:
        """Change one parameter, or lists of them, in place."""
        if not isinstance(index, (list, tuple)):
            index, grad, weight = [index], [grad], [weight]
        for key, one_grad, one_weight in zip(index, grad, weight):
            self.optimizer._set_current_context(one_weight.ctx.device_id)
            if key not in self.states:
                self.states[key] = self.optimizer.create_state_multi_precision(key, one_weight)
            self.optimizer.update_multi_precision(key, one_weight, one_grad, self.states[key])

    def get_states(self, dump_optimizer: bool = False) -> bytes:
        """Return the states as content of a `.params` file, with `dump_optimizer` the optimizer's counts too."""
        arrays: dict[str, Array] = {}
        forms = [[key, _form(state, str(key), arrays)] for key, state in self.states.items()]
        counts = None
        if dump_optimizer:
            optimizer = self.optimizer
            counts = {
                "num_update": optimizer.num_update,
                "lr": optimizer.lr,
                "counts": [[device, list(of.items())] for device, of in optimizer._counts_by_device.items()],
            }
        text = json.dumps({"states": forms, "optimizer": counts})
        arrays[_FORMS] = np.frombuffer(text.encode(), np.uint8)
        return params_file.dump(list(arrays.values()), list(arrays))

    def set_states(self, states: bytes) -> None:
        """Take up what `get_states` returned.

        Raises
        ------
        FormatError
            If the bytes are something else.
        """
        arrays = dict(zip(*reversed(params_file.loads(states))))
        try:
            forms = json.loads(arrays[_FORMS].tobytes())
            found = {key: _state(form, arrays) for key, form in forms["states"]}
            counts = forms["optimizer"]
            if counts is not None:
                by_device = {device: {key: int(n) for key, n in of} for device, of in counts["counts"]}
                number, rate = int(counts["num_update"]), float(counts["lr"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FormatError("set_states: states: got other bytes than get_states returns") from None
        self.states = found
        if counts is not None:
            optimizer = self.optimizer
            optimizer.num_update, optimizer.lr = number, rate
            optimizer._counts_by_device = by_device
            optimizer._set_current_context(0)


_FORMS = "forms"


def _form(state: Any, path: str, arrays: dict[str, Array]) -> Any:
    """Put the arrays of a state into `arrays`, and return its form with their names in their places."""
    if isinstance(state, NDArray):
        arrays[path] = state.asnumpy()
        return path
    if isinstance(state, (list, tuple)):
        return [_form(part, f"{path}.{number}", arrays) for number, part in enumerate(state)]
    return None


def _state(form: Any, arrays: Mapping[str, Array]) -> Any:
    if isinstance(form, list):
        return tuple(_state(part, arrays) for part in form)
    return None if form is None else ndarray.array(arrays[form], dtype=arrays[form].dtype)


def get_updater(optimizer: Optimizer) -> Updater:
    """Return a function `updater(index, grad, weight)` that remembers the states."""
    return Updater(optimizer)
