"""The arithmetic of sizes along one axis: what a layer gives, what it needs, and how to meet a wanted size.

A size may be a number or a text such as `"T"`, a symbol; then the answer is a `Length`, exact for every number the
symbol may stand for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from tconv.errors import ParameterError, ShapeError

Terms = tuple[tuple["str | _Floor", int], ...]


class Length:
    """A whole number that depends on symbols, such as `8*T - 3` or `(T + 1)//2`; exact, in one form.

    Lengths are added, multiplied by whole numbers and divided by `//`; `at` puts numbers in for the symbols.

    Examples
    --------
    >>> from tconv.sizes import Length
    >>> frames = Length.of("T")
    >>> (8 * frames + 5) // 4
    2*T + 1
    >>> ((frames + 1) // 2).at(T=7)
    4
    """

    __slots__ = ("_constant", "_terms")

    def __init__(self, terms: Mapping[Any, int], constant: int) -> None:
        kept = [(atom, factor) for atom, factor in terms.items() if factor]
        self._terms: Terms = tuple(sorted(kept, key=lambda term: str(term[0])))
        self._constant = constant

    @staticmethod
    def of(size: int | str | Length) -> Length:
        """Return a number, or the symbol of that name, as a length.

        Raises
        ------
        ParameterError
            If the text is no name.
        """
        if isinstance(size, Length):
            return size
        if isinstance(size, str):
            if not size.isidentifier():
                raise ParameterError(f"sizes: size: got {size!r}; need a number or the name of a symbol")
            return Length({size: 1}, 0)
        return Length({}, int(size))

    @property
    def constant(self) -> int | None:
        """The number this is, or None where it depends on a symbol."""
        return None if self._terms else self._constant

    def at(self, **values: int) -> int:
        """Return the number for these values of the symbols.

        Raises
        ------
        ParameterError
            If a symbol has no value.
        """
        return self._constant + sum(factor * _value(atom, values) for atom, factor in self._terms)

    def __add__(self, other: int | Length) -> Length:
        other = Length.of(other)
        terms = dict(self._terms)
        for atom, factor in other._terms:
            terms[atom] = terms.get(atom, 0) + factor
        return Length(terms, self._constant + other._constant)

    __radd__ = __add__

    def __mul__(self, factor: int) -> Length:
        return Length({atom: each * factor for atom, each in self._terms}, self._constant * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Length:
        return self * -1

    def __sub__(self, other: int | Length) -> Length:
        return self + -Length.of(other)

    def __rsub__(self, other: int) -> Length:
        return other + -self

    def __floordiv__(self, divisor: int) -> Length:
        if divisor < 1:
            raise ParameterError(f"sizes: divisor: got {divisor}; need at least 1")
        # What the divisor divides leaves the floor; nested floors are one.
        whole = {atom: factor // divisor for atom, factor in self._terms}
        rest = Length({atom: factor % divisor for atom, factor in self._terms}, self._constant % divisor)
        out = Length(whole, self._constant // divisor)
        if not rest._terms:
            return out
        if len(rest._terms) == 1 and isinstance(rest._terms[0][0], _Floor) and rest._terms[0][1] == 1:
            inner = rest._terms[0][0]
            return out + (inner.length + rest._constant * inner.divisor) // (inner.divisor * divisor)
        return out + Length({_Floor(rest, divisor): 1}, 0)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            other = Length.of(other)
        return isinstance(other, Length) and (self._terms, self._constant) == (other._terms, other._constant)

    def __hash__(self) -> int:
        return hash((self._terms, self._constant)) if self._terms else hash(self._constant)

    def __repr__(self) -> str:
        parts = [
            str(atom) if factor == 1 else f"{factor}*({atom})" if isinstance(atom, _Floor) else f"{factor}*{atom}"
            for atom, factor in self._terms
        ]
        if self._constant or not parts:
            parts.append(str(self._constant))
        return " + ".join(parts).replace("+ -", "- ")


@dataclass(frozen=True)
class _Floor:
    """A quotient that no rule makes simpler."""

    length: Length
    divisor: int

    def __str__(self) -> str:
        return f"({self.length})//{self.divisor}"


def _value(atom: str | _Floor, values: Mapping[str, int]) -> int:
    if isinstance(atom, _Floor):
        return atom.length.at(**values) // atom.divisor
    if atom not in values:
        raise ParameterError(f"sizes: {atom}: missing; need its value")
    return values[atom]


Size = int | str | Length


def _plain(length: Length) -> int | Length:
    return length if length.constant is None else length.constant


@dataclass(frozen=True)
class Step:
    """One layer along one axis: a transposed convolution, or with `transposed=False` a convolution.

    Parameters
    ----------
    kernel, stride, dilation : int
        Each at least 1.
    pad : int or (int, int)
        Positions that are cut off (transposed) or added (else) at both ends or each; negative ones the other way.
    adj : int
        Positions added at the high end; transposed only.
    transposed : bool
        Which of the two it is.

    Examples
    --------
    >>> from tconv.sizes import Step
    >>> up = Step(16, stride=8, pad=4)
    >>> up.output(100), up.output("T"), up.inputs(800), up.reads(80, 88)
    (800, 8*T, range(100, 101), range(9, 12))
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    pad: Any = (0, 0)
    adj: int = 0
    transposed: bool = True

    def __post_init__(self) -> None:
        pad = self.pad if isinstance(self.pad, tuple) else (self.pad, self.pad)
        object.__setattr__(self, "pad", pad)
        for name in ("kernel", "stride", "dilation"):
            if getattr(self, name) < 1:
                raise ParameterError(f"sizes: {name}: got {getattr(self, name)}; need at least 1")
        if self.adj < 0 or (self.adj and not self.transposed):
            need = "at least 0" if self.transposed else "0 for a convolution"
            raise ParameterError(f"sizes: adj: got {self.adj}; need {need}")

    @property
    def span(self) -> int:
        """Positions from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1

    def output(self, size: Size) -> Any:
        """Return the size of the output for an input of `size`.

        Raises
        ------
        ShapeError
            If no such layer has an output there.
        """
        given, around = Length.of(size), sum(self.pad)
        if self.transposed:
            out = (given - 1) * self.stride + (self.span - around + self.adj)
        else:
            out = (given + (around - self.span)) // self.stride + 1
        if (given.constant is not None and given.constant < 1) or (out.constant is not None and out.constant < 0):
            raise ShapeError(f"sizes: size: got {size}; {self} gives no output for it")
        return _plain(out)

    def inputs(self, size: int) -> range:
        """Return every size of the input whose output has `size`: one, none, or as many as a stride."""
        around = sum(self.pad)
        if self.transposed:
            whole, rest = divmod(size - self.span + around - self.adj, self.stride)
            return range(whole + 1, whole + 2) if rest == 0 and whole >= 0 and size >= 0 else range(0)
        first = (size - 1) * self.stride + self.span - around
        return range(max(1, first), max(1, first + self.stride)) if size >= 1 else range(0)

    def reads(self, first: int, stop: int) -> range:
        """Return the input positions that outputs from `first` to before `stop` need, ends not minded."""
        if self.transposed:
            low, high = first + self.pad[0], stop - 1 + self.pad[0]
            return range(-((self.span - 1 - low) // self.stride), high // self.stride + 1)
        return range(first * self.stride - self.pad[0], (stop - 1) * self.stride - self.pad[0] + self.span)

    def feeds(self, first: int, stop: int) -> range:
        """Return the output positions that inputs from `first` to before `stop` take part in, ends not minded."""
        if self.transposed:
            return range(first * self.stride - self.pad[0], (stop - 1) * self.stride - self.pad[0] + self.span)
        low, high = first + self.pad[0], stop - 1 + self.pad[0]
        return range(-((self.span - 1 - low) // self.stride), high // self.stride + 1)

    @property
    def overlap(self) -> tuple[int, ...]:
        """How many inputs reach an output, for each phase of the stride; uneven ones show as a checkerboard.

        They are even where `kernel % stride == 0`, unless dilation leaves phases out.
        """
        if not self.transposed:
            return (self.kernel,)
        counts = [0] * self.stride
        for tap in range(self.kernel):
            counts[tap * self.dilation % self.stride] += 1
        return tuple(counts)


def output_size(size: Size, *steps: Step) -> Any:
    """Return the size a signal of `size` has after `steps`, one after the other.

    Examples
    --------
    >>> from tconv.sizes import Step, output_size
    >>> output_size("T", Step(16, 8, pad=4), Step(16, 8, pad=4), Step(4, 2, pad=1), Step(4, 2, pad=1))
    256*T
    """
    for step in steps:
        size = step.output(size)
    return size


def input_sizes(size: int, *steps: Step) -> tuple[int, ...]:
    """Return every input size that `steps` lead to `size`, ascending.

    Examples
    --------
    >>> from tconv.sizes import Step, input_sizes
    >>> input_sizes(14, Step(4, 2, pad=1)), input_sizes(15, Step(4, 2, pad=1))
    ((7,), ())
    """
    found = {size}
    for step in reversed(steps):
        found = {before for after in found for before in step.inputs(after)}
    return tuple(sorted(found))


def reads(first: int, stop: int, *steps: Step) -> range:
    """Return the inputs that outputs of the last step from `first` to before `stop` need, ends not minded."""
    needed = range(first, stop)
    for step in reversed(steps):
        needed = step.reads(needed.start, needed.stop)
    return needed


def receptive_field(*steps: Step) -> tuple[int, int]:
    """Return the least and the most inputs that one output of the last step depends on, away from the ends.

    Examples
    --------
    >>> from tconv.sizes import Step, receptive_field
    >>> receptive_field(Step(3, 2)), receptive_field(Step(4, 2, pad=1), Step(4, 2, pad=1))
    ((1, 2), (2, 3))
    """
    period = prod(step.stride for step in steps if step.transposed)
    widths = [len(reads(at, at + 1, *steps)) for at in range(period)]
    return min(widths), max(widths)


@dataclass(frozen=True)
class Option:
    """One way to a wanted size."""

    pad: tuple[int, int]
    adj: int


@dataclass(frozen=True)
class Solution:
    """What `solve` has found.

    Attributes
    ----------
    options : tuple of Option
        Every way, the recommended one first; empty where there is none.
    reason : str
        Why the first is recommended, or why there is none.
    nearest : tuple of int
        Where there is none, the possible sizes next to the wanted one.
    """

    options: tuple[Option, ...]
    reason: str
    nearest: tuple[int, ...] = ()

    @property
    def recommended(self) -> Option | None:
        """The first option."""
        return self.options[0] if self.options else None


def solve(
    size: int, want: int, *, kernel: int, stride: int = 1, dilation: int = 1, two_ends: bool = False
) -> Solution:
    """Find pad and adj of a transposed convolution that turn an input of `size` into an output of `want`.

    Parameters
    ----------
    size, want : int
        Sizes of input and output, at least 1.
    kernel, stride, dilation : int
        Of the layer.
    two_ends : bool
        Whether pads may differ between the ends; adj is then never needed to cut, only to add.

    Returns
    -------
    Solution
        Every pad of at least 0 and adj below the stride, as MXNet and most others allow them, or why there is none.

    Raises
    ------
    ParameterError
        If a number is below 1.

    Examples
    --------
    >>> from tconv.sizes import solve
    >>> found = solve(7, 14, kernel=4, stride=2)
    >>> found.recommended
    Option(pad=(1, 1), adj=0)
    >>> solve(7, 20, kernel=3, stride=2).reason
    'a full output has 15 positions and adj below stride 2 adds 1 at most, so 20 is too large'
    """
    for name, value in (("size", size), ("want", want)):
        if value < 1:
            raise ParameterError(f"sizes: {name}: got {value}; need at least 1")
    step = Step(kernel, stride, dilation)
    full: int = step.output(size)
    surplus = full - want
    options = sorted(_options(surplus, stride, two_ends), key=_preference)
    if options:
        return Solution(tuple(options), _why(options[0], step))
    if surplus < 0:
        reason = f"a full output has {full} positions and adj below stride {stride} adds {stride - 1} at most"
        return Solution((), f"{reason}, so {want} is too large", (full + stride - 1,))
    reason = f"stride 1 leaves no room for adj, and equal pads change the full size {full} by an even number"
    return Solution((), f"{reason}, so {want} is left out", tuple(n for n in (want - 1, want + 1) if n >= 1))


def _options(surplus: int, stride: int, two_ends: bool) -> Iterator[Option]:
    for adj in range(stride):
        total = surplus + adj
        if total < 0:
            continue
        if not two_ends:
            if total % 2 == 0:
                yield Option((total // 2, total // 2), adj)
        elif adj == max(0, -surplus):
            yield from (Option((low, total - low), adj) for low in range(total + 1))


def _preference(option: Option) -> tuple[int, int, int, int]:
    low, high = option.pad
    # Untouched positions first, then what is cut unevenly, then what is cut and added again.
    return max(0, option.adj - high), abs(low - high + option.adj), option.adj, low


def _why(option: Option, step: Step) -> str:
    (low, high), adj = option.pad, option.adj
    if adj > high:
        return f"no way avoids {adj - high} positions at the high end that no input reaches and only the bias fills"
    if low == high - adj:
        reason = "it cuts both ends alike" if low else "it cuts nothing"
    else:
        reason = f"it cuts {low} at the low end and {high - adj} at the high end, as evenly as can be"
    counts = set(step.overlap)
    if len(counts) > 1:
        reason += f"; {min(counts)} to {max(counts)} inputs reach an output, as kernel % stride is not 0"
    return reason
