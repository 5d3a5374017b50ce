"""Element by element layers."""

from __future__ import annotations

from typing import Any

from tconv import initializer
from tconv.gluon import errors
from tconv.gluon.block import HybridBlock
from tconv.gluon.parameter import Parameter

__all__ = ["ELU", "GELU", "SELU", "Activation", "LeakyReLU", "PReLU", "Swish"]


class Activation(HybridBlock):
    """One of the functions 'relu', 'sigmoid', 'tanh', 'softrelu', 'softsign'.

    Parameters
    ----------
    activation : str
        Its name.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.nn.Activation("relu")(mx.nd.array([-1, 2])).asnumpy().tolist()
    [0.0, 2.0]
    """

    def __init__(self, activation: str, **kwargs: Any) -> None:
        self._act_type = activation
        super().__init__(**kwargs)

    def _alias(self) -> str:
        return self._act_type

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Compute the output."""
        return ops.Activation(x, act_type=self._act_type, name="fwd")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._act_type})"


class LeakyReLU(HybridBlock):
    """x above 0, `alpha * x` below.

    Parameters
    ----------
    alpha : float
        Slope below 0.

    Raises
    ------
    ArgumentError
        If it is negative.
    """

    def __init__(self, alpha: float, **kwargs: Any) -> None:
        if alpha < 0:
            raise errors.AssertionError(f"LeakyReLU: alpha: got {alpha}; need 0 or more")
        super().__init__(**kwargs)
        self._alpha = alpha

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Compute the output."""
        return ops.LeakyReLU(x, act_type="leaky", slope=self._alpha, name="fwd")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._alpha})"


class PReLU(HybridBlock):
    """x above 0, `alpha * x` below, where alpha is learnt.

    Parameters
    ----------
    alpha_initializer : Initializer or str
        How alpha starts; at 0.25 by default.
    in_channels : int
        Number of alphas: 1, or one a channel.
    """

    alpha: Parameter

    def __init__(self, alpha_initializer: Any = None, in_channels: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        start = initializer.Constant(0.25) if alpha_initializer is None else alpha_initializer
        with self.name_scope():
            self.alpha = self.params.get("alpha", shape=(in_channels,), init=start)

    def hybrid_forward(self, ops: Any, x: Any, alpha: Any) -> Any:
        """Compute the output."""
        return ops.LeakyReLU(x, gamma=alpha, act_type="prelu", name="fwd")


class ELU(HybridBlock):
    """x above 0, `alpha * (exp(x) - 1)` below.

    Parameters
    ----------
    alpha : float
        The depth it falls to.
    """

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._alpha = alpha

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Compute the output."""
        return ops.LeakyReLU(x, act_type="elu", slope=self._alpha)


class SELU(HybridBlock):
    """The self-normalizing exponential unit."""

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Compute the output."""
        return ops.LeakyReLU(x, act_type="selu", name="fwd")


class GELU(HybridBlock):
    """x times the normal distribution function of x."""

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Compute the output."""
        return ops.LeakyReLU(x, act_type="gelu", name="fwd")


class Swish(HybridBlock):
    """`x * sigmoid(beta * x)`.

    Parameters
    ----------
    beta : float
        Steepness.
    """

    def __init__(self, beta: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._beta = beta

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Compute the output."""
        return x * ops.sigmoid(self._beta * x, name="fwd")
