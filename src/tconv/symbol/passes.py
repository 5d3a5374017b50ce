"""A program made ready for passes that record nothing.

What only training needs is dropped, batch normalisation goes into the weights of the convolution before it, zero
margins into its pad, runs of elementwise operators become one loop, which works in place where nobody reads its
input again, and weights are kept packed. Weights are known by their content, so arrays may change at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tconv import engine, loops
from tconv.activations import NONE, Activation
from tconv.dtypes import DType
from tconv.errors import MXNetError
from tconv.geometry import Geometry, Shape, solve_convolution, solve_deconvolution
from tconv.operators.registry import Array, Call
from tconv.params import workspace_bytes
from tconv.symbol.inference import DTypes, Shapes, in_operator
from tconv.symbol.node import Entry
from tconv.symbol.program import Program, Signature, Step

__all__ = ["Streamlined"]

_FLOAT = np.dtype(np.float32)
_FOLDABLE = (_FLOAT, np.dtype(np.float64))
_REMEMBERED = 8
_SMALL = 1 << 14

Terms = tuple[Any, Any]
"""A scale and a shift by row, each a number or an array of one number a row."""


class Known(NamedTuple):
    """What is known of a slot before a run."""

    shape: Shape
    dtype: DType


@dataclass(frozen=True)
class Affine:
    """A product and a sum by channel, from the arrays in some slots."""

    slots: tuple[int, ...]
    terms: Callable[..., Terms]


@dataclass(frozen=True)
class Bend:
    """What bends the result of a loop: its kind, as of `loops.pointwise`, and the slope, a number or a slot."""

    kind: str
    slope: float | None = None
    slope_slot: int | None = None

    @property
    def activation(self) -> Activation:
        """The same as the last thing a convolution does, `NONE` where it cannot."""
        if self.kind != "leaky" or self.slope is None:
            return NONE
        return Activation(low=0.0) if self.slope == 0 else Activation(slope=self.slope)


@dataclass
class Work:
    """A step, with what has been drawn into it.

    Attributes
    ----------
    step : Step
        The first of its steps.
    inputs : tuple of int
        The slots it reads first of all.
    outputs : tuple of int
        The slots it writes.
    geometry : Geometry or None
        Of a convolution or deconvolution with weights that are kept.
    pointwise : bool
        Whether it is an elementwise loop over its first input.
    affines, other, bend
        What is done to each element, in this order; `other` is a slot that is added.
    last_reads : tuple of int
        The slots nobody reads after it.
    in_place : tuple of int
        Those of its inputs that a loop may write over.
    weight_slots : tuple of int
        Where the weights of a convolution come from, with all that is drawn into them.
    key : hashable
        What weights of the same origin have in common.
    """

    step: Step
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    geometry: Geometry | None = None
    pointwise: bool = False
    affines: tuple[Affine, ...] = ()
    other: int | None = None
    bend: Bend | None = None
    last_reads: tuple[int, ...] = ()
    in_place: tuple[int, ...] = ()
    weight_slots: tuple[int, ...] = ()
    key: Any = None

    @property
    def reads(self) -> tuple[int, ...]:
        """All slots it reads."""
        more = [slot for affine in self.affines for slot in affine.slots]
        more += [slot for slot in (self.other, self.bend.slope_slot if self.bend else None) if slot is not None]
        return (*self.inputs, *more)


class _Kept(NamedTuple):
    """Weights and bias made of arrays with these fingerprints."""

    prints: list[Any]
    weights: engine.Weights
    bias: Array | None


class Streamlined:
    """A program made ready for passes that record nothing; any number of threads may run it.

    Parameters
    ----------
    program : Program
        What to compute.

    Examples
    --------
    >>> import numpy as np, tconv as mx
    >>> from tconv.symbol.passes import Streamlined
    >>> from tconv.symbol.program import Program
    >>> run = Streamlined(Program(mx.sym.relu(mx.sym.var("x") * 3 + 1)))
    >>> run({"x": np.float32([[1, -2]])})[0]
    array([[4., 0.]], dtype=float32)
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._plans: dict[Signature, _Plan] = {}
        self._kept: dict[Any, _Kept] = {}

    def __call__(self, arrays: Mapping[str, Array], out: Sequence[Array] | None = None) -> list[Array]:
        """Compute the outputs.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            The variables by name.
        out : sequence of ndarray, optional
            Where the outputs go. New arrays, which share no memory with `arrays`, by default.

        Raises
        ------
        MXNetError
            If the arrays do not fit the graph.
        """
        self._program.solve(arrays)
        signature = self._program.signature(arrays)
        plan = self._plans.get(signature)
        if plan is None:
            if len(self._plans) >= _REMEMBERED:
                self._plans.clear()
                self._kept.clear()
            plan = self._plans[signature] = _Plan(self._program, arrays)
        return _Run(plan, self._kept, arrays, out).outputs()


class _Plan:
    """The works of a program for variables of certain shapes and types."""

    def __init__(self, program: Program, arrays: Mapping[str, Array]) -> None:
        self.variables = program.variable_slots
        self.heads = [*program.head_slots]
        self.slot_count = len(program.entry_slots)
        self._known = _known(program, arrays)
        self._static = set(self.variables.values())
        self._alias: dict[int, int] = {}
        self._works: dict[int, Work] = {}
        self._readers: Counter[int] = Counter(self.heads)
        for step in program.steps:
            self._readers.update(step.inputs)
        self._steps = program.steps
        compact = all(0 not in known.shape for known in self._known.values())
        for place, step in enumerate(program.steps):
            self._add(place, step, compact)
        self.works = self._living()
        self.direct = self._direct_heads()

    # Building.

    def _add(self, place: int, step: Step, compact: bool) -> None:
        inputs = tuple(self._alias.get(slot, slot) for slot in step.inputs)
        if compact and self._is_identity(step) and step.outputs[0] not in self.heads:
            self._alias[step.outputs[0]] = inputs[0]
            self._readers[inputs[0]] += self._readers[step.outputs[0]] - 1
            return
        if step.operator.view and all(slot in self._static for slot in inputs):
            self._static.update(step.outputs)
        work = Work(step, inputs, step.outputs)
        if compact and step.operator.name in ("Convolution", "Deconvolution"):
            self._draw_pad_in(work)
        elif compact and loops.compiled() and self._known[step.outputs[0]].dtype == _FLOAT:
            self._make_pointwise(work)
        self._works[place] = work

    def _shape(self, slot: int) -> Shape:
        return self._known[slot].shape

    def _is_identity(self, step: Step) -> bool:
        """Tell whether a step passes its input on outside of training."""
        name, params = step.operator.name, step.params
        source, target = self._known[step.inputs[0]] if step.inputs else None, self._known[step.outputs[0]]
        if source != target or any(self._readers[slot] for slot in step.outputs[1:]):
            return False
        if name == "Dropout":
            return bool(params.mode == "training" or params.p == 0)
        if name in ("_mul_scalar", "_div_scalar"):
            return bool(params.scalar == 1 and target.dtype.kind == "f")
        if name == "Pooling":
            window = (*params.kernel, *params.stride)
            return not params.global_pool and params.pool_type != "lp" and set(window) == {1}
        return name in ("_copy", "BlockGrad", "make_loss", "MakeLoss", "Pad", "Reshape", "Flatten")

    def _producer(self, slot: int) -> tuple[int, Work] | None:
        """Return the work that writes `slot` for a single reader."""
        if self._readers[slot] != 1:
            return None
        found = ((place, work) for place, work in self._works.items() if slot in work.outputs)
        return next(found, None)

    def _draw_pad_in(self, work: Work) -> None:
        params = work.step.params
        if self._known[work.inputs[0]].dtype not in _FOLDABLE or not self._all_static(work.inputs[1:]):
            return
        data, window = work.inputs[0], params.window
        before = next((one for one in self._works.values() if data in one.outputs), None)
        solve: Callable[..., Geometry] = solve_deconvolution
        if work.step.operator.name == "Convolution":
            solve = solve_convolution
            if before is not None and before.step.operator.name == "Pad" and not window.channels_last:
                pad = before.step.params
                margins = list(zip(pad.pad_width[::2], pad.pad_width[1::2]))
                if pad.mode == "constant" and pad.constant_value == 0 and margins[:2] == [(0, 0), (0, 0)]:
                    pads = tuple((a + c, b + d) for (a, b), (c, d) in zip(window.pad, margins[2:]))
                    window = replace(window, pad=pads)
                    self._readers[data] -= 1
                    data = before.inputs[0]
                    self._readers[data] += 1
        work.geometry = solve(params.operator, window, self._shape(data))
        work.inputs = (data, *work.inputs[1:])

    def _all_static(self, slots: Iterable[int]) -> bool:
        return all(slot in self._static for slot in slots)

    def _make_pointwise(self, work: Work) -> None:
        found = self._as_pointwise(work)
        if found is None:
            return
        if found.bend is None and found.other is None and not found.affines:
            return
        # Drawn into the work that makes its input, where that still has room and no other reader.
        before = self._producer(found.inputs[0])
        if before is None and found.other is not None:
            # A sum does not mind which of its parts comes first.
            turned = None if found.affines else self._producer(found.other)
            if turned is not None and turned[1].pointwise and self._has_room(turned[1], found, found.inputs[0]):
                found = replace(found, inputs=(found.other,), other=found.inputs[0])
                before = turned
        work.pointwise = True
        work.inputs, work.affines, work.other, work.bend = found.inputs, found.affines, found.other, found.bend
        if before is None or not self._has_room(before[1], found, found.other):
            return
        place, earlier = before
        del self._works[place]
        work.step, work.geometry, work.pointwise = earlier.step, earlier.geometry, earlier.pointwise
        work.inputs = earlier.inputs
        work.affines = (*earlier.affines, *found.affines)
        work.other = earlier.other if found.other is None else found.other
        work.bend = earlier.bend or found.bend

    def _has_room(self, before: Work, found: Work, other: int | None) -> bool:
        if before.bend is not None or not (before.pointwise or before.geometry):
            return False
        if len(before.outputs) > 1 and not before.pointwise:
            return False
        if found.affines and before.other is not None:
            return False
        if other is not None and (before.other is not None or before.geometry is not None):
            return False
        if before.geometry is not None and found.affines:
            slots = [slot for affine in found.affines for slot in affine.slots]
            filters = self._shape(before.outputs[0])[1]
            sizes = {int(np.prod(self._shape(slot))) for slot in slots}
            return not before.step.params.window.channels_last and self._all_static(slots) and sizes <= {1, filters}
        return True

    def _as_pointwise(self, work: Work) -> Work | None:
        """Return the loop that an elementwise step is, or None."""
        name, params, inputs = work.step.operator.name, work.step.params, work.inputs
        shape = self._shape(work.outputs[0])
        if len(shape) < 2 or any(self._known[slot].dtype != _FLOAT for slot in inputs):
            return None
        if any(self._readers[slot] for slot in work.outputs[1:]):
            return None
        if name == "Activation" or name in _BENDS:
            kind = params.act_type if name == "Activation" else name
            return replace(work, bend=_BENDS[kind]) if kind in _BENDS else None
        if name == "LeakyReLU":
            if params.act_type == "leaky":
                return replace(work, bend=Bend("leaky", slope=params.slope))
            if params.act_type == "prelu" and self._shape(inputs[1]) in ((1,), (shape[1],)):
                return replace(work, inputs=inputs[:1], bend=Bend("leaky", slope_slot=inputs[1]))
            return None
        if name == "BatchNorm":
            if params.axis % len(shape) != 1:
                return None
            return replace(work, inputs=inputs[:1], affines=(Affine(inputs[1:], _batch_terms(params)),))
        if name in _SCALARS:
            return replace(work, affines=(Affine((), _always(*_SCALARS[name](params.scalar))),))
        if name in _BINARY:
            return self._as_binary(work, _BINARY[name], shape)
        return None

    def _as_binary(self, work: Work, kind: str, shape: Shape) -> Work | None:
        a, b = work.inputs
        if self._shape(a) == self._shape(b) == shape:
            if kind == "add":
                return replace(work, inputs=(a,), other=b)
            if kind == "sub":
                return replace(work, inputs=(b,), other=a, affines=(Affine((), _always(-1.0, 0.0)),))
            return None
        if self._shape(a) != shape:
            if self._shape(b) != shape or kind == "sub":
                return None
            a, b = b, a
        if not _by_row(self._shape(b), shape):
            return None
        return replace(work, inputs=(a,), affines=(Affine((b,), _ROW_TERMS[kind]),))

    # Finishing.

    def _living(self) -> list[Work]:
        """Return the works somebody needs, with what is read in each for the last time."""
        shared = {*self.heads, *self.variables.values()}
        for work in self._works.values():
            if work.step.operator.view and not (work.pointwise or work.geometry):
                shared.update(work.inputs, work.outputs)
        needed = set(self.heads)
        works: list[Work] = []
        for _, work in sorted(self._works.items(), reverse=True):
            if not needed.intersection(work.outputs):
                continue
            reads = set(work.reads)
            work.last_reads = tuple(slot for slot in {*reads, *work.outputs} if slot not in needed)
            if work.geometry is not None:
                drawn = (slot for affine in work.affines for slot in affine.slots)
                work.weight_slots = (*work.inputs[1:], *drawn)
                work.key = (work.step.operator.name, work.geometry.groups, work.inputs[1:], work.affines)
            if work.pointwise:
                candidates = (work.inputs[0], *([] if work.other is None else [work.other]))
                shape = self._shape(work.outputs[0])
                work.in_place = tuple(
                    slot
                    for slot in candidates
                    if slot in work.last_reads and slot not in shared and self._shape(slot) == shape
                )
            needed |= reads
            works.append(work)
        works.reverse()
        return works

    def _direct_heads(self) -> list[bool]:
        """Tell for every head whether the array computed for it belongs to it alone."""
        owners = {
            slot: work.pointwise or work.geometry is not None or not work.step.operator.view
            for work in self.works
            for slot in work.outputs
        }
        return [owners.get(slot, False) and slot not in self.heads[:at] for at, slot in enumerate(self.heads)]


def _known(program: Program, arrays: Mapping[str, Array]) -> dict[int, Known]:
    shapes = Shapes(program.heads, {name: arrays[name].shape for name in program.variable_slots})
    dtypes = DTypes(program.heads, {name: arrays[name].dtype for name in program.variable_slots})
    type_nodes = dict(zip(shapes.order, dtypes.order))
    found = {}
    for entry, slot in program.entry_slots.items():
        shape = tuple(-1 if size is None else size for size in shapes.of(entry) or ())
        dtype = dtypes.of(Entry(type_nodes[entry.node], entry.output))
        found[slot] = Known(shape, _FLOAT if dtype is None else dtype)
    return found


def _by_row(shape: Shape, full: Shape) -> bool:
    """Tell whether an array broadcast to `full` is one number, or one a channel or one a channel and sample."""
    padded = (1,) * (len(full) - len(shape)) + shape
    if len(padded) != len(full) or any(size != 1 for size in padded[2:]):
        return False
    return padded[:2] in ((1, 1), (1, full[1]), full[:2])


@lru_cache(maxsize=1024)
def _always(scale: float, shift: float) -> Callable[..., Terms]:
    return lambda: (scale, shift)


@lru_cache(maxsize=1024)
def _batch_terms(params: Any) -> Callable[..., Terms]:
    def terms(gamma: Array, beta: Array, mean: Array, variance: Array) -> Terms:
        with np.errstate(all="ignore"):
            inverse = 1 / np.sqrt(variance.astype(np.float64) + params.eps)
            if params.eps == 0:
                inverse = np.where(np.isinf(inverse), 0, inverse)
            scale = inverse if params.fix_gamma else inverse * gamma
            return scale, beta - mean * scale

    return terms


_BENDS = {"relu": Bend("leaky", slope=0.0), "sigmoid": Bend("sigmoid"), "tanh": Bend("tanh")}
_SCALARS: dict[str, Callable[[float], Terms]] = {
    "_mul_scalar": lambda scalar: (scalar, 0.0),
    "_plus_scalar": lambda scalar: (1.0, scalar),
    "_minus_scalar": lambda scalar: (1.0, -scalar),
    "_rminus_scalar": lambda scalar: (-1.0, scalar),
}
_BINARY = {
    "elemwise_add": "add",
    "broadcast_add": "add",
    "elemwise_sub": "sub",
    "broadcast_sub": "sub",
    "elemwise_mul": "mul",
    "broadcast_mul": "mul",
}
_ROW_TERMS: dict[str, Callable[..., Terms]] = {
    "add": lambda row: (1.0, row.reshape(-1)),
    "sub": lambda row: (1.0, -row.reshape(-1)),
    "mul": lambda row: (row.reshape(-1), 0.0),
}


def _composed(affines: Iterable[Affine], values: Sequence[Array | None]) -> Terms:
    scale: Any = 1.0
    shift: Any = 0.0
    for affine in affines:
        times, plus = affine.terms(*(values[slot] for slot in affine.slots))
        scale, shift = times * scale, times * shift + plus
    return scale, shift


def _numbers(term: Any, neutral: float) -> Array | None:
    """Return a scale or shift as numbers by row, None where it changes nothing."""
    if isinstance(term, float) and term == neutral:
        return None
    return np.ascontiguousarray(np.asarray(term, np.float32).reshape(-1))


def _print_of(array: Array) -> Any:
    """Return what tells contents of one shape and type apart."""
    if array.nbytes <= _SMALL:
        return array.tobytes()
    return engine.fingerprint(np.require(array, array.dtype.newbyteorder("="), ("C", "A")))


class _Run:
    """One pass over a plan."""

    def __init__(
        self,
        plan: _Plan,
        kept: dict[Any, _Kept],
        arrays: Mapping[str, Array],
        out: Sequence[Array] | None,
    ) -> None:
        self._plan = plan
        self._kept = kept
        self._out = out
        self._values: list[Array | None] = [None] * plan.slot_count
        self._prints: dict[int, Any] = {}
        for name, slot in plan.variables.items():
            self._values[slot] = arrays[name]
        self._targets: dict[int, Array] = {}
        if out is not None:
            self._targets = {slot: array for slot, array, direct in zip(plan.heads, out, plan.direct) if direct}

    def outputs(self) -> list[Array]:
        """Compute everything and return the heads."""
        values = self._values
        for work in self._plan.works:
            try:
                if work.geometry is not None:
                    self._convolve(work, work.geometry)
                elif work.pointwise:
                    self._loop(work)
                else:
                    self._call(work)
            except (MXNetError, MemoryError) as error:
                raise in_operator(work.step.name, error) from error
            for slot in work.last_reads:
                values[slot] = None
        found = []
        for place, (slot, direct) in enumerate(zip(self._plan.heads, self._plan.direct)):
            value = self._value(slot)
            if not direct and self._out is not None:
                np.copyto(self._out[place], value)
                value = self._out[place]
            elif not direct or not value.flags.c_contiguous:
                value = value.copy()
            found.append(value)
        return found

    def _value(self, slot: int) -> Array:
        value = self._values[slot]
        assert value is not None
        return value

    def _call(self, work: Work) -> None:
        call = Call(work.step.params, False, self._targets.get(work.outputs[0]))
        results = work.step.operator.forward(call, [self._value(slot) for slot in work.inputs])
        for slot, array in zip(work.outputs, results):
            target = self._targets.get(slot)
            if target is not None and target is not array:
                np.copyto(target, array)
                array = target
            self._values[slot] = array

    def _loop(self, work: Work) -> None:
        x = np.require(self._value(work.inputs[0]), _FLOAT, ("C", "A"))
        other = None if work.other is None else np.require(self._value(work.other), _FLOAT, ("C", "A"))
        out = self._targets.get(work.outputs[0])
        if out is None:
            out = self._value(work.in_place[0]) if work.in_place else None
        if out is None or not out.flags.c_contiguous:
            out = engine.allocate(x.shape, _FLOAT)
        scale, shift = _composed(work.affines, self._values)
        kind, slope = self._bend(work.bend)
        scales, shifts = _numbers(scale, 1.0), _numbers(shift, 0.0)
        done = loops.pointwise(x, out, z=other, scale=scales, shift=shifts, bend=kind, slope=slope)
        assert done
        self._values[work.outputs[0]] = out

    def _bend(self, bend: Bend | None) -> tuple[str, Array | None]:
        if bend is None:
            return "none", None
        if bend.slope_slot is not None:
            return bend.kind, np.require(self._value(bend.slope_slot), _FLOAT, ("C", "A")).reshape(-1)
        return bend.kind, None if bend.slope is None else np.array([bend.slope], np.float32)

    def _convolve(self, work: Work, geometry: Geometry) -> None:
        kept = self._weights(work, geometry)
        compute = engine.forward if work.step.operator.name == "Deconvolution" else engine.data_gradient
        target = self._targets.get(work.outputs[0])
        params, bend = work.step.params, work.bend
        activation = NONE if bend is None else bend.activation
        limits: dict[str, Any] = {"workspace": workspace_bytes(params.workspace), "tune": params.cudnn_tune}
        data = self._value(work.inputs[0])
        y = compute(geometry, data, kept.weights, kept.bias, target, activation=activation, **limits)
        if bend is not None and activation is NONE:
            kind, slope = self._bend(bend)
            done = loops.pointwise(y, y, bend=kind, slope=slope)
            assert done
        self._values[work.outputs[0]] = y

    def _weights(self, work: Work, geometry: Geometry) -> _Kept:
        prints = [self._print(slot) for slot in work.weight_slots]
        kept = self._kept.get(work.key)
        if kept is None or kept.prints != prints:
            kept = self._kept[work.key] = _Kept(prints, *self._folded(work, geometry))
        return kept

    def _print(self, slot: int) -> Any:
        if slot not in self._prints:
            self._prints[slot] = _print_of(self._value(slot))
        return self._prints[slot]

    def _folded(self, work: Work, geometry: Geometry) -> tuple[engine.Weights, Array | None]:
        weight, *biases = (self._value(slot) for slot in work.inputs[1:])
        bias = biases[0] if biases else None
        if not work.affines:
            return engine.Weights(weight), bias if bias is None else bias.copy()
        with np.errstate(all="ignore"):
            scale, shift = _composed(work.affines, self._values)
            wide = weight.astype(np.float64)
            if work.step.operator.name == "Convolution":
                filters = geometry.channels
                folded = wide * np.broadcast_to(scale, (filters,)).reshape(-1, *[1] * (wide.ndim - 1))
            else:
                filters = geometry.filters
                grouped = wide.reshape(geometry.groups, -1, *wide.shape[1:])
                by_group = np.broadcast_to(scale, (filters,)).reshape(geometry.groups, 1, -1)
                folded = grouped * by_group.reshape(*by_group.shape, *[1] * (wide.ndim - 2))
            moved = shift if bias is None else bias * np.asarray(scale, np.float64) + shift
        folded = folded.reshape(weight.shape).astype(weight.dtype)
        return engine.Weights(folded), np.array(np.broadcast_to(moved, (filters,)), weight.dtype)
