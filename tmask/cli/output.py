"""Results on stdout: tables that fit the terminal, or one JSON document.

Every command writes by these functions alone: what names may hold, and what a stream may refuse, is seen to here.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tmask.errors import OutputError
from tmask.showing.printable import printable

Row = Mapping[str, str]

_PIPE_WIDTH = 200  # columns of a table that goes to a file or a pipe
_FOLDED_WIDTH = 32  # of a column of texts, before the table is broken up


@contextmanager
def _to_stdout() -> Iterator[None]:
    """Adds to an error of the stream what has become of the work: results are shown when files are written."""
    try:
        yield
    except OutputError as error:
        error.add_note("files that were to be written are written, and whole")
        raise


@_to_stdout()
def show_table(title: str, rows: Sequence[Row], texts: Collection[str] = ()) -> None:
    """Rows as a table on stdout; where the terminal is narrow, as several, each with the first column.

    Args:
        texts: columns that are left-aligned and may fold; the others hold numbers, which must not.
    """
    console = Console()
    # A width that is asked for holds for a pipe as well.
    if not (console.is_terminal or os.environ.get("COLUMNS", "").isdigit()):
        console = Console(width=_PIPE_WIDTH)
    # Before the widths are counted, which escapes change.
    title = printable(title, console.encoding)
    rows = [{column: printable(text, console.encoding) for column, text in row.items()} for row in rows]
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
    """One JSON document on stdout."""
    # Its letters are ASCII alone: json escapes all others.
    _write(json.dumps(_plain(document), indent=2, default=str))


def show_line(text: str) -> None:
    """One line on stdout, such as a path."""
    _write(printable(text))


@_to_stdout()
def _write(text: str) -> None:
    """Not by `typer.echo`, which writes UTF-8 to a terminal that says it takes ASCII alone."""
    print(text)
    sys.stdout.flush()  # so that an error comes now, and not after the command


def _plain(value: Any) -> Any:
    """With null for NaN and infinity, which readers of JSON refuse."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
