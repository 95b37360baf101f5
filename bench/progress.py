"""A progress bar on stderr, for benchmarks that take minutes."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, ProgressColumn


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Gone when done, and silent where stderr is no terminal: a log would hold a line for each moment."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
