"""Containers, dense layers, normalization and functions as layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tconv import ndarray, symbol
from tconv.gluon import errors
from tconv.gluon.block import Block, HybridBlock
from tconv.gluon.nn.activations import Activation
from tconv.gluon.parameter import Parameter, ParameterDict

__all__ = [
    "BatchNorm",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "HybridLambda",
    "HybridSequential",
    "InstanceNorm",
    "Lambda",
    "Sequential",
]


class _Stack(Block):
    """What the containers that run their children one after another have in common."""

    def add(self, *blocks: Block) -> None:
        """Append blocks."""
        for block in blocks:
            self.register_child(block)

    def __repr__(self) -> str:
        return self._repr_of(iter(self._children.items()))

    def __getitem__(self, key: int | slice) -> Any:
        chosen = list(self._children.values())[key]
        if not isinstance(chosen, list):
            return chosen
        part = type(self)(prefix=self._prefix)
        with part.name_scope():
            part.add(*chosen)
        return part

    def __len__(self) -> int:
        return len(self._children)


class Sequential(_Stack):
    """Blocks that run one after another.

    Examples
    --------
    >>> import tconv as mx
    >>> net = mx.gluon.nn.Sequential()
    >>> net.add(mx.gluon.nn.Dense(4), mx.gluon.nn.Dense(2))
    >>> net.initialize()
    >>> net(mx.nd.ones((3, 5))).shape
    (3, 2)
    """

    def forward(self, x: Any) -> Any:
        """Run the blocks on `x`, each on the output of the one before."""
        for block in self._children.values():
            x = block(x)
        return x

    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """Have each hybrid block inside run as a graph of its own."""
        if self._children and all(isinstance(child, HybridBlock) for child in self._children.values()):
            warnings.warn(
                f"{self.name}: all its blocks are hybrid; HybridSequential would make one graph of them",
                stacklevel=2,
            )
        super().hybridize(active, **kwargs)


class HybridSequential(_Stack, HybridBlock):
    """Hybrid blocks that run one after another, and can become one graph.

    Examples
    --------
    >>> import tconv as mx
    >>> net = mx.gluon.nn.HybridSequential(prefix="up_")
    >>> with net.name_scope():
    ...     net.add(mx.gluon.nn.Conv2DTranspose(8, 4, 2, 1, activation="relu"))
    ...     net.add(mx.gluon.nn.Conv2DTranspose(1, 4, 2, 1))
    >>> net.initialize()
    >>> net.hybridize()
    >>> net(mx.nd.ones((1, 3, 4, 4))).shape
    (1, 1, 16, 16)
    """

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Run the blocks on `x`, each on the output of the one before."""
        for block in self._children.values():
            x = block(x)
        return x


class Dense(HybridBlock):
    """Fully connected layer: `activation(data @ weight.T + bias)`.

    Parameters
    ----------
    units : int
        Size of the output.
    activation : str, optional
        An `Activation` to end with.
    use_bias : bool
        Whether there is a bias.
    flatten : bool
        Whether all axes but the first become one; else the last axis alone is transformed.
    dtype : str or type
        Element type of the parameters.
    weight_initializer, bias_initializer : Initializer or str, optional
        How weight (units, in_units) and bias (units,) start.
    in_units : int
        Size of the input; 0 to learn it from the first input.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.nn.Dense(2, activation="tanh", in_units=3)
    Dense(3 -> 2, Activation(tanh))
    """

    weight: Parameter
    bias: Parameter | None
    act: Activation | None

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        flatten: bool = True,
        dtype: Any = "float32",
        weight_initializer: Any = None,
        bias_initializer: Any = "zeros",
        in_units: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._flatten = flatten
        self._units = units
        self._in_units = in_units
        with self.name_scope():
            self.weight = self.params.get(
                "weight", shape=(units, in_units), init=weight_initializer, dtype=dtype, allow_deferred_init=True
            )
            self.bias = None
            if use_bias:
                self.bias = self.params.get(
                    "bias", shape=(units,), init=bias_initializer, dtype=dtype, allow_deferred_init=True
                )
            self.act = None if activation is None else Activation(activation, prefix=activation + "_")

    def hybrid_forward(self, ops: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        """Compute the output."""
        out = ops.FullyConnected(
            x, weight, bias, no_bias=bias is None, num_hidden=self._units, flatten=self._flatten, name="fwd"
        )
        return out if self.act is None else self.act(out)

    def __repr__(self) -> str:
        units, in_units = self.weight.shape or (0, 0)
        return f"{type(self).__name__}({in_units or None} -> {units}, {self.act or 'linear'})"


class Dropout(HybridBlock):
    """In training, sets a part of the values to 0 and scales the rest up.

    Parameters
    ----------
    rate : float
        Part that becomes 0.
    axes : tuple of int
        Axes along which the choice is the same.
    """

    def __init__(self, rate: float, axes: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rate = rate
        self._axes = axes

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Compute the output."""
        if self._rate > 0:
            return ops.Dropout(x, p=self._rate, axes=self._axes, name="fwd", cudnn_off=False)
        return ops.identity(x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p = {self._rate}, axes={self._axes})"


class BatchNorm(HybridBlock):
    """Normalization of each channel over the batch in training, by running averages otherwise.

    Parameters
    ----------
    axis : int
        The axis of channels.
    momentum : float
        Part of the running averages kept at each step.
    epsilon : float
        Added to the variance.
    center, scale : bool
        Whether beta and gamma are learnt.
    use_global_stats : bool
        Whether training uses the running averages too.
    beta_initializer, gamma_initializer : Initializer or str
        How beta and gamma start.
    running_mean_initializer, running_variance_initializer : Initializer or str
        How the averages start.
    in_channels : int
        Number of channels; 0 to learn it from the first input.
    """

    gamma: Parameter
    beta: Parameter
    running_mean: Parameter
    running_var: Parameter

    def __init__(
        self,
        axis: int = 1,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        use_global_stats: bool = False,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        running_mean_initializer: Any = "zeros",
        running_variance_initializer: Any = "ones",
        in_channels: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._kwargs = {
            "axis": axis,
            "eps": epsilon,
            "momentum": momentum,
            "fix_gamma": not scale,
            "use_global_stats": use_global_stats,
        }
        for name, init, learnt in (
            ("gamma", gamma_initializer, scale),
            ("beta", beta_initializer, center),
            ("running_mean", running_mean_initializer, False),
            ("running_var", running_variance_initializer, False),
        ):
            param = self.params.get(
                name,
                grad_req="write" if learnt else "null",
                shape=(in_channels,),
                init=init,
                allow_deferred_init=True,
                differentiable=learnt,
            )
            setattr(self, name, param)

    def cast(self, dtype: Any) -> None:
        """Change the element type of all parameters; they stay float32 for float16."""
        super().cast("float32" if np.dtype(dtype).name == "float16" else dtype)

    def hybrid_forward(self, ops: Any, x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any) -> Any:
        """Compute the output."""
        return ops.BatchNorm(x, gamma, beta, running_mean, running_var, name="fwd", **self._kwargs)

    def __repr__(self) -> str:
        return _normalization_repr(self, self._kwargs, (self.gamma.shape or (0,))[0] or None)


class InstanceNorm(HybridBlock):
    """Normalization of each channel of each example.

    Parameters
    ----------
    axis : int
        The axis of channels.
    epsilon : float
        Added to the variance.
    center, scale : bool
        Whether beta and gamma are learnt.
    beta_initializer, gamma_initializer : Initializer or str
        How beta and gamma start.
    in_channels : int
        Number of channels; 0 to learn it from the first input.
    """

    gamma: Parameter
    beta: Parameter

    def __init__(
        self,
        axis: int = 1,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = False,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        in_channels: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._kwargs = {"eps": epsilon, "axis": axis, "center": center, "scale": scale}
        self._axis = axis
        self._epsilon = epsilon
        _scale_and_shift(self, in_channels, (scale, gamma_initializer), (center, beta_initializer))

    def hybrid_forward(self, ops: Any, x: Any, gamma: Any, beta: Any) -> Any:
        """Compute the output."""
        if self._axis == 1:
            return ops.InstanceNorm(x, gamma, beta, name="fwd", eps=self._epsilon)
        swapped = x.swapaxes(1, self._axis)
        return ops.InstanceNorm(swapped, gamma, beta, name="fwd", eps=self._epsilon).swapaxes(1, self._axis)

    def __repr__(self) -> str:
        return _normalization_repr(self, self._kwargs, (self.gamma.shape or (0,))[0])


class LayerNorm(HybridBlock):
    """Normalization along one axis.

    Parameters
    ----------
    axis : int
        The axis to normalize, along which gamma and beta go.
    epsilon, center, scale, beta_initializer, gamma_initializer, in_channels
        As of `InstanceNorm`.
    """

    gamma: Parameter
    beta: Parameter

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        in_channels: int = 0,
        prefix: str | None = None,
        params: ParameterDict | None = None,
    ) -> None:
        super().__init__(prefix=prefix, params=params)
        self._kwargs = {"eps": epsilon, "axis": axis, "center": center, "scale": scale}
        self._axis = axis
        self._epsilon = epsilon
        _scale_and_shift(self, in_channels, (scale, gamma_initializer), (center, beta_initializer))

    def hybrid_forward(self, ops: Any, x: Any, gamma: Any, beta: Any) -> Any:
        """Compute the output."""
        return ops.LayerNorm(x, gamma, beta, axis=self._axis, eps=self._epsilon)

    def __repr__(self) -> str:
        return _normalization_repr(self, self._kwargs, (self.gamma.shape or (0,))[0])


class GroupNorm(HybridBlock):
    """Normalization of groups of channels of each example.

    Parameters
    ----------
    num_groups : int
        Number of groups.
    epsilon, center, scale, beta_initializer, gamma_initializer
        As of `InstanceNorm`; there is one beta and one gamma for each group.
    """

    gamma: Parameter
    beta: Parameter

    def __init__(
        self,
        num_groups: int = 1,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        prefix: str | None = None,
        params: ParameterDict | None = None,
    ) -> None:
        super().__init__(prefix=prefix, params=params)
        self._kwargs = {"eps": epsilon, "num_groups": num_groups, "center": center, "scale": scale}
        self._num_groups = num_groups
        self._epsilon = epsilon
        _scale_and_shift(self, num_groups, (scale, gamma_initializer), (center, beta_initializer))

    def hybrid_forward(self, ops: Any, x: Any, gamma: Any, beta: Any) -> Any:
        """Compute the output."""
        return ops.GroupNorm(x, gamma, beta, num_groups=self._num_groups, eps=self._epsilon)

    def __repr__(self) -> str:
        listed = ", ".join(f"{key}={value!r}" for key, value in self._kwargs.items())
        return f"{type(self).__name__}({listed})"


def _scale_and_shift(block: HybridBlock, channels: int, gamma: tuple[bool, Any], beta: tuple[bool, Any]) -> None:
    """Give a block its gamma and beta, each learnt or not, and begun as its initializer says."""
    for name, (learnt, init) in (("gamma", gamma), ("beta", beta)):
        param = block.params.get(
            name,
            grad_req="write" if learnt else "null",
            shape=(channels,),
            init=init,
            allow_deferred_init=True,
        )
        setattr(block, name, param)


def _normalization_repr(block: Block, options: dict[str, Any], in_channels: int | None) -> str:
    listed = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"{type(block).__name__}({listed}, in_channels={in_channels})"


class Embedding(HybridBlock):
    """Rows of a table, chosen by whole numbers.

    Parameters
    ----------
    input_dim, output_dim : int
        Number of rows, and size of each.
    dtype : str or type
        Element type of the table.
    weight_initializer : Initializer or str, optional
        How it starts.
    sparse_grad : bool
        Known for the sake of scripts; gradients are dense.
    """

    weight: Parameter

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        dtype: Any = "float32",
        weight_initializer: Any = None,
        sparse_grad: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._kwargs = {
            "input_dim": input_dim,
            "output_dim": output_dim,
            "dtype": dtype,
            "sparse_grad": sparse_grad,
        }
        self.weight = self.params.get(
            "weight", shape=(input_dim, output_dim), init=weight_initializer, dtype=dtype, allow_deferred_init=True
        )

    def hybrid_forward(self, ops: Any, x: Any, weight: Any) -> Any:
        """Compute the output."""
        return ops.Embedding(x, weight, name="fwd", **self._kwargs)

    def __repr__(self) -> str:
        options = self._kwargs
        return f"{type(self).__name__}({options['input_dim']} -> {options['output_dim']}, {options['dtype']})"


class Flatten(HybridBlock):
    """All axes but the first made one.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.nn.Flatten()(mx.nd.ones((2, 3, 4))).shape
    (2, 12)
    """

    def hybrid_forward(self, ops: Any, x: Any) -> Any:
        """Compute the output."""
        return ops.flatten(x)

    def __repr__(self) -> str:
        return type(self).__name__


class Lambda(Block):
    """A function of arrays as a block.

    Parameters
    ----------
    function : str or callable
        Name of a function of `mx.nd`, or a function of arrays.

    Raises
    ------
    ArgumentError
        If there is no function of that name.
    """

    def __init__(self, function: str | Callable[..., Any], prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        self._func_impl = _named(ndarray, function) if isinstance(function, str) else _callable(self, function)

    def forward(self, *args: Any) -> Any:
        """Call the function."""
        return self._func_impl(*args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._func_impl.__name__})"


class HybridLambda(HybridBlock):
    """A function of arrays or symbols as a hybrid block.

    Parameters
    ----------
    function : str or callable
        Name of a function of both `mx.nd` and `mx.sym`, or a function `function(F, x, ...)` where F is one of them.

    Raises
    ------
    ArgumentError
        If there is no function of that name.

    Examples
    --------
    >>> import tconv as mx
    >>> mx.gluon.nn.HybridLambda(lambda F, x: F.relu(x) * 2)(mx.nd.array([-1, 3])).asnumpy().tolist()
    [0.0, 6.0]
    """

    def __init__(self, function: str | Callable[..., Any], prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        self._func: Callable[..., Any]
        if isinstance(function, str):
            by_face = {ndarray: _named(ndarray, function), symbol: _named(symbol, function)}
            self._func = lambda ops, *args: by_face[ops](*args)
            self._func_name = function
        else:
            self._func = _callable(self, function)
            self._func_name = function.__name__

    def hybrid_forward(self, ops: Any, x: Any, *args: Any) -> Any:
        """Compute the output."""
        return self._func(ops, x, *args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._func_name})"


def _named(module: Any, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] | None = getattr(module, name, None)
    if function is None:
        raise errors.AssertionError(
            f"Lambda: function: got {name!r}; {module.__name__} has no function of this name"
        )
    return function


def _callable(block: Block, function: Any) -> Callable[..., Any]:
    if not callable(function):
        raise errors.ValueError(f"{type(block).__name__}: function: got {type(function).__name__}; need a function")
    made: Callable[..., Any] = function
    return made
