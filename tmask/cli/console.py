"""What goes to stderr: notes, errors and progress, so that stdout holds results alone."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.text import Text


def stderr() -> Console:
    """For progress, notes and errors; results go to stdout. Made on use, so that it follows a redirected stream."""
    return Console(stderr=True, soft_wrap=True)


def complain(text: str) -> None:
    """One error on stderr."""
    # As Text, since brackets in a layer's name are mark-up to rich.
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
