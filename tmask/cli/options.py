"""Options that commands share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from tmask.blocks.layouts import LAYOUTS
from tmask.cli.help.completion import complete_solver
from tmask.cli.settings import read_settings
from tmask.errors import InvalidProblemError, OutputError
from tmask.files.atomic import check_output
from tmask.solving.registry import get_solver, solver_class
from tmask.solving.solver import Solver

Value = TypeVar("Value")

Include = Annotated[list[str], typer.Option("--include", help="Only layers whose name matches (glob; repeatable).")]
Exclude = Annotated[list[str], typer.Option("--exclude", help="Not the layers whose name matches (repeatable).")]
Regex = Annotated[bool, typer.Option("--regex", help="Read names as regular expressions, not globs.")]
Groups = Annotated[list[str], typer.Option("--groups", help="NAME=G: a grouped convolution's groups (repeatable).")]
Layouts = Annotated[
    list[str], typer.Option("--layout", help="NAME=matrix, stack or convolution: what its axes are (repeatable).")
]
SolverName = Annotated[
    str, typer.Option("--solver", "-s", help="A name from `tmask solvers`, or auto.", autocompletion=complete_solver)
]
SolverNames = Annotated[
    list[str],
    # `--solvers a,b` was its only spelling once.
    typer.Option("--solver", "-s", "--solvers", help="Names (repeatable, or a,b).", autocompletion=complete_solver),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Name all that is left out, not only count it.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of tables.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Also write the rows to this CSV file.")]
KeepZeros = Annotated[
    bool, typer.Option("--keep-zeros", help="Weights that are 0 stay pruned: at most N of every M are kept.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]


def several(texts: Iterable[str]) -> list[str]:
    """What a repeatable option was given, each once, in order; commas part its values as well."""
    values = (part.strip() for text in texts for part in text.split(","))
    return list(dict.fromkeys(value for value in values if value))


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

    def read(text: str) -> tuple[str, int]:
        name, _, count = text.rpartition("=")
        if not (name and count.isdecimal() and int(count)):
            raise InvalidProblemError(f"--groups {text!r}: write it as NAME=G, for example 'features.*=32'")
        return name, int(count)

    return _each_once("--groups", texts, read)


def parse_layouts(texts: list[str]) -> dict[str, str]:
    """{name pattern: layout} from "NAME=LAYOUT" texts; a layout alone is that of all names.

    Raises:
        InvalidProblemError: a text of another form, or two for one name.
    """

    def read(text: str) -> tuple[str, str]:
        name, _, layout = text.rpartition("=")
        if layout not in LAYOUTS:
            raise InvalidProblemError(
                f"--layout {text!r}: write it as NAME={'|'.join(LAYOUTS)}, for example '*.experts.*=stack'"
            )
        return name or "*", layout

    return _each_once("--layout", texts, read)


def _each_once(option: str, texts: list[str], read: Callable[[str], tuple[str, Value]]) -> dict[str, Value]:
    """What texts say, by name; one for each name."""
    found: dict[str, Value] = {}
    for text in texts:
        name, value = read(text)
        if name in found:
            raise InvalidProblemError(f"{option} {text!r}: {name!r} was given before; give it once")
        found[name] = value
    return found


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
    return get_solver(name, **read_settings(solver_class(name), texts))
