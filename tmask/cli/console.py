"""What goes to stderr: notes, errors and progress, so that stdout holds results alone."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.progress import Progress, ProgressColumn, TaskID
from rich.text import Text

from tmask.showing.printable import printable

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes and no progress; results and errors alone.")]


def hushable(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the option --quiet, which none of them has to know of."""

    @functools.wraps(command)
    def wrapped(*args: Any, quiet: bool = False, **kwargs: Any) -> None:
        before = _quiet.set(quiet)
        try:
            command(*args, **kwargs)
        finally:
            _quiet.reset(before)

    signature = inspect.signature(command, eval_str=True)
    own = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    # typer reads both: the order and defaults from the one, types from the other.
    wrapped.__signature__ = signature.replace(parameters=[*signature.parameters.values(), own])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**get_type_hints(command, include_extras=True), "quiet": Quiet}
    return wrapped


def stderr() -> Console:
    """For progress, notes and errors; results go to stdout. Made on use, so that it follows a redirected stream."""
    return Console(stderr=True, soft_wrap=True)


def complain(text: str) -> None:
    """One error on stderr, on one line."""
    _say(f"error: {text}", "red")


def note(text: str) -> None:
    """A remark on stderr, on one line, unless --quiet was asked for."""
    if not _quiet.get():
        _say(text, "dim")


def _say(text: str, style: str) -> None:
    console = stderr()
    # As Text, since brackets in a layer's name are mark-up to rich.
    console.print(Text(printable(text, console.encoding), style=style))


class NoteHandler(logging.Handler):
    """Shows what the library logs as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        note(self.format(record))


def progress_bar(*columns: ProgressColumn) -> Progress:
    """On stderr, gone when done, and silent where that is no terminal."""
    console = stderr()
    return _Bar(*columns, console=console, disable=_quiet.get() or not console.is_terminal, transient=True)


class _Bar(Progress):
    """A bar whose descriptions, names of layers mostly, are made printable wherever a command sets one."""

    def add_task(self, description: str, *args: Any, **kwargs: Any) -> TaskID:
        """As in rich."""
        return super().add_task(printable(description, self.console.encoding), *args, **kwargs)

    def update(self, task_id: TaskID, *, description: str | None = None, **kwargs: Any) -> None:
        """As in rich."""
        shown = None if description is None else printable(description, self.console.encoding)
        super().update(task_id, description=shown, **kwargs)
