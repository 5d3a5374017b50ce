"""The meaning of operator parameters: how each is spelt, its default, its check, and what it becomes inside.

MXNet turns every parameter into text and parses the text; so does this module. A parameter is one row, a field of
a `Params` class made by `param`; parsing, equality, hash, documentation and JSON derive from it.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, TypeVar

import numpy as np

from tconv.errors import ParameterError, brief
from tconv.geometry import Shape, Window


class Grammar(ABC):
    """How the text of a parameter is read.

    Attributes
    ----------
    expects : str
        What a well-formed text is, in MXNet's words.
    """

    expects: str

    @abstractmethod
    def read(self, text: str) -> Any:
        """Return the value `text` spells, or raise ValueError."""


_ENTRY = re.compile(r"\s*([+-]?\d+)\s*L?\s*", re.ASCII)
_WHOLE = re.compile(r"\s*([+-]?\d+)\s*", re.ASCII)
_BLANKS = " \t\n\v\f\r"
_LONGEST_SHAPE = 64


@dataclass(frozen=True)
class ShapeText(Grammar):
    """A shape such as `(2, 3)`, `[2,3]` or `2`; `None` reads as None."""

    expects: str = "Shape(tuple)"

    def read(self, text: str) -> Shape | None:
        """Return the entries, or None for the text `None`."""
        text = text.strip(_BLANKS)
        if text == "None":
            return None
        if text[:1] not in ("(", "["):
            if (text[:1].isdigit() or text[:1] == "-") and (plain := _WHOLE.fullmatch(text)):
                return (int64(plain[1]),)
            raise ValueError(text)
        if text[-1:] != {"(": ")", "[": "]"}[text[0]]:
            raise ValueError(text)
        inside = text[1:-1].strip(_BLANKS)
        if not inside:
            return ()
        entries = inside.split(",")
        if len(entries) > 1 and not entries[-1].strip(_BLANKS):
            entries.pop()
        if len(entries) > _LONGEST_SHAPE:
            raise ValueError(text)
        matches = [_ENTRY.fullmatch(entry) for entry in entries]
        if not all(matches):
            raise ValueError(text)
        return tuple(int64(match[1]) for match in matches if match)


@dataclass(frozen=True)
class IntText(Grammar):
    """A whole number from `low` to `high`; a minus sign passes where `low` allows it."""

    low: int = -(2**31)
    high: int = 2**31 - 1
    expects: str = "int"

    def read(self, text: str) -> int:
        """Return the number."""
        match = _WHOLE.fullmatch(text)
        if not match or len(match[1]) > 40:
            raise ValueError(text)
        value = int(match[1])
        if not self.low <= value <= self.high:
            raise ValueError(text)
        return value


@dataclass(frozen=True)
class FloatText(Grammar):
    """A floating-point number."""

    expects: str = "float"

    def read(self, text: str) -> float:
        """Return the number."""
        if "_" in text or not text.isascii():
            raise ValueError(text)
        return float(text)


@dataclass(frozen=True)
class BoolText(Grammar):
    """`true` or `false` in any case, `1` or `0`."""

    expects: str = "boolean"

    def read(self, text: str) -> bool:
        """Return the truth value."""
        lower = text.lower()
        if lower not in ("true", "false", "1", "0"):
            raise ValueError(text)
        return lower in ("true", "1")


@dataclass(frozen=True)
class ChoiceText(Grammar):
    """One of a few exact texts; where `none` is set, `None` reads as None."""

    options: tuple[str, ...] = ()
    none: bool = False
    expects: str = ""

    def __post_init__(self) -> None:
        listed = (["None"] if self.none else []) + [repr(option) for option in self.options]
        object.__setattr__(self, "expects", f"{{{', '.join(listed)}}}")

    def read(self, text: str) -> str | None:
        """Return the option."""
        if self.none and text == "None":
            return None
        if text not in self.options:
            raise ValueError(text)
        return text


@dataclass(frozen=True)
class OrNone(Grammar):
    """Another grammar, or `None`."""

    inner: Grammar = dataclasses.field(default_factory=FloatText)
    expects: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "expects", f"{self.inner.expects} or None")

    def read(self, text: str) -> Any:
        """Return what the inner grammar reads, or None."""
        return None if text == "None" else self.inner.read(text)


@dataclass(frozen=True)
class EntriesText(Grammar):
    """A tuple such as `(1, None)` or `[0.5, 2]`, a single entry counting as one; entries follow `inner`."""

    inner: Grammar = dataclasses.field(default_factory=FloatText)
    expects: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "expects", f"tuple of {self.inner.expects}")

    def read(self, text: str) -> tuple[Any, ...]:
        """Return the entries."""
        text = text.strip()
        if text[:1] not in ("(", "["):
            return (self.inner.read(text),)
        if text[-1:] != {"(": ")", "[": "]"}[text[0]]:
            raise ValueError(text)
        entries = text[1:-1].split(",")
        if not entries[-1].strip():
            entries.pop()
        if len(entries) > _LONGEST_SHAPE:
            raise ValueError(text)
        return tuple(self.inner.read(entry.strip()) for entry in entries)


@dataclass(frozen=True)
class AnyText(Grammar):
    """Any text, as it is."""

    expects: str = "string"

    def read(self, text: str) -> str:
        """Return the text."""
        return text


def int64(text: str) -> int:
    """Return the number `text` spells if 64 bits hold it, else raise ValueError."""
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError(text)
    return value


SHAPE = ShapeText()
INT = IntText()
UINT32 = IntText(-(2**32) + 1, 2**32 - 1, "int (non-negative)")
UINT64 = IntText(-(2**64) + 1, 2**64 - 1, "long (non-negative)")
FLOAT = FloatText()
BOOL = BoolText()
TEXT = AnyText()
BOOL_OR_NONE = OrNone(BOOL)
INT_OR_NONE = OrNone(INT)
FLOAT_OR_NONE = OrNone(FLOAT)
SHAPE_OR_NONES = EntriesText(OrNone(IntText(-(2**63), 2**63 - 1)))
DTYPES = ("bfloat16", "float16", "float32", "float64", "int32", "int64", "int8", "uint8")
DTYPE = ChoiceText(DTYPES)
DTYPE_OR_BOOL = ChoiceText((*DTYPES, "bool"))


_NO_DEFAULT: Any = object()


class Row:
    """One parameter of an operator, whole; as an attribute of a `Params` class it declares the parameter.

    Attributes
    ----------
    name, doc : str
        Name and meaning.
    grammar : Grammar
        How its text is read.
    default : object
        Its value where no text is given, unless `required`.
    low : float or None
        The least value it may have.
    """

    def __init__(self, grammar: Grammar, doc: str, default: Any, low: float | None) -> None:
        self.name = ""
        self.grammar = grammar
        self.doc = doc
        self.default = default
        self.low = low

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def required(self) -> bool:
        """Whether the parameter has no default."""
        return self.default is _NO_DEFAULT


def param(grammar: Grammar, doc: str, *, default: Any = _NO_DEFAULT, low: float | None = None) -> Any:
    """Declare one parameter as an attribute of a `Params` class; `low` is the least value it may have."""
    return Row(grammar, doc, default, low)


P = TypeVar("P", bound="Params")


def named(base: type[P], operator: str) -> type[P]:
    """Return `base` as the parameters of one operator of a family; `operator` is the name its errors show."""
    return type(operator, (base,), {"operator": operator, "__doc__": base.__doc__})


def to_text(value: Any) -> str:
    """Return the text MXNet makes of a Python value: `str`, with NumPy integers and types spelt as plain ones."""
    if type(value) is tuple or type(value) is list:
        if any(isinstance(entry, np.integer) for entry in value):
            value = type(value)(int(entry) if isinstance(entry, np.integer) else entry for entry in value)
    elif isinstance(value, np.ndarray):
        return f"array{value.shape}"
    elif isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, (np.generic, float, int))):
        value = np.dtype(value).name
    return _spelt(value, str)


def _spelt(value: Any, spell: Callable[[Any], str]) -> str:
    try:
        return spell(value)
    except ValueError:
        # Python refuses to spell integers of thousands of digits.
        return f"{type(value).__name__} of too many digits"


class Params:
    """Parameters of one operator, parsed: frozen, equal by value. Subclasses declare theirs with `param`.

    A dataclass would do the same, but making one runs the compiler, and there is one for each operator at import.
    """

    operator: ClassVar[str] = ""
    _rows: ClassVar[dict[str, Row]] = {}

    def __init_subclass__(cls) -> None:
        cls._rows = {**cls._rows, **{name: row for name, row in vars(cls).items() if isinstance(row, Row)}}

    def __init__(self, **values: Any) -> None:
        given = {name: values.get(name, row.default) for name, row in self._rows.items()}
        self.__dict__.update(given, _key=(type(self), *given.values()))
        self._check()

    def _check(self) -> None:
        """Raise ParameterError where values do not fit each other."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{self.operator}: {name}: parameters cannot be changed")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Params) and bool(self._key == other._key)

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._rows)
        return f"{type(self).__name__}({values})"

    _key: tuple[Any, ...]

    @classmethod
    def rows(cls) -> tuple[Row, ...]:
        """Return the parameters in their positional order."""
        return tuple(cls._rows.values())

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Any:
        """Read parameters from their texts.

        Parameters
        ----------
        texts : mapping of str to str
            Texts by parameter name; what is absent takes its default.

        Raises
        ------
        ParameterError
            If a parameter is unknown, missing, or its text does not parse.
        """
        return _parse(cls, tuple(texts.items()))  # type: ignore[arg-type]


@lru_cache(maxsize=4096)
def _parse(cls: type[Params], items: tuple[tuple[str, str], ...]) -> Params:
    rows = cls._rows
    values = {}
    for name, text in items:
        row = rows.get(name)
        if row is None:
            known = ", ".join(rows) or "none"
            raise ParameterError(f"{cls.operator}: {brief(name)}: unknown argument; possible arguments: {known}")
        try:
            value = row.grammar.read(text)
        except ValueError:
            raise ParameterError(
                f"{cls.operator}: {name}: got {_shortened(text)}; need {row.grammar.expects}"
            ) from None
        if row.low is not None and value is not None and value < row.low and not _wraps(row.grammar, value):
            raise ParameterError(f"{cls.operator}: {name}: got {value}; need at least {row.low:g}")
        values[name] = value
    for row in rows.values():
        if row.required and row.name not in values:
            raise ParameterError(f"{cls.operator}: {row.name}: missing; need {row.grammar.expects}")
    return cls(**values)


def _wraps(grammar: Grammar, value: float) -> bool:
    """Tell whether a value below 0 counts as the large number it wraps to."""
    return value < 0 and grammar in (UINT32, UINT64)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


CHANNEL_FIRST = ("NCW", "NCHW", "NCDHW")
CHANNEL_LAST = ("NWC", "NHWC", "NDHWC")
LAYOUT = ChoiceText((*CHANNEL_FIRST, *CHANNEL_LAST), none=True)
CUDNN_TUNE = ChoiceText(("fastest", "limited_workspace", "off"), none=True)
_MEGABYTE = 2**20
_RANKS = (1, 2, 3)


def check_layout(operator: str, layout: str | None, rank: int) -> bool:
    """Return whether `layout` has its channels last.

    Raises
    ------
    ParameterError
        If the layout is not one of `rank` spatial axes.
    """
    if layout is None:
        return False
    if not isinstance(layout, str) or layout not in LAYOUT.options or len(layout) != rank + 2:
        raise ParameterError(f"{operator}: layout: got {layout!r}; need a layout of {rank} spatial axes")
    return layout in CHANNEL_LAST


class WindowParams(Params):
    """What Convolution and Deconvolution have in common."""

    kernel: Shape = param(SHAPE, "Kernel size, one entry a spatial axis: (w,), (h, w) or (d, h, w).")
    stride: Shape = param(SHAPE, "Step of the output for a step of the input; 1 by default.", default=())
    dilate: Shape = param(SHAPE, "Distance between taps of the kernel; 1 by default.", default=())
    pad: Shape = param(SHAPE, "Positions cut off at both ends of the output; 0 by default.", default=())

    def _check_rank(self, **per_axis: Shape | None) -> None:
        kernel: Shape | None = self.kernel
        if kernel is None or len(kernel) not in _RANKS:
            raise ParameterError(f"{self.operator}: kernel: got {kernel}; need 1, 2 or 3 entries")
        for name, sizes in per_axis.items():
            if sizes is None or len(sizes) not in (0, len(kernel)):
                raise ParameterError(
                    f"{self.operator}: {name}: got {sizes}; need {len(kernel)} entries, as kernel {kernel} has"
                )

    def _check_layout(self, layout: str | None) -> None:
        # MXNet does not know NWC, so it is let in only where it can mean something.
        if layout == "NWC" and len(self.kernel) != 1:
            check_layout(self.operator, layout, len(self.kernel))

    def _window(
        self, filters: int, groups: int, layout: str | None, adj: Shape = (), target: Shape | None = None
    ) -> Window:
        rank = len(self.kernel)
        if any(size < 0 for size in self.pad):
            raise ParameterError(f"{self.operator}: pad: got {self.pad}; no entry may be negative")
        return Window(
            kernel=self.kernel,
            stride=self.stride or (1,) * rank,
            dilation=self.dilate or (1,) * rank,
            pad=tuple((size, size) for size in self.pad or (0,) * rank),
            adj=adj or (0,) * rank,
            filters=filters,
            groups=groups,
            target=target,
            channels_last=check_layout(self.operator, layout, rank),
        )


_NUM_FILTER = "Number of output channels."
_NUM_GROUP = "Number of groups; input channel c feeds only the filters of its group."
_WORKSPACE = (
    "Ceiling in MB of the temporary memory of one call: packed weights, panels, partial sums; not inputs, outputs "
    "and the copies of arrays that are strided, misaligned or of another byte order. Negative means no ceiling."
)
_NO_BIAS = "Whether there is no bias."
_CUDNN_TUNE = "Whether to time algorithms before the first call: those within the workspace, or all."
_CUDNN_OFF = "Whether to keep off cuDNN; no effect on the CPU."
_LAYOUT = "Order of the axes of data and output; channel first by default."


def workspace_bytes(megabytes: int) -> int:
    """Return a workspace given in MB in bytes; a negative one means no ceiling, as it wraps in MXNet."""
    return min(megabytes * _MEGABYTE, 2**62) if megabytes >= 0 else 2**62


class DeconvolutionParams(WindowParams):
    """Parameters of `Deconvolution`."""

    operator: ClassVar[str] = "Deconvolution"

    adj: Shape = param(SHAPE, "Positions added at the high end of the output; below the stride.", default=())
    target_shape: Shape | None = param(
        SHAPE, "Wanted output size; if any entry is not 0, pad and adj follow from it.", default=None
    )
    num_filter: int = param(UINT32, _NUM_FILTER, low=1)
    num_group: int = param(UINT32, _NUM_GROUP, default=1)
    workspace: int = param(UINT64, _WORKSPACE, default=512)
    no_bias: bool = param(BOOL, _NO_BIAS, default=True)
    cudnn_tune: str | None = param(CUDNN_TUNE, _CUDNN_TUNE, default=None)
    cudnn_off: bool = param(BOOL, _CUDNN_OFF, default=False)
    layout: str | None = param(LAYOUT, _LAYOUT, default=None)

    def _check(self) -> None:
        self._check_rank(stride=self.stride, dilate=self.dilate, pad=self.pad, adj=self.adj)
        self._check_layout(self.layout)

    @cached_property
    def window(self) -> Window:
        """The window these parameters describe.

        Raises
        ------
        ParameterError
            If pad is negative, or the layout is one of another number of axes.
        """
        target = None
        if self.target_shape is not None and any(self.target_shape):
            # MXNet looks at surplus entries only to decide whether the target takes effect.
            target = self.target_shape[: len(self.kernel)]
        return self._window(self.num_filter, self.num_group, self.layout, self.adj, target)


class ConvolutionParams(WindowParams):
    """Parameters of `Convolution`."""

    operator: ClassVar[str] = "Convolution"

    num_filter: int = param(UINT32, _NUM_FILTER, low=1)
    num_group: int = param(UINT32, _NUM_GROUP, default=1)
    workspace: int = param(UINT64, _WORKSPACE, default=1024)
    no_bias: bool = param(BOOL, _NO_BIAS, default=False)
    cudnn_tune: str | None = param(CUDNN_TUNE, _CUDNN_TUNE, default=None)
    cudnn_off: bool = param(BOOL, _CUDNN_OFF, default=False)
    layout: str | None = param(LAYOUT, _LAYOUT, default=None)

    def _check(self) -> None:
        self._check_rank(stride=self.stride, dilate=self.dilate, pad=self.pad)
        self._check_layout(self.layout)

    @cached_property
    def window(self) -> Window:
        """The window these parameters describe; raises as `DeconvolutionParams.window`."""
        return self._window(self.num_filter, self.num_group, self.layout)


def per_axis(operator: str, name: str, value: int | Iterable[int], rank: int) -> Shape:
    """Return one whole number an axis, an int being repeated.

    Raises
    ------
    ParameterError
        If `value` is neither an int nor `rank` ints, or 64 bits do not hold them.
    """
    plain: Any = value.tolist() if isinstance(value, np.ndarray) else value
    entries = plain if isinstance(plain, (tuple, list)) else (plain,) * rank
    if len(entries) != rank or not all(_is_int64(entry) for entry in entries):
        need = "a 64-bit int" if rank == 1 else f"a 64-bit int or {rank} of them"
        raise ParameterError(f"{operator}: {name}: got {_spelt(plain, repr)}; need {need}")
    return tuple(int(entry) for entry in entries)


def _is_int64(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63


def pads_per_axis(
    operator: str, value: int | Iterable[int | Iterable[int]], rank: int
) -> tuple[tuple[int, int], ...]:
    """Return a pair (low, high) an axis, an int standing for both ends and one for all axes repeated.

    Raises
    ------
    ParameterError
        If `value` is neither an int nor `rank` ints or pairs of ints, or 64 bits do not hold them.
    """
    plain: Any = value.tolist() if isinstance(value, np.ndarray) else value
    entries = plain if isinstance(plain, (tuple, list)) else (plain,) * rank
    pairs = [tuple(entry) if isinstance(entry, (tuple, list)) else (entry, entry) for entry in entries]
    if len(pairs) != rank or not all(len(pair) == 2 and all(map(_is_int64, pair)) for pair in pairs):
        need = f"a 64-bit int, or for each of {rank} axes one or a pair (low, high) of them"
        raise ParameterError(f"{operator}: pad: got {_spelt(plain, repr)}; need {need}")
    return tuple((int(low), int(high)) for low, high in pairs)


def check_choice(operator: str, name: str, value: str, options: tuple[str, ...]) -> None:
    """Raise ParameterError unless `value` is one of `options`."""
    if not isinstance(value, str) or value not in options:
        raise ParameterError(f"{operator}: {name}: got {value!r}; need one of {', '.join(options)}")
