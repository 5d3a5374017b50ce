"""A graph as an ordered list of steps over NumPy arrays, run forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tconv.dtypes import DType
from tconv.errors import DTypeError, MXNetError, ShapeError
from tconv.geometry import Shape, check_elements
from tconv.operators.compute import no_gradient
from tconv.operators.registry import Array, Call, Operator
from tconv.symbol.inference import DTypes, Shapes, in_operator
from tconv.symbol.node import Entry, joined, variables, walk

if TYPE_CHECKING:
    from tconv.symbol.symbol import Symbol

Watch = Callable[[str, Array], None]
Signature = tuple[tuple[Shape, DType], ...]

_REMEMBERED = 64


class Monitor(NamedTuple):
    """Whom to show every array of a run, and whether inputs of operators too."""

    callback: Watch
    inputs: bool = False


@dataclass(frozen=True)
class Step:
    """One operator call: where it reads and writes, as numbers of slots."""

    name: str
    operator: Operator
    params: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    changed: frozenset[int]
    """Positions of inputs that are auxiliary states."""
    last_reads: tuple[int, ...]
    """Slots that nobody reads after this step."""


@dataclass
class Run:
    """One forward pass: its outputs, and what the backward pass needs.

    Attributes
    ----------
    outputs : list of ndarray
        The heads.
    values : list of ndarray or None
        Every slot; empty unless kept.
    is_train : bool
        Whether it was part of training.
    """

    outputs: list[Array]
    values: list[Array | None]
    is_train: bool

    @property
    def kept(self) -> bool:
        """Whether a backward pass can follow."""
        return bool(self.values)


@dataclass(frozen=True)
class _Path:
    """The steps that carry gradients to the wanted variables, last first, and which slots matter."""

    steps: tuple[tuple[Step, tuple[bool, ...]], ...]
    slots: frozenset[int]


class Program:
    """A symbol, ready to run.

    It holds no arrays, so any number of threads may run it.

    Parameters
    ----------
    symbol : Symbol
        What to compute; later changes of it have no effect.

    Attributes
    ----------
    arguments, auxiliaries, outputs : tuple of str
        Names, in the order of `list_arguments`, `list_auxiliary_states` and `list_outputs`.
    heads : list of Entry
        The outputs.
    steps : list of Step
        The operator calls, in order.
    entry_slots : dict of Entry to int
        The number of the slot that an output of a node is kept in.
    variable_slots : dict of str to int
        Those of the variables, by name.
    head_slots : list of int
        Those of the outputs.

    Raises
    ------
    MXNetError
        If two variables have one name.

    Examples
    --------
    >>> import numpy as np, tconv as mx
    >>> from tconv.symbol.program import Program
    >>> program = Program(mx.sym.var("x") * 3)
    >>> run = program.forward({"x": np.float32([1, 2])}, is_train=True)
    >>> run.outputs[0]
    array([3., 6.], dtype=float32)
    >>> program.backward(run, [np.float32([1, 10])], ["x"])["x"]
    array([ 3., 30.], dtype=float32)
    """

    def __init__(self, symbol: Symbol) -> None:
        self.heads = list(symbol.heads)
        order = walk(self.heads)
        arguments, auxiliaries = variables(order)
        self.arguments = tuple(node.name for node in arguments)
        self.auxiliaries = tuple(node.name for node in auxiliaries)
        self.outputs = tuple(head.name for head in self.heads)
        names = [*self.arguments, *self.auxiliaries]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
        if twice:
            raise MXNetError(f"bind: got several variables called {', '.join(twice)}; need one of each name")

        slots: dict[Entry, int] = {}
        for node in order:
            for index in range(len(node.output_names)):
                slots[Entry(node, index)] = len(slots)
        self.entry_slots = slots
        self.variable_slots = {node.name: slots[Entry(node)] for node in (*arguments, *auxiliaries)}
        self.head_slots = [slots[head._replace(version=0)] for head in self.heads]
        self.steps: list[Step] = []
        still_read = set(self.head_slots)
        for node in reversed(order):
            if node.operator is None:
                continue
            reads = tuple(slots[entry._replace(version=0)] for entry in node.inputs)
            writes = tuple(slots[Entry(node, index)] for index in range(len(node.output_names)))
            last_reads = tuple(slot for slot in {*reads, *writes} if slot not in still_read)
            still_read.update(reads)
            self.steps.append(
                Step(
                    node.name,
                    node.operator,
                    node.params,
                    reads,
                    writes,
                    node.input_names,
                    node.output_names,
                    frozenset(node.changed_inputs),
                    last_reads,
                )
            )
        self.steps.reverse()
        self._sources: list[Step | None] = [None] * len(self.entry_slots)
        for step in self.steps:
            for slot in step.outputs:
                self._sources[slot] = step
        self._direct_heads = self._find_direct_heads()
        self._solved: dict[Signature, Signature] = {}
        self._paths: dict[frozenset[str], _Path] = {}

    def _find_direct_heads(self) -> list[bool]:
        """Tell for every head whether the array computed for it belongs to it alone."""
        direct = []
        for place, slot in enumerate(self.head_slots):
            step = self._sources[slot]
            direct.append(step is not None and not step.operator.view and slot not in self.head_slots[:place])
        return direct

    def signature(self, arrays: Mapping[str, Array]) -> Signature:
        """Return shape and type of every variable."""
        return tuple((arrays[name].shape, arrays[name].dtype) for name in self.variable_slots)

    def solve(self, arrays: Mapping[str, Array]) -> Signature:
        """Check arrays, and return shape and type of every output.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            The variables by name; others are ignored.

        Raises
        ------
        MXNetError
            If one is missing, or they do not fit the graph.
        """
        missing = [name for name in self.variable_slots if name not in arrays]
        if missing:
            raise MXNetError(f"forward: {', '.join(missing)}: missing; need an array for every variable")
        signature = self.signature(arrays)
        solved = self._solved.get(signature)
        if solved is None:
            shapes = {name: arrays[name].shape for name in self.variable_slots}
            dtypes = {name: arrays[name].dtype for name in self.variable_slots}
            solved = solve(self.heads, shapes, dtypes)
            if len(self._solved) >= _REMEMBERED:
                self._solved.clear()
            self._solved[signature] = solved
        return solved

    def forward(
        self,
        arrays: Mapping[str, Array],
        is_train: bool = False,
        *,
        keep: bool | None = None,
        out: Sequence[Array] | None = None,
        monitor: Monitor | None = None,
    ) -> Run:
        """Compute the outputs.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            The variables by name. Training changes auxiliary states in place.
        is_train : bool
            Whether this is part of training.
        keep : bool, optional
            Whether to keep what a backward pass needs; `is_train` by default.
        out : sequence of ndarray, optional
            Where the outputs go. New arrays, which share no memory with `arrays`, by default.
        monitor : Monitor, optional
            Whom to show the arrays.

        Raises
        ------
        MXNetError
            If the arrays do not fit the graph.
        """
        self.solve(arrays)
        keep = is_train if keep is None else keep
        values: list[Array | None] = [None] * len(self.entry_slots)
        for name, slot in self.variable_slots.items():
            values[slot] = arrays[name]
        targets: dict[int, Array] = {}
        if out is not None:
            targets = {
                slot: array for slot, array, direct in zip(self.head_slots, out, self._direct_heads) if direct
            }
        for step in self.steps:
            try:
                self._compute(step, values, targets, is_train, monitor)
            except (MXNetError, MemoryError) as error:
                raise in_operator(step.name, error) from error
            if not keep:
                for slot in step.last_reads:
                    values[slot] = None
        outputs = []
        for place, (slot, direct) in enumerate(zip(self.head_slots, self._direct_heads)):
            value = values[slot]
            assert value is not None
            if not direct and out is not None:
                np.copyto(out[place], value)
                value = out[place]
            elif not direct or not value.flags.c_contiguous:
                value = value.copy()
            outputs.append(value)
        return Run(outputs, values if keep else [], is_train)

    def _compute(
        self,
        step: Step,
        values: list[Array | None],
        targets: Mapping[int, Array],
        is_train: bool,
        monitor: Monitor | None,
    ) -> None:
        inputs = _known(values, step.inputs)
        if monitor is not None and monitor.inputs:
            for name, slot, array in zip(step.input_names, step.inputs, inputs):
                if self._sources[slot] is None:
                    monitor.callback(self._variable_name(slot), array)
                monitor.callback(joined(step.name, name), array)
        call = Call(step.params, is_train, targets.get(step.outputs[0]))
        for slot, array in zip(step.outputs, step.operator.forward(call, inputs)):
            target = targets.get(slot)
            if target is not None and target is not array:
                np.copyto(target, array)
                array = target
            values[slot] = array
        if monitor is not None:
            for name, array in zip(step.output_names, _known(values, step.outputs)):
                monitor.callback(name, array)

    def _variable_name(self, slot: int) -> str:
        return next(name for name, place in self.variable_slots.items() if place == slot)

    def backward(
        self,
        run: Run,
        out_grads: Sequence[Array | None],
        wanted: Collection[str],
        monitor: Monitor | None = None,
    ) -> dict[str, Array]:
        """Compute gradients.

        Parameters
        ----------
        run : Run
            A forward pass that kept what is needed; it may be used again.
        out_grads : sequence of ndarray or None
            Gradients of the outputs. None, or fewer than there are outputs, only where the output is a loss or
            does not depend on what is wanted.
        wanted : collection of str
            Arguments to compute the gradients of.
        monitor : Monitor, optional
            Whom to show the gradients.

        Returns
        -------
        dict of str to ndarray
            The gradients; they may be `out_grads` or share memory with each other, so do not write into them.

        Raises
        ------
        MXNetError
            If a gradient of an output is missing or does not fit, or an operator has no gradient.
        """
        if not run.kept:
            raise MXNetError("backward: got a run that kept nothing; need a forward pass for training")
        path = self._path(frozenset(wanted))
        sums = _Sums()
        self._seed(sums, path, run, out_grads)
        for step, flags in path.steps:
            try:
                self._differentiate(step, flags, sums, run, monitor)
            except (MXNetError, MemoryError) as error:
                raise in_operator(step.name, error) from error
        return {name: self._gradient(self.variable_slots[name], sums, run) for name in wanted}

    @staticmethod
    def _gradient(slot: int, sums: _Sums, run: Run) -> Array:
        value = run.values[slot]
        assert value is not None
        grad = sums.grads.get(slot)
        return np.zeros(value.shape, value.dtype) if grad is None else grad

    def _path(self, wanted: frozenset[str]) -> _Path:
        path = self._paths.get(wanted)
        if path is not None:
            return path
        unknown = sorted(wanted - set(self.arguments))
        if unknown:
            raise MXNetError(f"backward: got {', '.join(unknown)}; the arguments are {', '.join(self.arguments)}")
        slots = {self.variable_slots[name] for name in wanted}
        steps: list[tuple[Step, tuple[bool, ...]]] = []
        for step in self.steps:
            if step.operator.backward is no_gradient:
                continue
            flags = tuple(slot in slots and place not in step.changed for place, slot in enumerate(step.inputs))
            if any(flags):
                steps.append((step, flags))
                slots.update(step.outputs)
        path = _Path(tuple(reversed(steps)), frozenset(slots))
        if len(self._paths) >= _REMEMBERED:
            self._paths.clear()
        self._paths[wanted] = path
        return path

    def _seed(self, sums: _Sums, path: _Path, run: Run, out_grads: Sequence[Array | None]) -> None:
        if len(out_grads) > len(self.head_slots):
            raise MXNetError(
                f"backward: out_grads: got {len(out_grads)} arrays; the outputs are {', '.join(self.outputs)}"
            )
        padded = [*out_grads, *[None] * (len(self.head_slots) - len(out_grads))]
        for name, slot, grad, value in zip(self.outputs, self.head_slots, padded, run.outputs):
            if grad is not None:
                if grad.shape != value.shape:
                    raise ShapeError(f"backward: out_grads: {name}: got shape {grad.shape}; need {value.shape}")
                if slot in path.slots:
                    sums.add(slot, grad.astype(value.dtype, copy=False))
            elif slot in path.slots:
                source = self._sources[slot]
                if source is None or not source.operator.head:
                    raise MXNetError(
                        f"backward: out_grads: {name}: missing; need a gradient of every output that is no loss"
                    )

    def _differentiate(
        self, step: Step, flags: tuple[bool, ...], sums: _Sums, run: Run, monitor: Monitor | None
    ) -> None:
        grads = [sums.grads.pop(slot, None) for slot in step.outputs]
        is_loss = step.operator.head and any(slot in self.head_slots for slot in step.outputs)
        if not is_loss and all(grad is None for grad in grads):
            return
        if step.operator.backward is None:
            raise MXNetError(f"{step.operator.name} has no gradient")
        outputs = _known(run.values, step.outputs)
        # Missing gradients are zeros; one element stands for all.
        out_grads = [
            np.broadcast_to(np.zeros((), value.dtype), value.shape) if grad is None else grad
            for grad, value in zip(grads, outputs)
        ]
        call = Call(step.params, run.is_train, wanted=flags)
        found = step.operator.backward(call, _known(run.values, step.inputs), outputs, out_grads)
        for place, (slot, flag, grad) in enumerate(zip(step.inputs, flags, found)):
            if flag and grad is not None:
                sums.add(slot, grad)
                if monitor is not None:
                    monitor.callback(joined(step.name, f"backward_output{place}"), grad)


class _Sums:
    """Gradients by slot; an array that is the sum of several belongs to this object, the others do not."""

    def __init__(self) -> None:
        self.grads: dict[int, Array] = {}
        self._own: set[int] = set()

    def add(self, slot: int, grad: Array) -> None:
        known = self.grads.get(slot)
        if known is None:
            self.grads[slot] = grad
            self._own.discard(slot)
        elif slot in self._own:
            np.add(known, grad, out=known, casting="unsafe")
        else:
            self.grads[slot] = np.asarray(known + grad)
            self._own.add(slot)


def _known(values: Sequence[Array | None], slots: Iterable[int]) -> list[Array]:
    found = []
    for slot in slots:
        value = values[slot]
        assert value is not None
        found.append(value)
    return found


def solve(heads: Sequence[Entry], shapes: Mapping[str, Shape], dtypes: Mapping[str, DType]) -> Signature:
    """Return shape and type of every head, given those of all variables.

    Raises
    ------
    ShapeError, DTypeError
        If they do not fit together, or something stays unknown.
    OutOfMemoryError
        If an array of the graph would pass the 64-bit range.
    """
    found_shapes, found_dtypes = Shapes(heads, shapes), DTypes(heads, dtypes)
    for entry in found_shapes.entries():
        check_elements(entry.name, "bind", tuple(size or 0 for size in found_shapes.of(entry) or ()))
    solved = []
    for head in heads:
        shape, dtype = found_shapes.of(head), found_dtypes.of(head)
        known = tuple(size for size in shape or () if size is not None)
        if shape is None or len(known) != len(shape):
            raise ShapeError(f"bind: the shape of output {head.name} cannot be told from {dict(shapes)}")
        if dtype is None:
            raise DTypeError(f"bind: the type of output {head.name} cannot be told from {dict(dtypes)}")
        solved.append((known, dtype))
    return tuple(solved)
