"""Options that commands share, and how their texts are read."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Annotated, Any

import typer

from tmask.errors import InvalidProblemError
from tmask.registry import get_solver, solver_class
from tmask.solver import Solver

Include = Annotated[list[str], typer.Option("--include", help="Only layers whose name matches (glob; repeatable).")]
Exclude = Annotated[list[str], typer.Option("--exclude", help="Not the layers whose name matches (repeatable).")]
Regex = Annotated[bool, typer.Option("--regex", help="Read names as regular expressions, not globs.")]
Groups = Annotated[list[str], typer.Option("--groups", help="NAME=G: a grouped convolution's groups (repeatable).")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of tables.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Also write the rows to this CSV file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]


def parse_groups(texts: list[str]) -> dict[str, int]:
    """{name pattern: groups} from "NAME=G" texts."""
    groups = {}
    for text in texts:
        name, equals, count = text.rpartition("=")
        if not equals or not count.isdigit() or int(count) < 1:
            raise InvalidProblemError(f"--groups {text!r}: write it as NAME=G, for example 'features.*=32'")
        groups[name] = int(count)
    return groups


def make_solver(name: str, texts: list[str]) -> Solver:
    """A solver with settings from "name=value" texts, read by the type of the setting.

    Raises:
        InvalidProblemError: a text that is no setting, or a value that does not fit.
    """
    types_by_name = setting_types(name)
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidProblemError(f"--set {text!r}: write it as name=value")
        settings[key] = _read(key, value, types_by_name[key]) if key in types_by_name else value
    return get_solver(name, **settings)


def setting_types(name: str) -> dict[str, Any]:
    """{setting: type} of a solver."""
    cls = solver_class(name)
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _read(key: str, text: str, kind: Any) -> Any:
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in kinds and text.lower() == "none":
        return None
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise InvalidProblemError(f"--set {key}={text}: give true or false")
        return text.lower() == "true"
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                continue
    if str in kinds:
        return text
    wanted = " or ".join(one.__name__ for one in kinds)
    raise InvalidProblemError(f"--set {key}={text}: {key} is of type {wanted}")
