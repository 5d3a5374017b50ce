"""What may be done to the outputs of a prepared operator at last, without a pass of its own."""

from __future__ import annotations

from math import inf, isfinite, isnan
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from tconv.errors import ParameterError


class Activation(NamedTuple):
    """`min(max(slope * y if y < 0 else y, low), high)`; a NaN stays one."""

    slope: float = 1.0
    low: float = -inf
    high: float = inf

    def apply(self, y: np.ndarray[Any, Any]) -> None:
        """Change `y` in place."""
        if self.slope != 1:
            np.multiply(y, y.dtype.type(self.slope), out=y, where=y < 0)
        if (self.low, self.high) != (-inf, inf):
            np.clip(y, self.low, self.high, out=y)


NONE = Activation()


def parse(operator: str, value: Any) -> Activation:
    """Return what a caller's `activation` means.

    Parameters
    ----------
    operator : str
        Whom errors name.
    value : None, "relu", ("leaky", slope) or ("clip", low, high)

    Raises
    ------
    ParameterError
        If it is none of these.
    """
    if value is None:
        return NONE
    if isinstance(value, str) and value == "relu":
        return Activation(low=0.0)
    if isinstance(value, (tuple, list)) and value and all(isinstance(v, Real) for v in value[1:]):
        match tuple(value):
            case ("leaky", slope) if isfinite(slope):
                return Activation(slope=float(slope))
            case ("clip", low, high) if not isnan(low) and not isnan(high) and low <= high:
                return Activation(low=float(low), high=float(high))
    raise ParameterError(
        f"{operator}: activation: got {value!r}; need None, 'relu', ('leaky', slope) or ('clip', low, high)"
    )
