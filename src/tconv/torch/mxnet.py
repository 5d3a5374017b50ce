"""MXNet's symbols as PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tconv.errors import ArgumentError
from tconv.model import read_params
from tconv.ndarray import NDArray
from tconv.symbol import Symbol, load, load_json
from tconv.symbol.node import Node, variables, walk
from tconv.torch.mxnet_operators import FORWARDS, LABELLED, missing


def from_mxnet(symbol: Symbol | str | PathLike[str], params: Mapping[str, Any] | str | PathLike[str]) -> nn.Module:
    """Return an MXNet network as a PyTorch module, ready to train.

    Parameters keep their names in `state_dict`; auxiliary states become buffers. Deconvolutions are computed by
    tconv, all else by PyTorch. A loss at the end gives what it predicts, and its label is not asked for.

    Parameters
    ----------
    symbol : Symbol or path
        The network, or its JSON file.
    params : mapping of str to array, or path
        Its parameters, with or without `arg:` and `aux:` before the names, or their `.params` file.

    Returns
    -------
    Module
        Takes the arguments that have no parameter, in their order or by name, and returns the output, or a tuple of
        them. `inputs` tells their names.

    Raises
    ------
    ArgumentError
        If an operator, or an argument of one, has no counterpart here (all are listed), or an auxiliary state is
        missing.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import tconv as mx
    >>> import tconv.torch
    >>> x = mx.sym.Variable("x")
    >>> up = mx.sym.Deconvolution(x, kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=3, name="up")
    >>> module = tconv.torch.from_mxnet(up, {"up_weight": np.ones((8, 3, 4, 4), np.float32)})
    >>> module(torch.ones(1, 8, 5, 5)).shape
    torch.Size([1, 3, 10, 10])
    >>> list(module.state_dict())
    ['up_weight']
    """
    network = symbol if isinstance(symbol, Symbol) else load(str(symbol))
    return MXNetModule(network, _arrays(params))


def _arrays(params: Mapping[str, Any] | str | PathLike[str]) -> dict[str, Tensor]:
    if not isinstance(params, Mapping):
        found, states = read_params(str(params))
        params = {**found, **states}
    return {name.removeprefix("arg:").removeprefix("aux:"): _tensor(array) for name, array in params.items()}


def _tensor(array: Any) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().clone()
    return torch.tensor(array.asnumpy() if isinstance(array, NDArray) else array)


class _Step(NamedTuple):
    """One operator: what computes it, by which parameters, and the numbers of the values it takes and makes."""

    forward: Callable[..., Any]
    params: Any
    sources: tuple[int, ...]
    targets: tuple[int, ...]


class MXNetModule(nn.Module):
    """An MXNet network; made by `from_mxnet`.

    Attributes
    ----------
    inputs : tuple of str
        Names of what `forward` takes.
    """

    def __init__(self, symbol: Symbol, arrays: Mapping[str, Tensor]) -> None:
        super().__init__()
        order = walk(symbol.heads)
        arguments, states = variables(order)
        if absent := [node.name for node in states if node.name not in arrays]:
            raise ArgumentError(f"from_mxnet: params: got no {', '.join(absent)}; need every auxiliary state")
        for node in (*arguments, *states):
            if node.name in arrays:
                # Past the checks of register_parameter, which minds names that are methods of a module too.
                owner, leaf = self._owner(node.name)
                tensor = arrays[node.name]
                if node in arguments and tensor.is_floating_point():
                    owner._parameters[leaf] = nn.Parameter(tensor)
                else:
                    owner._buffers[leaf] = tensor
        labels = _labels(order)
        self.inputs = tuple(n.name for n in arguments if n.name not in arrays and n.name not in labels)
        self._json: str = symbol.tojson()
        self._plan(symbol)

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """Return the module to hold a parameter, one more for each dot in its name, and its name there."""
        owner: nn.Module = self
        *parts, leaf = name.split(".")
        for part in parts:
            owner = owner._modules.setdefault(part, nn.Module())
        return owner, leaf

    def _held(self, name: str) -> Tensor | None:
        owner: nn.Module = self
        *parts, leaf = name.split(".")
        for part in parts:
            below = owner._modules.get(part)
            if below is None:
                return None
            owner = below
        return owner._parameters.get(leaf, owner._buffers.get(leaf))

    def _plan(self, symbol: Symbol) -> None:
        order = walk(symbol.heads)
        if unknown := missing(order):
            raise ArgumentError(f"from_mxnet: symbol: got {', '.join(unknown)}; need operators with a counterpart")
        numbers: dict[tuple[int, int], int] = {}
        for node in order:
            for output in range(len(node.output_names)):
                numbers[id(node), output] = len(numbers)
        self._names = {numbers[id(node), 0]: node.name for node in order if node.operator is None}
        self._steps = [
            _Step(
                FORWARDS[node.operator.name],
                node.params,
                tuple(numbers[id(entry.node), entry.output] for entry in node.inputs),
                tuple(numbers[id(node), output] for output in range(len(node.output_names))),
            )
            for node in order
            if node.operator is not None
        ]
        self._heads = tuple(numbers[id(head.node), head.output] for head in symbol.heads)

    def __getstate__(self) -> dict[str, Any]:
        planned = ("_names", "_steps", "_heads")
        return {name: value for name, value in self.__dict__.items() if name not in planned}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan(load_json(self._json))

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Compute the outputs; inputs come in the order of `inputs`, or by name."""
        given = {**dict(zip(self.inputs, inputs)), **named}
        if len(given) != len(inputs) + len(named) or set(given) != set(self.inputs):
            raise ArgumentError(
                f"from_mxnet: inputs: got {len(inputs)} and by name {', '.join(named) or 'none'}; "
                f"need {', '.join(self.inputs)}"
            )
        values: dict[int, Any] = {
            number: given[name] if name in given else self._held(name) for number, name in self._names.items()
        }
        for step in self._steps:
            result = step.forward(step.params, self.training, *(values[source] for source in step.sources))
            values.update(zip(step.targets, result if isinstance(result, tuple) else (result,)))
        outputs = tuple(values[head] for head in self._heads)
        return outputs[0] if len(outputs) == 1 else outputs


def _labels(order: Sequence[Node]) -> set[str]:
    """Return the names of the variables that nothing but losses use, as labels."""
    uses: dict[str, set[bool]] = {}
    for node in order:
        for place, entry in enumerate(node.inputs):
            is_label = node.operator is not None and node.operator.name in LABELLED and place == 1
            if entry.node.operator is None:
                uses.setdefault(entry.node.name, set()).add(is_label)
    return {name for name, kinds in uses.items() if kinds == {True}}
