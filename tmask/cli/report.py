"""What commands share: errors to exit codes, tables, JSON and CSV."""

from __future__ import annotations

import csv
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, ParamSpec

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tmask.errors import OutputError, SolverFailedError, SolverUnavailableError, TmaskError
from tmask.files.atomic import atomic_path

Parameters = ParamSpec("Parameters")


class Code(IntEnum):
    """Exit codes."""

    OK = 0
    CHECK_FAILED = 1
    BAD_INPUT = 2
    SOLVER = 3
    OUTPUT = 4
    INTERRUPTED = 130


def reports_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose TmaskErrors become one line on stderr and an exit code, never a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except TmaskError as error:
            complain(str(error))
            raise typer.Exit(_code(error)) from error
        except KeyboardInterrupt as error:
            complain("interrupted; nothing was written")
            raise typer.Exit(Code.INTERRUPTED) from error

    return wrapped


def _code(error: TmaskError) -> Code:
    if isinstance(error, OutputError):
        return Code.OUTPUT
    if isinstance(error, SolverUnavailableError | SolverFailedError):
        return Code.SOLVER
    return Code.BAD_INPUT


def stderr() -> Console:
    """For progress, notes and errors; results go to stdout. Made on use, so that it follows a redirected stream."""
    return Console(stderr=True, soft_wrap=True)


def complain(text: str) -> None:
    """One error on stderr."""
    stderr().print(Text("error: ", style="bold red") + Text(text))


def note(text: str) -> None:
    """A remark on stderr."""
    stderr().print(Text(text, style="dim"))


def show_table(title: str, rows: Sequence[Mapping[str, str]], left: Sequence[str] = ()) -> None:
    """Rows of texts as a table on stdout; columns in `left` are left-aligned, the others right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in rows[0] if rows else ():
        # Names may fold; numbers must not.
        table.add_column(column, justify="left" if column in left else "right", no_wrap=column not in left)
    for row in rows:
        table.add_row(*(Text(value) for value in row.values()))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def show_json(document: Any) -> None:
    """One JSON document on stdout; numbers that JSON does not have become null."""
    typer.echo(json.dumps(_plain(document), indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the columns of the first, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def percent(value: float | None, digits: int = 2) -> str:
    """A share as per cent; very small ones in full, exact zero as 0."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    return f"{100 * value:.{digits}f}%" if abs(value) >= 0.5 * 10 ** -(digits + 2) else f"{100 * value:.0e}%"
