"""The tape: what was computed while recording, and the walk back over it.

A step refers to the steps its inputs came from, never the other way round, so a graph lives only as long as an
array that it leads to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from tconv.errors import MXNetError, OutOfMemoryError, ParameterError, ShapeError
from tconv.operators.registry import Array, Call, Operator

if TYPE_CHECKING:
    from tconv.ndarray.ndarray import NDArray

CustomBackward = Callable[[list[Array]], Sequence[Array | None]]

GRAD_REQS = ("null", "write", "add")

_sequence = count()


class State(threading.local):
    """Whether this thread records, and whether it trains."""

    recording = False
    training = False


state = State()


class Leaf:
    """An array that wants a gradient: where its gradient goes, how it is written, and whether it is new."""

    __slots__ = ("fresh", "grad", "grad_req")
    spent = False

    def __init__(self, grad: NDArray, grad_req: str) -> None:
        self.grad = grad
        self.grad_req = grad_req
        self.fresh = False

    def take(self, gradient: Array | None) -> None:
        """Write a gradient where it belongs; None is a gradient of zeros."""
        self.fresh = True
        target = self.grad._data
        if self.grad_req == "write":
            target[...] = 0 if gradient is None else gradient
        elif self.grad_req == "add" and gradient is not None:
            target += gradient.astype(target.dtype, copy=False)


class Constant:
    """An array in no graph that a step was computed from, and may need on the way back: it is not to be changed."""

    __slots__ = ("spent",)

    def __init__(self) -> None:
        self.spent = False


class Step:
    """One computation on the tape.

    Attributes
    ----------
    operator, params : Operator and Params, or None
        What was computed, unless it is a function of the user's.
    custom : callable or None
        Its gradient, where there is no operator.
    inputs, outputs : list of ndarray
        What it was computed from and what came out.
    sources : tuple of (node, int) or None
        Node and output each input came from; None after the walk back has freed the step.
    """

    __slots__ = ("custom", "inputs", "operator", "outputs", "params", "sequence", "sources")

    def __init__(
        self,
        sources: tuple[Source, ...],
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        operator: Operator | None = None,
        params: Any = None,
        custom: CustomBackward | None = None,
    ) -> None:
        self.sources: tuple[Source, ...] | None = sources
        self.inputs = inputs
        self.outputs = outputs
        self.operator = operator
        self.params = params
        self.custom = custom
        self.sequence = next(_sequence)

    @property
    def spent(self) -> bool:
        """Whether the step has been freed, so that its outputs are in no graph any more."""
        return self.sources is None

    def free(self) -> None:
        """Let go of everything."""
        for node, _ in self.sources or ():
            if isinstance(node, Constant):
                node.spent = True
        self.sources = self.operator = self.params = self.custom = None
        self.inputs = self.outputs = ()

    def gradients(self, out_grads: list[Array | None], wanted: tuple[bool, ...]) -> Sequence[Array | None]:
        """Return the gradients of the inputs; a missing gradient of an output counts as zeros."""
        given = [np.zeros_like(y) if grad is None else grad for y, grad in zip(self.outputs, out_grads)]
        if self.operator is None:
            assert self.custom is not None
            return self.custom(given)
        if self.operator.backward is None:
            raise MXNetError(f"{self.operator.name}: backward: this operator has no gradient")
        call = Call(self.params, is_train=state.training, wanted=wanted)
        try:
            return self.operator.backward(call, self.inputs, self.outputs, given)
        except MemoryError as error:
            raise OutOfMemoryError(f"{self.operator.name}: backward: {error}") from None


Node = Leaf | Constant | Step
Source = tuple[Node, int]


def source(array: NDArray) -> Source | None:
    """Return the node an array is an output of, or None if it is in no graph."""
    node = array._node
    if node is None or isinstance(node, Constant):
        return None
    if node.spent:
        array._node = None
        return None
    return node, array._index


def _origin(array: NDArray) -> Source:
    """Return the node of an array, making it a constant if it is in no graph."""
    node = array._node
    if node is None or node.spent:
        node = Constant()
        array._node, array._index = node, 0
    return node, array._index


def check_writable_in_place(array: NDArray) -> None:
    """Raise MXNetError if writing into `array` now would make its recorded gradient wrong."""
    if state.recording and array._node is not None and not array._node.spent:
        raise MXNetError(
            "NDArray: got an in-place write into an array of a recorded graph; write outside of record(), "
            "or after backward()"
        )


def will_record(inputs: Sequence[NDArray]) -> bool:
    """Tell whether something computed from `inputs` now goes on the tape."""
    return state.recording and any(source(array) is not None for array in inputs)


def record_operator(
    operator: Operator,
    params: Any,
    inputs: Sequence[NDArray],
    outputs: Sequence[NDArray],
    hidden: Sequence[Array] = (),
) -> None:
    """Put a call of an operator on the tape, if this thread records and an input is in a graph.

    Parameters
    ----------
    operator, params : Operator and Params
        What was called.
    inputs, outputs : sequence of NDArray
        Its inputs and visible outputs.
    hidden : sequence of ndarray
        Its other outputs.
    """
    if will_record(inputs):
        arrays = [*(y._data for y in outputs), *hidden]
        _attach(Step(_origins(inputs), [x._data for x in inputs], arrays, operator, params), outputs)


def record(inputs: Sequence[NDArray], outputs: Sequence[NDArray], backward: CustomBackward) -> None:
    """Put any computation on the tape, if this thread records and an input is in a graph.

    Parameters
    ----------
    inputs, outputs : sequence of NDArray
        What was computed from what.
    backward : callable
        `backward(out_grads) -> in_grads`: NumPy arrays, one for each output and one, or None, for each input.

    Raises
    ------
    MXNetError
        If an output is in a graph already.
    """
    if will_record(inputs):
        for array in outputs:
            check_writable_in_place(array)
        origins, arrays = _origins(inputs), [y._data for y in outputs]
        _attach(Step(origins, [x._data for x in inputs], arrays, custom=backward), outputs)


def _origins(inputs: Sequence[NDArray]) -> tuple[Source, ...]:
    return tuple([_origin(array) for array in inputs])


def _attach(step: Step, outputs: Sequence[NDArray]) -> None:
    for index, array in enumerate(outputs):
        array._node, array._index = step, index


class Mode:
    """Sets what this thread does inside a `with` statement; None leaves it as it is."""

    __slots__ = ("before", "recording", "training")

    def __init__(self, recording: bool | None, training: bool | None) -> None:
        self.recording = recording
        self.training = training
        self.before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self.before.append((state.recording, state.training))
        if self.recording is not None:
            state.recording = self.recording
        if self.training is not None:
            state.training = self.training

    def __exit__(self, *exception: object) -> None:
        state.recording, state.training = self.before.pop()


def _steps_below(nodes: Sequence[Node]) -> list[Step]:
    """Return the steps that lead to `nodes`, each after the steps it depends on."""
    found: set[Step] = set()
    pending = [node for node in nodes if isinstance(node, Step)]
    while pending:
        step = pending.pop()
        if step in found:
            continue
        found.add(step)
        if step.sources is None:
            raise MXNetError(
                "backward: got an array that depends on a graph freed before; "
                "pass retain_graph=True to the backward that comes first"
            )
        pending += [node for node, _ in step.sources if isinstance(node, Step)]
    return sorted(found, key=lambda step: step.sequence)


class _Gradients:
    """Sums of gradients on their way back, by node and output."""

    def __init__(self) -> None:
        self.by_node: dict[Node, dict[int, Array]] = {}

    def add(self, where: Source, gradient: Array) -> None:
        sums = self.by_node.setdefault(where[0], {})
        before = sums.get(where[1])
        sums[where[1]] = gradient if before is None else before + gradient

    def of(self, where: Source) -> Array | None:
        return self.by_node.get(where[0], {}).get(where[1])


def backward(
    heads: Sequence[NDArray],
    head_grads: Sequence[NDArray | Array | None] | None,
    *,
    variables: Sequence[NDArray] | None = None,
    retain_graph: bool = False,
    is_train: bool = True,
) -> list[Array]:
    """Walk back from `heads`.

    Parameters
    ----------
    heads : sequence of NDArray
        Where to begin.
    head_grads : sequence of arrays or None
        Gradients of the heads; ones by default, for single heads too.
    variables : sequence of NDArray, optional
        Arrays of the graph whose gradients to return, instead of writing those of all leaves.
    retain_graph : bool
        Whether the graph may be walked again.
    is_train : bool
        Whether operators are told that this is training.

    Returns
    -------
    list of ndarray
        Gradients of `variables`.

    Raises
    ------
    MXNetError
        If a head is in no graph, or nothing in the graph wants a gradient.
    ShapeError
        If a gradient of a head has another shape than the head.
    """
    starts = [_start(head, index) for index, head in enumerate(heads)]
    if head_grads is not None and len(head_grads) != len(heads):
        raise ParameterError(f"backward: head_grads: got {len(head_grads)}; need {len(heads)}, one for each head")
    targets = None if variables is None else [_target(array, index) for index, array in enumerate(variables)]
    steps = _steps_below([node for node, _ in starts])
    relevant = _relevant(steps, starts, targets)
    sums = _Gradients()
    with Mode(False, is_train), np.errstate(all="ignore"):
        for index, (head, start) in enumerate(zip(heads, starts)):
            sums.add(start, _head_gradient(head, None if head_grads is None else head_grads[index]))
        for step in reversed(steps):
            if step in relevant and step in sums.by_node:
                _walk(step, sums, relevant, targets or ())
        found = []
        if targets is None:
            for node in relevant:
                if isinstance(node, Leaf):
                    node.take(sums.of((node, 0)))
        else:
            found = [_found(sums.of(target), index) for index, target in enumerate(targets)]
    if not retain_graph:
        for step in steps:
            step.free()
    return found


def _walk(step: Step, sums: _Gradients, relevant: Container[Node], targets: Sequence[Source]) -> None:
    assert step.sources is not None
    wanted = tuple([before[0] in relevant or before in targets for before in step.sources])
    collected = sums.by_node[step]
    if not any(node is step for node, _ in targets):
        del sums.by_node[step]
    if not any(wanted):
        return
    gradients = step.gradients([collected.get(index) for index in range(len(step.outputs))], wanted)
    if len(gradients) != len(step.sources):
        raise MXNetError(f"backward: got {len(gradients)} gradients from a step; need {len(step.sources)}")
    for before, asked, gradient in zip(step.sources, wanted, gradients):
        if asked and gradient is not None:
            sums.add(before, gradient)


def _found(gradient: Array | None, index: int) -> Array:
    if gradient is None:
        raise MXNetError(f"grad: variables: got array {index}, which the heads do not depend on")
    return gradient


def _relevant(steps: list[Step], starts: list[Source], targets: list[Source] | None) -> dict[Node, None]:
    """Return the nodes through which a gradient must pass to arrive where one is wanted."""
    wanted = None if targets is None else set(targets)

    def ends_at(where: Source) -> bool:
        if wanted is not None:
            return where in wanted
        return isinstance(where[0], Leaf) and where[0].grad_req != "null"

    relevant: dict[Node, None] = {node: None for node, index in starts if ends_at((node, index))}
    for step in steps:
        for before in step.sources or ():
            if before[0] in relevant or ends_at(before):
                relevant[step] = None
                if isinstance(before[0], Leaf):
                    relevant[before[0]] = None
    if not relevant:
        if targets is not None:
            raise MXNetError("grad: variables: got arrays that the heads do not depend on")
        raise MXNetError("backward: got a graph in which no array wants a gradient; call attach_grad() first")
    return relevant


def _start(head: NDArray, index: int) -> Source:
    start = source(head)
    if start is None:
        raise MXNetError(
            f"backward: heads: got array {index}, which is in no graph; compute it inside record() from arrays "
            "with attach_grad(), and pass retain_graph=True to walk a graph twice"
        )
    return start


def _target(array: NDArray, index: int) -> Source:
    target = source(array)
    if target is None:
        raise MXNetError(f"grad: variables: got array {index}, which is in no graph; call attach_grad() first")
    return target


def _head_gradient(head: NDArray, given: NDArray | Array | None) -> Array:
    if given is None:
        return np.ones_like(head._data)
    gradient = given if isinstance(given, np.ndarray) else given._data
    if gradient.shape != head._data.shape:
        raise ShapeError(f"backward: head_grads: got shape {gradient.shape}; need {head._data.shape}")
    return gradient.astype(head._data.dtype, copy=False)


@dataclass(frozen=True)
class Record:
    """One node of a recorded graph, as data.

    Attributes
    ----------
    operator : Operator or None
        What was called; None for an array that came from outside.
    params : Params or None
        Its parameters.
    inputs : tuple of (int, int)
        For each input, the position of its record and the output of that.
    """

    operator: Operator | None
    params: Any
    inputs: tuple[tuple[int, int], ...]


def history(array: NDArray) -> tuple[list[Record], tuple[int, int]]:
    """Return the graph an array came from, each record after those it refers to, and the array's own place in it.

    Raises
    ------
    MXNetError
        If the array is in no graph, or a step of the graph is no operator.
    """
    head = source(array)
    if head is None:
        raise MXNetError("get_symbol: x: got an array that is in no graph; compute it inside record()")
    records: list[Record] = []
    places: dict[Node, int] = {}

    def outside(node: Node) -> int:
        if node not in places:
            places[node] = len(records)
            records.append(Record(None, None, ()))
        return places[node]

    for step in _steps_below([head[0]]):
        if step.operator is None:
            raise MXNetError("get_symbol: x: got a graph with a step that is no operator; it has no symbol")
        assert step.sources is not None
        inputs = [
            (places[node] if isinstance(node, Step) else outside(node), index) for node, index in step.sources
        ]
        places[step] = len(records)
        records.append(Record(step.operator, step.params, tuple(inputs)))
    place = places[head[0]] if isinstance(head[0], Step) else outside(head[0])
    return records, (place, head[1])
