"""Functions of two arrays, with and without broadcasting, and of an array and a scalar, all from one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tconv.dtypes import DType
from tconv.errors import ShapeError
from tconv.geometry import PartialShape, Shape
from tconv.operators.compute import Function, arithmetic, no_gradient, normal_axis, quiet, unbroadcast
from tconv.operators.registry import Array, Call, DTypes, Operator, PartialShapes, register, show
from tconv.params import BOOL, FLOAT, INT, SHAPE, Params, named, param


def broadcast_shape(where: str, left: PartialShape, right: PartialShape) -> PartialShape:
    """Return the shape two arrays broadcast to, as far as it is known.

    Raises
    ------
    ShapeError
        If they do not broadcast.
    """
    if left is None or right is None:
        return None
    rank = max(len(left), len(right))
    sizes: list[int | None] = []
    for a, b in zip((1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right):
        if a is not None and b is not None and a != b and 1 not in (a, b):
            raise ShapeError(
                f"{where}: got shapes {show(left)} and {show(right)}; they cannot be broadcast together"
            )
        if a is None or b is None:
            sizes.append(None)
        else:
            sizes.append(b if a == 1 else a)
    return tuple(sizes)


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    # C divides integers towards 0; by 0 it would end the process, so that gives 0 here.
    remainder = np.fmod(a, b)
    return np.where(b == 0, 0, (a - remainder) // np.where(b == 0, 1, b)).astype(a.dtype)


def _modulo(a: Array, b: Array) -> Array:
    return np.where(b == 0, 0, np.mod(a, b)).astype(a.dtype)


def _power(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":
        return np.power(a.astype(np.float64), b).astype(a.dtype)
    return np.asarray(np.power(a, b))


def _whole_slope(a: Array, slope: Function) -> Array:
    """Return the slope of a modulus, which is 0 among integers."""
    return np.zeros_like(a) if a.dtype.kind in "iu" else slope()


def _truth(function: Function) -> Function:
    return lambda a, b: function(a, b).astype(a.dtype)


@dataclass(frozen=True)
class Binary:
    """A function of two arrays in all its forms.

    Attributes
    ----------
    function : callable
        The values, from arrays of one type.
    left, right : callable or None
        The derivative by either operand, from both; None where MXNet passes zeros on.
    doc : str
        What it computes.
    plain, broadcast, scalar, reverse : tuple of str
        Name and aliases of the form for equal shapes, for broadcast shapes, for an array and a scalar, and for a
        scalar and an array; empty where there is no such form.
    """

    function: Function
    left: Function | None
    right: Function | None
    doc: str
    plain: tuple[str, ...] = ()
    broadcast: tuple[str, ...] = ()
    scalar: tuple[str, ...] = ()
    reverse: tuple[str, ...] = ()


def _one(a: Array, b: Array) -> Array:
    return a.dtype.type(1)  # type: ignore[no-any-return]


def _minus_one(a: Array, b: Array) -> Array:
    return np.asarray(-1).astype(a.dtype)


BINARY = (
    Binary(
        np.add,
        _one,
        _one,
        "a + b.",
        ("elemwise_add", "_add", "_plus", "_Plus"),
        ("broadcast_add", "broadcast_plus"),
        ("_plus_scalar", "_PlusScalar"),
    ),
    Binary(
        np.subtract,
        _one,
        _minus_one,
        "a - b.",
        ("elemwise_sub", "_sub", "_minus", "_Minus"),
        ("broadcast_sub", "broadcast_minus"),
        ("_minus_scalar", "_MinusScalar"),
        ("_rminus_scalar", "_RMinusScalar"),
    ),
    Binary(
        np.multiply,
        lambda a, b: b,
        lambda a, b: a,
        "a * b.",
        ("elemwise_mul", "_mul", "_Mul"),
        ("broadcast_mul",),
        ("_mul_scalar", "_MulScalar"),
    ),
    Binary(
        _divide,
        lambda a, b: 1 / b,
        lambda a, b: -a / (b * b),
        "a / b; integers divide towards 0.",
        ("elemwise_div", "_div", "_Div"),
        ("broadcast_div",),
        ("_div_scalar", "_DivScalar"),
        ("_rdiv_scalar", "_RDivScalar"),
    ),
    Binary(
        _modulo,
        lambda a, b: _whole_slope(a, lambda: np.ones_like(a)),
        lambda a, b: _whole_slope(a, lambda: -np.floor(a / b)),
        "The remainder of a / b, with the sign of b; 0 where b is 0.",
        ("_mod", "_Mod"),
        ("broadcast_mod",),
        ("_mod_scalar", "_ModScalar"),
        ("_rmod_scalar", "_RModScalar"),
    ),
    Binary(
        _power,
        lambda a, b: _power(a, b - b.dtype.type(1)) * b,
        lambda a, b: _power(a, b) * np.log(a),
        "a to the power b.",
        ("_power", "_Power"),
        ("broadcast_power",),
        ("_power_scalar", "_PowerScalar"),
        ("_rpower_scalar", "_RPowerScalar"),
    ),
    Binary(
        np.maximum,
        lambda a, b: a >= b,
        lambda a, b: a < b,
        "The larger of a and b.",
        ("_maximum", "_Maximum"),
        ("broadcast_maximum",),
        ("_maximum_scalar", "_MaximumScalar"),
    ),
    Binary(
        np.minimum,
        lambda a, b: a <= b,
        lambda a, b: a > b,
        "The smaller of a and b.",
        ("_minimum", "_Minimum"),
        ("broadcast_minimum",),
        ("_minimum_scalar", "_MinimumScalar"),
    ),
    Binary(
        np.hypot,
        lambda a, b: a / np.hypot(a, b),
        lambda a, b: b / np.hypot(a, b),
        "sqrt(a * a + b * b).",
        ("_hypot", "_Hypot"),
        ("broadcast_hypot",),
        ("_hypot_scalar", "_HypotScalar"),
    ),
    *(
        Binary(
            _truth(function),
            None,
            None,
            f"1 where {words}, else 0.",
            (f"_{name}", f"_{plain}"),
            (f"broadcast_{name}",),
            (f"_{name}_scalar", f"_{plain.replace('_', '')}Scalar"),
        )
        for name, plain, function, words in (
            ("equal", "Equal", np.equal, "a equals b"),
            ("not_equal", "Not_Equal", np.not_equal, "a differs from b"),
            ("greater", "Greater", np.greater, "a is above b"),
            ("greater_equal", "Greater_Equal", np.greater_equal, "a is not below b"),
            ("lesser", "Lesser", np.less, "a is below b"),
            ("lesser_equal", "Lesser_Equal", np.less_equal, "a is not above b"),
            ("logical_and", "Logical_And", np.logical_and, "a and b are not 0"),
            ("logical_or", "Logical_Or", np.logical_or, "a or b is not 0"),
            ("logical_xor", "Logical_Xor", np.logical_xor, "one of a and b is not 0"),
        )
    ),
)


def _evaluate(function: Function, a: Array, b: Array, dtype: DType, out: Array | None) -> Array:
    if isinstance(function, np.ufunc) and dtype.kind == "f" and dtype.itemsize > 2:
        return np.asarray(function(a, b, out=out))
    if a.dtype == bool:
        a, b = a.astype(np.int32), b.astype(np.int32)
    return np.asarray(function(arithmetic(a), arithmetic(b))).astype(dtype, copy=False)


def _gradient(slope: Function | None, grad: Array, a: Array, b: Array, like: Array) -> Array:
    assert slope is not None
    return unbroadcast(np.asarray(arithmetic(grad) * slope(arithmetic(a), arithmetic(b))), like.shape).astype(
        like.dtype, copy=False
    )


def _broadcast_rule(name: str) -> Function:
    def shape(params: Params, inputs: PartialShapes, outputs: PartialShapes) -> tuple[PartialShapes, PartialShapes]:
        return inputs, [broadcast_shape(name, *inputs)]

    return shape


def _declare_binary(row: Binary, names: tuple[str, ...], broadcasts: bool) -> None:
    name, *aliases = names

    @quiet
    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        a, b = inputs
        return [_evaluate(row.function, a, b, a.dtype, call.out)]

    @quiet
    def backward(
        call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
    ) -> Sequence[Array | None]:
        (a, b), (grad,) = inputs, out_grads
        return [
            _gradient(slope, grad, a, b, like) if wanted else None
            for slope, like, wanted in zip((row.left, row.right), inputs, call.wanted)
        ]

    declared = Operator(
        name=name,
        params=named(Params, name),
        inputs=("lhs", "rhs"),
        forward=forward,
        backward=no_gradient if row.left is None else backward,
        aliases=tuple(aliases),
        doc=row.doc,
    )
    register(declared if not broadcasts else replace(declared, shape=_broadcast_rule(name)))


class ScalarParams(Params):
    """Parameters of an operator on an array and a scalar."""

    scalar: float = param(FLOAT, "The scalar.", default=1.0)
    is_int: bool = param(BOOL, "Whether integers stay integers, the scalar being cut to one.", default=True)


def _scalar_dtypes(params: ScalarParams, inputs: DTypes, outputs: DTypes) -> tuple[DTypes, DTypes]:
    (given,) = inputs
    if given is not None and given.kind in "iub" and (given.kind == "b" or not params.is_int):
        return inputs, [np.dtype(np.int64 if params.is_int else np.float64)]
    known = outputs[0] if given is None else given
    return [known], [known]


def _declare_scalar(row: Binary, names: tuple[str, ...], reverse: bool) -> None:
    name, *aliases = names

    def operands(params: ScalarParams, x: Array) -> tuple[Array, Array]:
        (dtype,) = _scalar_dtypes(params, [x.dtype], [None])[1]
        x = x.astype(dtype, copy=False)
        scalar = np.asarray(params.scalar).astype(x.dtype)
        return (scalar, x) if reverse else (x, scalar)

    @quiet
    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        a, b = operands(call.params, inputs[0])
        return [_evaluate(row.function, a, b, a.dtype, call.out)]

    @quiet
    def backward(
        call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
    ) -> Sequence[Array | None]:
        a, b = operands(call.params, inputs[0])
        return [_gradient(row.right if reverse else row.left, out_grads[0], a, b, inputs[0])]

    register(
        Operator(
            name=name,
            params=named(ScalarParams, name),
            inputs=("data",),
            dtype=_scalar_dtypes,
            forward=forward,
            backward=no_gradient if row.left is None else backward,
            aliases=tuple(aliases),
            doc=f"{row.doc} {'b is data and a' if reverse else 'a is data and b'} the scalar, in the type of data.",
        )
    )


for _row in BINARY:
    _declare_binary(_row, _row.plain, broadcasts=False)
    _declare_binary(_row, _row.broadcast, broadcasts=True)
    _declare_scalar(_row, _row.scalar, reverse=False)
    if _row.reverse:
        _declare_scalar(_row, _row.reverse, reverse=True)


class CountParams(Params):
    """Parameters of an operator on any number of arrays."""

    num_args: int = param(INT, "Number of inputs.", low=1)


@quiet
def _add_n(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
    first, *rest = inputs
    summed = arithmetic(first).copy()
    for array in rest:
        summed += arithmetic(array)
    return [summed.astype(first.dtype, copy=False)]


def _add_n_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    return [out_grads[0].copy() if wanted else None for wanted in call.wanted]


register(
    Operator(
        name="add_n",
        params=named(CountParams, "add_n"),
        inputs=(),
        count="num_args",
        forward=_add_n,
        backward=_add_n_backward,
        aliases=("ElementWiseSum",),
        doc="The sum of any number of arrays of one shape.",
    )
)


def _broadcast_forward(target: Function) -> Function:
    def forward(call: Call, inputs: Sequence[Array]) -> Sequence[Array]:
        shape = target(call.params, *(array.shape for array in inputs))
        return [np.broadcast_to(inputs[0].reshape((1,) * (len(shape) - inputs[0].ndim) + inputs[0].shape), shape)]

    return forward


def _broadcast_backward(
    call: Call, inputs: Sequence[Array], outputs: Sequence[Array], out_grads: Sequence[Array]
) -> Sequence[Array | None]:
    return [unbroadcast(out_grads[0], inputs[0].shape), *(np.zeros_like(like) for like in inputs[1:])]


def _declare_broadcast(
    base: type[Params], names: tuple[str, ...], inputs: tuple[str, ...], target: Function, doc: str
) -> None:
    def shape(params: Params, inputs: PartialShapes, outputs: PartialShapes) -> tuple[PartialShapes, PartialShapes]:
        return inputs, [None if None in inputs else target(params, *inputs)]

    register(
        Operator(
            name=names[0],
            params=named(base, names[0]),
            inputs=inputs,
            shape=shape,
            forward=_broadcast_forward(target),
            backward=_broadcast_backward,
            aliases=names[1:],
            view=True,
            doc=doc,
        )
    )


def stretch(where: str, size: int | None, wanted: int | None) -> int | None:
    """Return what an axis of `size` becomes when `wanted` is asked for.

    Raises
    ------
    ShapeError
        If only an axis of size 1 could.
    """
    if size is not None and size != 1 and wanted is not None and size != wanted:
        raise ShapeError(f"{where}: got an axis of size {size}; only size 1 can be broadcast to {wanted}")
    return wanted


class BroadcastToParams(Params):
    """Parameters of `broadcast_to`."""

    shape: Shape = param(SHAPE, "Wanted shape; 0 keeps the size of the input.", default=())


def _to_shape(params: BroadcastToParams, data: PartialShape) -> PartialShape:
    assert data is not None
    if params.shape is None or len(params.shape) != len(data) or min(params.shape, default=0) < 0:
        raise ShapeError(
            f"broadcast_to: shape: got {params.shape}; need {len(data)} sizes, as data {show(data)} has"
        )
    return tuple(stretch("broadcast_to: data", a, b) if b else a for a, b in zip(data, params.shape))


_declare_broadcast(
    BroadcastToParams,
    ("broadcast_to",),
    ("data",),
    _to_shape,
    "Repeats axes of size 1 to the sizes of `shape`.",
)


class BroadcastAxisParams(Params):
    """Parameters of `broadcast_axis`."""

    axis: Shape = param(SHAPE, "Axes of size 1.", default=())
    size: Shape = param(SHAPE, "What they become.", default=())


def _axis_shape(params: BroadcastAxisParams, data: PartialShape) -> PartialShape:
    assert data is not None
    if params.axis is None or params.size is None or len(params.axis) != len(params.size):
        raise ShapeError(f"broadcast_axis: size: got {params.size}; need one size for each axis of {params.axis}")
    shape = list(data)
    for axis, size in zip(params.axis, params.size):
        where = normal_axis("broadcast_axis", axis, len(shape))
        if size < 0 or shape[where] not in (1, None):
            raise ShapeError(f"broadcast_axis: size: got {size} for axis {axis} of {show(data)}; need size 1 there")
        shape[where] = size
    return tuple(shape)


_declare_broadcast(
    BroadcastAxisParams,
    ("broadcast_axis", "broadcast_axes"),
    ("data",),
    _axis_shape,
    "Repeats the axes `axis` of size 1 to the sizes `size`.",
)


class BroadcastLikeParams(Params):
    """Parameters of `broadcast_like`."""

    lhs_axes: Shape | None = param(SHAPE, "Axes of lhs to repeat; all by default.", default=None)
    rhs_axes: Shape | None = param(SHAPE, "Axes of rhs that give their sizes; all by default.", default=None)


def _like_shape(params: BroadcastLikeParams, left: PartialShape, right: PartialShape) -> PartialShape:
    assert left is not None
    assert right is not None
    if params.lhs_axes is None or params.rhs_axes is None:
        if len(left) != len(right):
            raise ShapeError(f"broadcast_like: rhs: got {show(right)}; need as many axes as lhs {show(left)} has")
        return tuple(a if b is None else stretch("broadcast_like: lhs", a, b) for a, b in zip(left, right))
    if len(params.lhs_axes) != len(params.rhs_axes) or not params.lhs_axes:
        raise ShapeError(
            f"broadcast_like: lhs_axes: got {params.lhs_axes} with rhs_axes {params.rhs_axes}; need equally many"
        )
    shape = list(left)
    for to, source in zip(params.lhs_axes, params.rhs_axes):
        where = normal_axis("broadcast_like", to, len(left))
        if shape[where] not in (1, None):
            raise ShapeError(f"broadcast_like: lhs_axes: got axis {to} of {show(left)}; need size 1 there")
        shape[where] = right[normal_axis("broadcast_like", source, len(right))]
    return tuple(shape)


_declare_broadcast(
    BroadcastLikeParams,
    ("broadcast_like",),
    ("lhs", "rhs"),
    _like_shape,
    "Repeats axes of size 1 of `lhs` to the sizes of `rhs`.",
)
