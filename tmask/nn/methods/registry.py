"""Which methods exist, and how to get one by name. One more is one file and one line in `METHODS`."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from tmask.errors import InvalidProblemError
from tmask.nn.methods.method import Method

METHODS = {
    "magnitude": "magnitude:Magnitude",
    "wanda": "wanda:Wanda",
    "adaprune": "adaprune:AdaPrune",
    "sparsegpt": "sparsegpt:SparseGPT",
    "alps": "alps:Alps",
}

_registered: dict[str, type[Method]] = {}


def available_methods() -> list[str]:
    """Names of all methods, from cheap to dear, then those that were registered."""
    return [*METHODS, *_registered]


def get_method(name: str, **settings: Any) -> Method:
    """A method by name, with its settings.

    Raises:
        InvalidProblemError: no method has that name; a setting that it does not have, or a value that it refuses.
    """
    cls = method_class(name)
    fields = [field.name for field in dataclasses.fields(cls)]
    for setting in settings:
        if setting not in fields:
            raise InvalidProblemError(
                f"method {name!r} has no setting {setting!r}; its settings are {', '.join(sorted(fields))}"
            )
    return cls(**settings)


def method_class(name: str) -> type[Method]:
    """The class behind a name.

    Raises:
        InvalidProblemError: there is none; lists those that exist.
    """
    if name in _registered:
        return _registered[name]
    if name not in METHODS:
        raise InvalidProblemError(f"no method is named {name!r}; there are: {', '.join(available_methods())}")
    module, _, attribute = METHODS[name].partition(":")
    cls: type[Method] = getattr(importlib.import_module(f"tmask.nn.methods.{module}"), attribute)
    return cls


def register_method(cls: type[Method]) -> type[Method]:
    """Make a Method class known by its name, for this process; can be used as a decorator.

    Raises:
        InvalidProblemError: not a dataclass over Method, or the name is taken.
    """
    if not (isinstance(cls, type) and issubclass(cls, Method) and dataclasses.is_dataclass(cls)):
        raise InvalidProblemError(f"{cls!r} is not a dataclass that extends Method")
    if cls.name in METHODS or _registered.get(cls.name, cls) is not cls:
        raise InvalidProblemError(f"a method named {cls.name!r} exists already; choose another name")
    _registered[cls.name] = cls
    return cls
