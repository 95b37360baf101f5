"""Texts "name=value" as the settings of a dataclass, each read by the type of its field."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any

from tmask.errors import InvalidProblemError


def read_settings(cls: type, texts: Sequence[str]) -> dict[str, Any]:
    """Settings from texts; those that the dataclass does not have stay texts, for whoever makes it to refuse.

    Raises:
        InvalidProblemError: a text that is no setting, one given twice, or a value that does not fit.
    """
    kinds = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls)}
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key):
            raise InvalidProblemError(f"--set {text!r}: write it as name=value, for example 'time_limit=10'")
        if key in settings:
            raise InvalidProblemError(f"--set {text!r}: {key} was given before; give it once")
        settings[key] = _read(text, value, kinds[key]) if key in fields else value
    return settings


def _read(setting: str, text: str, kind: Any) -> Any:
    """A value of a type such as `int`, `float | None`, one of some texts, or numbers separated by commas."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return text  # the dataclass names the choices, should this be none of them
    if origin is tuple:
        return tuple(_read(setting, part, inner[0]) for part in text.split(","))
    kinds = inner if origin in (types.UnionType, typing.Union) else (kind,)
    if type(None) in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for convert in (int, float, str):
        if convert in kinds:
            try:
                return convert(text)
            except ValueError:
                continue
    words = [_WORDS[one] for one in kinds if one in _WORDS]
    raise InvalidProblemError(f"--set {setting}: give {' or '.join(words) or 'it from Python'}")


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
