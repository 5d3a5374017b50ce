"""Classes found by name, so that a setting may be a text: initializers, optimizers, metrics (`mx.registry`)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from tconv.errors import ArgumentError

_Class = TypeVar("_Class", bound=type)

_REGISTRIES: dict[type, dict[str, type]] = {}


def get_registry(base_class: type) -> dict[str, type]:
    """Return a copy of what is registered under `base_class`, by lower-case name."""
    return dict(_REGISTRIES.get(base_class, {}))


def get_register_func(base_class: type, nickname: str) -> Callable[..., Any]:
    """Return the decorator that enters a subclass of `base_class` under its own or a given name."""
    known = _REGISTRIES.setdefault(base_class, {})

    def register(klass: _Class, name: str | None = None) -> _Class:
        if not issubclass(klass, base_class):
            raise ArgumentError(f"{nickname}: got {klass.__name__}; need a subclass of {base_class.__name__}")
        key = (name or klass.__name__).lower()
        if key in known:
            warnings.warn(
                f"{nickname}: {klass.__module__}.{klass.__name__} takes the name {key!r} from "
                f"{known[key].__module__}.{known[key].__name__}",
                UserWarning,
                stacklevel=2,
            )
        known[key] = klass
        return klass

    register.__doc__ = f"Enter a class under its name, for `{nickname}` to be given as text."
    return register


def get_alias_func(base_class: type, nickname: str) -> Callable[..., Any]:
    """Return the decorator maker that enters a class under further names."""
    register = get_register_func(base_class, nickname)

    def alias(*names: str) -> Callable[[_Class], _Class]:
        def enter(klass: _Class) -> _Class:
            for name in names:
                register(klass, name)
            return klass

        return enter

    alias.__doc__ = f"Enter a class under further names, for `{nickname}` to be given as text."
    return alias


def get_create_func(base_class: type, nickname: str) -> Callable[..., Any]:
    """Return the function that makes an instance from a name, a text of JSON, a dict, or an instance."""
    known = _REGISTRIES.setdefault(base_class, {})

    def create(*args: Any, **kwargs: Any) -> Any:
        name, args = (args[0], args[1:]) if args else (kwargs.pop(nickname, None), ())
        if isinstance(name, base_class):
            if args or kwargs:
                raise ArgumentError(f"{nickname}: got an instance and further arguments; need one or the other")
            return name
        if isinstance(name, dict):
            return create(**name)
        if not isinstance(name, str):
            raise ArgumentError(
                f"{nickname}: got {type(name).__name__}; need a name or an instance of {base_class.__name__}"
            )
        if name[:1] in ("[", "{"):
            if args or kwargs:
                raise ArgumentError(f"{nickname}: got JSON and further arguments; need one or the other")
            return _from_json(name)
        if name.lower() not in known:
            raise ArgumentError(f"{nickname}: got {name!r}; need one of {', '.join(sorted(known))}")
        return known[name.lower()](*args, **kwargs)

    def _from_json(text: str) -> Any:
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            raise ArgumentError(f"{nickname}: got {text[:60]!r}; need well-formed JSON") from None
        if isinstance(value, list):
            if len(value) != 2 or not isinstance(value[0], str) or not isinstance(value[1], dict):
                raise ArgumentError(f"{nickname}: got {text[:60]!r}; need a list of a name and a dict")
            return create(value[0], **value[1])
        return create(**value)

    create.__doc__ = f"Return the {nickname} of that name (lower or upper case), or the instance itself."
    return create
