"""Options that commands share, and how their texts are read."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from tmask.errors import InvalidProblemError, OutputError
from tmask.files.atomic import check_output
from tmask.solving.registry import get_solver, solver_class
from tmask.solving.solver import Solver

Include = Annotated[list[str], typer.Option("--include", help="Only layers whose name matches (glob; repeatable).")]
Exclude = Annotated[list[str], typer.Option("--exclude", help="Not the layers whose name matches (repeatable).")]
Regex = Annotated[bool, typer.Option("--regex", help="Read names as regular expressions, not globs.")]
Groups = Annotated[list[str], typer.Option("--groups", help="NAME=G: a grouped convolution's groups (repeatable).")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of tables.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Also write the rows to this CSV file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]


def check_outputs(inputs: Iterable[Path], outputs: Iterable[Path | None], overwrite: bool) -> None:
    """Return if every output can be written, and none of them is an input or another output.

    Raises:
        OutputError: one cannot; nothing was written.
    """
    taken = {path.resolve(): "the file that is read" for path in inputs}
    for path in outputs:
        if path is None:
            continue
        # Before any advice to use --overwrite, which would lose the weights.
        if use := taken.get(path.resolve()):
            raise OutputError(f"{path} is {use}; give the output another name")
        taken[path.resolve()] = "another output of this command"
        check_output(path, overwrite)


def parse_groups(texts: list[str]) -> dict[str, int]:
    """{name pattern: groups} from "NAME=G" texts.

    Raises:
        InvalidProblemError: a text of another form, or two for one name.
    """
    groups: dict[str, int] = {}
    for text in texts:
        name, equals, count = text.rpartition("=")
        if not (equals and name and count.isdecimal() and int(count)):
            raise InvalidProblemError(f"--groups {text!r}: write it as NAME=G, for example 'features.*=32'")
        if name in groups:
            raise InvalidProblemError(f"--groups {text!r}: {name!r} was given before; give it once")
        groups[name] = int(count)
    return groups


def make_solver(name: str, texts: list[str]) -> Solver | None:
    """A solver with settings from "name=value" texts, read by the type of the setting; None for "auto".

    Raises:
        InvalidProblemError: a text that is no setting, a value that does not fit, or settings for "auto".
        UnknownSolverError, SolverUnavailableError: for a name that cannot be used here.
    """
    if name == "auto":
        if texts:
            raise InvalidProblemError(f"--set {texts[0]}: settings belong to a solver; name one with --solver")
        return None
    kinds = typing.get_type_hints(solver_class(name))
    fields = {field.name for field in dataclasses.fields(solver_class(name))}  # type: ignore[arg-type]
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key):
            raise InvalidProblemError(f"--set {text!r}: write it as name=value, for example 'time_limit=10'")
        if key in settings:
            raise InvalidProblemError(f"--set {text!r}: {key} was given before; give it once")
        settings[key] = _read(text, value, kinds[key]) if key in fields else value  # get_solver refuses other keys
    return get_solver(name, **settings)


def _read(setting: str, text: str, kind: Any) -> Any:
    """A value of a type such as `int` or `float | None`."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    # From the narrowest: text takes anything, and a float takes every whole number.
    for convert in (int, float, str):
        if convert in kinds:
            try:
                return convert(text)
            except ValueError:
                continue
    raise InvalidProblemError(f"--set {setting}: give {' or '.join(_WORDS.get(one, str(one)) for one in kinds)}")


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
