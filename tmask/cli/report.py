"""What commands share: errors to exit codes, tables, JSON, CSV and progress bars."""

from __future__ import annotations

import csv
import functools
import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, ParamSpec

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.table import Table
from rich.text import Text

from tmask.errors import OutputError, SolverFailedError, SolverUnavailableError, TmaskError
from tmask.files.atomic import atomic_path

Parameters = ParamSpec("Parameters")
Row = Mapping[str, str]

_PIPE_WIDTH = 200  # columns of a table that goes to a file or a pipe
_FOLDED_WIDTH = 32  # of a column of texts, before the table is broken up


class Code(IntEnum):
    """Exit codes."""

    OK = 0
    CHECK_FAILED = 1
    BAD_INPUT = 2
    SOLVER = 3
    OUTPUT = 4
    INTERRUPTED = 130


def reports_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose TmaskErrors become one line on stderr and an exit code, never a traceback.

    Notes that were added to the error (`add_note`) follow it, each on a line.
    """

    @functools.wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (TmaskError, KeyboardInterrupt) as error:
            complain(str(error) if isinstance(error, TmaskError) else "interrupted")
            for text in getattr(error, "__notes__", ()):
                note(text)
            raise typer.Exit(_code(error)) from error

    return wrapped


def _code(error: BaseException) -> Code:
    if isinstance(error, KeyboardInterrupt):
        return Code.INTERRUPTED
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
    stderr().print(Text(f"error: {text}", style="red"))


def note(text: str) -> None:
    """A remark on stderr."""
    stderr().print(Text(text, style="dim"))


class NoteHandler(logging.Handler):
    """Shows what the library logs as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        note(self.format(record))


def progress_bar(*columns: ProgressColumn) -> Progress:
    """On stderr, gone when done, and silent where that is no terminal."""
    console = stderr()
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def show_table(title: str, rows: Sequence[Row], texts: Collection[str] = ()) -> None:
    """Rows as a table on stdout; where the terminal is narrow, as several, each with the first column.

    Args:
        texts: columns that are left-aligned and may fold; the others hold numbers, which must not.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    for part, columns in enumerate(_fitting(rows, texts, console.width)):
        # Text objects, since names of files and layers may hold what rich takes for mark-up.
        heading = Text(title if part == 0 else f"{title} (continued)", style="bold")
        console.print(heading, soft_wrap=True)  # a path is printed whole, to be copied
        table = Table()
        for column in columns:
            text = column in texts
            table.add_column(
                Text(column), justify="left" if text else "right", no_wrap=not text, overflow="fold" if text else "crop"
            )
        for row in rows:
            table.add_row(*(Text(row[column]) for column in columns))
        console.print(table)


def _fitting(rows: Sequence[Row], texts: Collection[str], width: int) -> Iterator[list[str]]:
    """The columns in groups that fit a width, the first one in every group."""

    def needed(column: str) -> int:
        widest = max(cell_len(text) for text in (column, *(row[column] for row in rows)))
        return 3 + (min(widest, _FOLDED_WIDTH) if column in texts else widest)  # with padding and a border

    first, *others = rows[0]
    group, used = [first], 1 + needed(first)
    for column in others:
        if len(group) > 1 and used + needed(column) > width:
            yield group
            group, used = [first], 1 + needed(first)
        group.append(column)
        used += needed(column)
    yield group


def show_json(document: Any) -> None:
    """One JSON document on stdout; numbers that JSON does not have become null."""
    typer.echo(json.dumps(_plain(document), indent=2, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], overwrite: bool) -> None:
    """Rows with the columns of the first, whole or not at all.

    Raises:
        OutputError: the file cannot be written, or exists and must stay.
    """
    with atomic_path(path, overwrite) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
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


def number(value: float) -> str:
    """A positive number to three digits or more, without an exponent unless it is tiny."""
    if math.isnan(value):
        return "-"
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value >= 1e-4 else f"{value:.0e}"


def amount(value: float) -> str:
    """A large number to three digits, with k, M or G."""
    for unit, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return number(value / unit) + sign
    return number(value)
