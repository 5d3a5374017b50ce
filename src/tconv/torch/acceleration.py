"""Put tconv into models that exist: layer by layer, or for as long as a `with` block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import parametrize

from tconv.torch import functional, modules, operators

_OURS: dict[Any, Any] = {
    torch.nn.ConvTranspose1d: modules.ConvTranspose1d,
    torch.nn.ConvTranspose2d: modules.ConvTranspose2d,
    torch.nn.ConvTranspose3d: modules.ConvTranspose3d,
}
_PYTORCH: dict[Any, Any] = {ours: pytorch for pytorch, ours in _OURS.items()}


@dataclass(frozen=True)
class Report:
    """What `accelerate` or `restore` did; `print` it to read it.

    Attributes
    ----------
    swapped : tuple of str
        Names of the layers that changed hands.
    kept : dict of str to str
        Names of the transposed convolutions that did not, and why.
    """

    swapped: tuple[str, ...]
    kept: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.swapped)} swapped, {len(self.kept)} kept"]
        lines += [f"swapped {name or '(the model itself)'}" for name in self.swapped]
        lines += [f"kept {name or '(the model itself)'}: {reason}" for name, reason in self.kept.items()]
        return "\n".join(lines)


def accelerate(model: torch.nn.Module) -> Report:
    """Let tconv compute every transposed convolution of a model, in place.

    Layers stay the objects they are: parameters, their sharing, hooks, parametrisations, training flag and state
    are untouched; only their class, one of PyTorch's `ConvTranspose1d`, `2d` and `3d`, becomes tconv's sub-class of
    that name. `restore` turns it back.

    Parameters
    ----------
    model : Module
        The model, or a layer.

    Returns
    -------
    Report
        Names of the layers that were swapped; those that were not, and why.

    Examples
    --------
    >>> import torch
    >>> import tconv.torch
    >>> model = torch.nn.Sequential(torch.nn.ConvTranspose2d(8, 4, 4, 2, 1), torch.nn.ReLU())
    >>> print(tconv.torch.accelerate(model))
    1 swapped, 0 kept
    swapped 0
    """
    return _swap(model, _OURS)


def restore(model: torch.nn.Module) -> Report:
    """Undo `accelerate`: let PyTorch compute again.

    Parameters
    ----------
    model : Module
        The model, or a layer.

    Returns
    -------
    Report
        Names of the layers that were swapped back.

    Examples
    --------
    >>> import torch
    >>> import tconv.torch
    >>> model = torch.nn.Sequential(torch.nn.ConvTranspose2d(8, 4, 4, 2, 1), torch.nn.ReLU())
    >>> report = tconv.torch.accelerate(model)
    >>> tconv.torch.restore(model).swapped
    ('0',)
    """
    return _swap(model, _PYTORCH)


def _swap(model: torch.nn.Module, classes: dict[Any, Any]) -> Report:
    swapped: list[str] = []
    kept: dict[str, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, tuple(_OURS)) or _plain_class(module) in classes.values():
            continue
        reason = _refusal(module, classes)
        if reason is None:
            _change_class(module, classes[_plain_class(module)])
            swapped.append(name)
        else:
            kept[name] = reason
    return Report(tuple(swapped), kept)


def _plain_class(module: torch.nn.Module) -> type:
    """Return the class of a layer, below the one that `torch.nn.utils.parametrize` gives each of its layers."""
    cls = type(module)
    return cls.__bases__[0] if parametrize.is_parametrized(module) else cls


def _refusal(module: torch.nn.Module, classes: dict[Any, Any]) -> str | None:
    cls = _plain_class(module)
    if cls not in classes:
        return f"class {cls.__qualname__} has a forward pass of its own"
    if classes is _PYTORCH:
        return None
    weights = [*module.parameters(recurse=False)] or [*module.parameters()]
    for tensor in weights:
        if tensor.device.type != "cpu":
            return f"device {tensor.device.type}"
        if tensor.dtype not in operators.COMPUTABLE:
            return f"dtype {tensor.dtype}"
    return None


def _change_class(module: torch.nn.Module, cls: type) -> None:
    if parametrize.is_parametrized(module):
        own = type(module)
        members = {name: value for name, value in vars(own).items() if name not in ("__dict__", "__weakref__")}
        cls = type(own.__name__, (cls,), members)
    module.__class__ = cls


@contextmanager
def patched() -> Iterator[None]:
    """Let tconv compute every `torch.nn.functional.conv_transpose*` and `torch.conv_transpose*` within a block.

    For models one cannot edit: it serves layers and function calls of the whole process, all threads included.

    Examples
    --------
    >>> import torch
    >>> import tconv.torch
    >>> model = torch.nn.ConvTranspose2d(8, 4, 4, 2, 1)
    >>> with tconv.torch.patched():
    ...     y = model(torch.ones(1, 8, 16, 16))
    """
    places: list[tuple[Any, str, Any]] = []
    for rank in functional.ORIGINALS:
        name = f"conv_transpose{rank}d"
        ours = getattr(functional, name)
        for module in (torch, torch.nn.functional):
            places.append((module, name, getattr(module, name)))
            setattr(module, name, ours)
    try:
        yield
    finally:
        for module, name, value in places:
            setattr(module, name, value)
