"""Applies an optimizer to the parameters of a network (`mx.gluon.Trainer`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tconv import optimizer as optimizers
from tconv.formats import files
from tconv.gluon import errors
from tconv.gluon.parameter import Parameter, ParameterDict
from tconv.optimizer import Optimizer

__all__ = ["Trainer"]


class Trainer:
    """Changes parameters by their gradients, once a step.

    Parameters
    ----------
    params : ParameterDict, dict or list of Parameter
        The parameters, as from `collect_params()`.
    optimizer : str or Optimizer
        The optimizer, or its name.
    optimizer_params : dict, optional
        Arguments of the optimizer given by name.
    kvstore, compression_params, update_on_kvstore
        Known for the sake of scripts; parameters on several devices are kept together here.

    Raises
    ------
    ArgumentError
        If `params` is something else, or the parameters are on different devices.

    Examples
    --------
    >>> import tconv as mx
    >>> net = mx.gluon.nn.Conv1DTranspose(1, 2, in_channels=1)
    >>> net.initialize(mx.init.One())
    >>> trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.5})
    >>> with mx.autograd.record():
    ...     loss = net(mx.nd.ones((1, 1, 3))).sum()
    >>> loss.backward()
    >>> trainer.step(batch_size=1)
    >>> net.weight.data().asnumpy().tolist()
    [[[-0.5, -0.5]]]
    """

    def __init__(
        self,
        params: Any,
        optimizer: str | Optimizer,
        optimizer_params: Mapping[str, Any] | None = None,
        kvstore: Any = "device",
        compression_params: Any = None,
        update_on_kvstore: bool | None = None,
    ) -> None:
        if isinstance(params, (dict, ParameterDict)):
            params = [params[name] for name in sorted(params.keys())]
        if not isinstance(params, (list, tuple)) or not all(isinstance(param, Parameter) for param in params):
            raise errors.ValueError("Trainer: params: need Parameters, in a list or dict")
        self._params: list[Parameter] = list(params)
        for param in self._params:
            if param.list_ctx() != self._params[0].list_ctx():
                raise errors.AssertionError(
                    f"Trainer: params: {param.name} is on {param.list_ctx()}, {self._params[0].name} on "
                    f"{self._params[0].list_ctx()}; need the same devices for all"
                )
            param._set_trainer(self)
        if isinstance(optimizer, Optimizer) and optimizer_params:
            raise errors.AssertionError("Trainer: optimizer_params: need none where optimizer is an instance")
        self._optimizer = optimizers.create(optimizer, **(optimizer_params or {}))
        self._optimizer.param_dict = dict(enumerate(self._params))
        devices = self._params[0].list_ctx() if self._params else []
        self._updaters = [optimizers.get_updater(self._optimizer) for _ in devices]
        self._scale = self._optimizer.rescale_grad

    @property
    def learning_rate(self) -> float:
        """The learning rate in force."""
        return self._optimizer.learning_rate

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""
        return self._optimizer

    def set_learning_rate(self, lr: float) -> None:
        """Change the learning rate; raises UserWarning if a schedule decides it."""
        self._optimizer.set_learning_rate(lr)

    def step(self, batch_size: float, ignore_stale_grad: bool = False) -> None:
        """Change all parameters by their gradients divided by `batch_size`.

        Parameters
        ----------
        batch_size : int
            Number of examples the gradients are the sum over.
        ignore_stale_grad : bool
            Whether to leave alone, instead of refusing, parameters without a new gradient since the last step.

        Raises
        ------
        UserWarning
            If a parameter has no new gradient.
        """
        self.allreduce_grads()
        self.update(batch_size, ignore_stale_grad)

    def allreduce_grads(self) -> None:
        """Replace the gradients on each device by their sum over devices."""
        for param in self._params:
            if param.grad_req != "null" and len(param.list_ctx()) > 1:
                grads = param.list_grad()
                total = np.sum([grad._data for grad in grads], axis=0)
                for grad in grads:
                    grad[:] = total

    def update(self, batch_size: float, ignore_stale_grad: bool = False) -> None:
        """Change all parameters as `step` does, without adding up over devices."""
        self._optimizer.rescale_grad = self._scale / batch_size
        changes: list[list[tuple[int, Any, Any]]] = [[] for _ in self._updaters]
        for index, param in enumerate(self._params):
            if param.grad_req == "null":
                continue
            for change, weight, grad in zip(changes, param.list_data(), param.list_grad()):
                if weight._fresh_grad:
                    change.append((index, grad, weight))
                elif not ignore_stale_grad:
                    raise UserWarning(
                        f"Parameter {param.name}: it has no new gradient on {weight.ctx} since the last step; "
                        "backward() has to reach it, or ignore_stale_grad=True leaves it alone"
                    )
        for updater, change in zip(self._updaters, changes):
            for index, grad, weight in change:
                updater(index, grad, weight)
                weight._fresh_grad = False

    def save_states(self, fname: str) -> None:
        """Write what the optimizer remembers of the parameters to a file."""
        states = self._updaters[0].get_states(dump_optimizer=True)
        with files.replacing(fname, "trainer states") as file:
            file.write(states)

    def load_states(self, fname: str) -> None:
        """Read what `save_states` wrote.

        Raises
        ------
        FormatError
            If the file is something else.
        """
        with files.reading(fname, "trainer states") as (file, _):
            states = file.read()
        for updater in self._updaters:
            updater.set_states(states)
