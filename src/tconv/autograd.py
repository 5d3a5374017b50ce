"""Recording what is computed, and its gradients: MXNet's `mx.autograd`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tconv.errors import DTypeError, MXNetError, ParameterError
from tconv.ndarray import NDArray, hooks, tape
from tconv.ndarray.ndarray import wrap
from tconv.ndarray.tape import state
from tconv.operators.registry import Array

Arrays = NDArray | Sequence[NDArray]
HeadGrads = NDArray | Sequence[NDArray | None] | None


def record(train_mode: bool = True) -> tape.Mode:
    """Record what is computed inside a `with` statement.

    Parameters
    ----------
    train_mode : bool
        Whether operators are told that this is training.

    Examples
    --------
    >>> import tconv as mx
    >>> w = mx.nd.ones((1, 1, 3))
    >>> w.attach_grad()
    >>> with mx.autograd.record():
    ...     y = mx.nd.Deconvolution(mx.nd.array([[[1, 2]]]), w, kernel=(3,), num_filter=1)
    >>> y.backward()
    >>> w.grad
    <BLANKLINE>
    [[[3. 3. 3.]]]
    <NDArray 1x1x3 @cpu(0)>
    """
    return tape.Mode(True, train_mode)


def pause(train_mode: bool = False) -> tape.Mode:
    """Record nothing inside a `with` statement."""
    return tape.Mode(False, train_mode)


def train_mode() -> tape.Mode:
    """Tell operators inside a `with` statement that this is training."""
    return tape.Mode(None, True)


def predict_mode() -> tape.Mode:
    """Tell operators inside a `with` statement that this is not training."""
    return tape.Mode(None, False)


def is_recording() -> bool:
    """Return whether this thread records."""
    return state.recording


def is_training() -> bool:
    """Return whether operators of this thread are told that this is training."""
    return state.training


def set_recording(is_recording: bool) -> bool:
    """Set whether this thread records, and return whether it did."""
    before, state.recording = state.recording, bool(is_recording)
    return before


def set_training(train_mode: bool) -> bool:
    """Set whether operators of this thread are told that this is training, and return whether they were."""
    before, state.training = state.training, bool(train_mode)
    return before


def _list(where: str, arrays: Any) -> list[NDArray]:
    listed = [arrays] if isinstance(arrays, NDArray) else arrays
    if not isinstance(listed, (list, tuple)) or not listed:
        raise ParameterError(f"{where}: got {type(arrays).__name__} of no arrays; need one NDArray at least")
    for one in listed:
        if not isinstance(one, NDArray):
            raise DTypeError(f"{where}: got {type(one).__name__}; need NDArrays")
    return list(listed)


def _head_grads(head_grads: Any) -> list[NDArray | Array | None] | None:
    if head_grads is None:
        return None
    listed = [head_grads] if isinstance(head_grads, (NDArray, np.ndarray)) else list(head_grads)
    for one in listed:
        if one is not None and not isinstance(one, (NDArray, np.ndarray)):
            raise DTypeError(f"backward: head_grads: got {type(one).__name__}; need NDArrays")
    return listed


def mark_variables(variables: Arrays, gradients: Arrays, grad_reqs: str | Sequence[str] = "write") -> None:
    """Give arrays their gradients.

    Parameters
    ----------
    variables : NDArray or list of NDArray
        The arrays.
    gradients : NDArray or list of NDArray
        An array of the same shape for each, where `backward` puts its gradient.
    grad_reqs : str or list of str
        How it does: `write`, `add` or `null`, for all or for each.
    """
    arrays, grads = _list("mark_variables: variables", variables), _list("mark_variables: gradients", gradients)
    reqs = [grad_reqs] * len(arrays) if isinstance(grad_reqs, str) else list(grad_reqs)
    if not len(arrays) == len(grads) == len(reqs):
        raise ParameterError(
            f"mark_variables: gradients: got {len(grads)} and {len(reqs)} grad_reqs; need {len(arrays)} of each"
        )
    for one, gradient, req in zip(arrays, grads, reqs):
        one._mark(gradient, req)


def backward(
    heads: Arrays, head_grads: HeadGrads = None, retain_graph: bool = False, train_mode: bool = True
) -> None:
    """Compute the gradients of all arrays with gradients that `heads` came from.

    Parameters
    ----------
    heads : NDArray or list of NDArray
        Where to begin.
    head_grads : NDArray or list, optional
        Their gradients; ones where None.
    retain_graph : bool
        Whether the graph is kept, to go back over it again.
    train_mode : bool
        Whether operators are told that this is training.

    Raises
    ------
    MXNetError
        If a head is in no graph, or a gradient of a head does not fit.
    """
    tape.backward(
        _list("backward: heads", heads), _head_grads(head_grads), retain_graph=retain_graph, is_train=train_mode
    )


def grad(
    heads: Arrays,
    variables: Arrays,
    head_grads: HeadGrads = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    train_mode: bool = True,
) -> list[NDArray]:
    """Return gradients instead of writing them to the arrays' own.

    Parameters
    ----------
    heads : NDArray or list of NDArray
        Where to begin.
    variables : NDArray or list of NDArray
        Arrays of the graph, ones in its middle too.
    head_grads : NDArray or list, optional
        Gradients of `heads`; ones where None.
    retain_graph : bool, optional
        Whether the graph is kept.
    create_graph : bool
        Whether to record the gradients, which cannot be done here.
    train_mode : bool
        Whether operators are told that this is training.

    Returns
    -------
    list of NDArray
        The gradient of each of `variables`, even of a single one.

    Raises
    ------
    MXNetError
        If `create_graph` is set, a head is in no graph, or does not depend on a variable.

    Examples
    --------
    >>> import tconv as mx
    >>> x = mx.nd.array([3])
    >>> x.attach_grad()
    >>> with mx.autograd.record():
    ...     y = x * x
    >>> mx.autograd.grad(y, [x])
    [
    [6.]
    <NDArray 1 @cpu(0)>]
    """
    if create_graph:
        raise MXNetError("grad: create_graph: got True; gradients of gradients are not computed here")
    arrays = _list("grad: variables", variables)
    found = tape.backward(
        _list("grad: heads", heads),
        _head_grads(head_grads),
        variables=arrays,
        retain_graph=bool(retain_graph),
        is_train=train_mode,
    )
    return [wrap(np.array(one), array._ctx) for one, array in zip(found, arrays)]


def get_symbol(x: NDArray) -> Any:
    """Return the graph an array came from as a symbol.

    Raises
    ------
    MXNetError
        If the array is in no graph, or a step of the graph is not an operator.
    """
    if not isinstance(x, NDArray):
        raise DTypeError(f"get_symbol: x: got {type(x).__name__}; need an NDArray")
    records, head = tape.history(x)
    return hooks.symbol_room().rebuild(records, head)


class Function:
    """A function with a gradient of its own.

    A subclass defines `forward(*inputs)` and `backward(*output_grads)`, both from arrays to one array or a tuple of
    them. An instance is called once.

    Examples
    --------
    >>> import tconv as mx
    >>> class Clamp(mx.autograd.Function):
    ...     def forward(self, x):
    ...         self.save_for_backward(x)
    ...         return x.clip(-1, 1)
    ...     def backward(self, dy):
    ...         (x,) = self.saved_tensors
    ...         return dy * (x.abs() < 1)
    >>> x = mx.nd.array([-2, 0.5, 2])
    >>> x.attach_grad()
    >>> with mx.autograd.record():
    ...     y = Clamp()(x)
    >>> y.backward()
    >>> x.grad
    <BLANKLINE>
    [0. 1. 0.]
    <NDArray 3 @cpu(0)>
    """

    def __init__(self) -> None:
        self._used = False
        self.saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *args: Any) -> None:
        """Keep values for `backward`, which finds them in `saved_tensors`."""
        self.saved_tensors = args

    def __call__(self, *inputs: NDArray) -> Any:
        """Compute `forward`, and record it."""
        name = type(self).__name__
        if self._used:
            raise MXNetError(f"{name}: got a second call; make another instance")
        self._used = True
        with tape.Mode(False, None):
            outputs = self.forward(*inputs)
        if not state.recording:
            return outputs
        listed = _list(f"{name}: outputs", outputs)
        arrays = _list(f"{name}: inputs", list(inputs))
        contexts = [one._ctx for one in listed]

        def step(out_grads: list[Array]) -> list[Array | None]:
            given = self.backward(*(wrap(one.view(), ctx) for one, ctx in zip(out_grads, contexts)))
            grads = list(given) if isinstance(given, (list, tuple)) else [given]
            if len(grads) != len(arrays):
                raise MXNetError(f"{name}: backward: got {len(grads)} gradients; need {len(arrays)}")
            return [_fitted(name, one, array) for one, array in zip(grads, arrays)]

        tape.record(arrays, listed, step)
        return outputs

    def forward(self, *inputs: Any) -> Any:
        """Compute the outputs."""
        raise NotImplementedError

    def backward(self, *output_grads: Any) -> Any:
        """Compute the gradients of the inputs from those of the outputs."""
        raise NotImplementedError


def _fitted(name: str, gradient: Any, array: NDArray) -> Array:
    if not isinstance(gradient, NDArray):
        raise DTypeError(f"{name}: backward: got {type(gradient).__name__}; need NDArrays")
    if gradient.shape != array.shape:
        raise MXNetError(f"{name}: backward: got a gradient of shape {gradient.shape}; need {array.shape}")
    return gradient._data.astype(array._data.dtype, copy=False)
