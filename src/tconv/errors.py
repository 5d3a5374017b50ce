"""The exceptions tconv raises; each message is a sentence: operator, argument, got, needed."""

_BRIEF = 60


def brief(text: str) -> str:
    """Return a name out of a file as errors show it: cut where it is longer than any that people give.

    Examples
    --------
    >>> brief("conv0"), len(brief("x" * 1000))
    ('conv0', 60)
    """
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 3]}..."


class MXNetError(RuntimeError):
    """Root of every error tconv raises, under the name MXNet gave it.

    Examples
    --------
    >>> import tconv as mx
    >>> try:
    ...     mx.sym.Deconvolution(kernel=(3, 3))
    ... except mx.MXNetError as error:
    ...     print(error)
    Deconvolution: num_filter: missing; need int (non-negative)
    """


class ShapeError(MXNetError, ValueError):
    """A shape, rank or size that does not fit."""


class ArrayIndexError(MXNetError, IndexError):
    """An index outside of its array, or more indices than the array has axes."""


class DTypeError(MXNetError, TypeError):
    """A data type that does not fit, or a Python object of the wrong kind."""


class ParameterError(MXNetError, ValueError):
    """An operator parameter that is missing, unknown or does not parse."""


class ArgumentError(MXNetError, ValueError, AssertionError):
    """An argument or a file's content that a layer, parameter or initializer refuses; MXNet asserts there."""


class FormatError(MXNetError, ValueError):
    """A damaged, cut or unknown file."""


class FrameworkError(MXNetError, TypeError):
    """An array of a kind tconv cannot read."""


class OutOfMemoryError(MXNetError, MemoryError):
    """Memory that cannot be had, or a size beyond 64 bits."""
