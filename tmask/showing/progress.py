"""How long work tells where it is: one kind of function, or True for a bar on a terminal and in a notebook.

The bar goes to stderr, is gone when the work is done, and is silent where nobody looks: in a pipe, a file, a log.
"""

from __future__ import annotations

import html
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tmask.showing.printable import printable

# Called with what is done, of how many, and the name of what comes next ("" at the end).
ProgressCall = Callable[[int, int, str], object]
# What a user gives: such a function, True for a bar, False or None for nothing.
Progress = ProgressCall | bool | None

# Between two changes of a notebook's bar: each is a message to the browser.
_SECONDS = 0.2


@contextmanager
def reporting(progress: Progress, what: str) -> Iterator[ProgressCall]:
    """The function to call as work goes on, whatever the user gave.

    Args:
        what: is done, in a word; stands before a bar.
    """
    if progress is not True:
        yield progress or _say_nothing
    elif in_notebook():
        yield from _notebook_bar(what)
    else:
        yield from _terminal_bar(what)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    # Not imported: where IPython runs it is there already.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def _say_nothing(done: int, total: int, name: str) -> None:
    """For those who do not want to know."""


def _terminal_bar(what: str) -> Iterator[ProgressCall]:
    # Late, since `import tmask` imports numpy alone.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, name: bar.update(
            task, completed=done, total=total, description=printable(f"{what} {name}".strip(), console.encoding)
        )


def _notebook_bar(what: str) -> Iterator[ProgressCall]:
    """HTML's own element, replaced in place: rich and tqdm want widgets, which are another package."""
    ipython: Any = importlib.import_module("IPython.display")  # which has no types
    shown = ipython.display(ipython.HTML(_element(what, 0, 0, "")), display_id=True)
    last = 0.0

    def tell(done: int, total: int, name: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= _SECONDS:
            last = now
            shown.update(ipython.HTML(_element(what, done, total, name)))

    yield tell
    shown.update(ipython.HTML(""))


def _element(what: str, done: int, total: int, name: str) -> str:
    value = f' value="{done}" max="{total}"' if total else ""
    return f"{html.escape(what)} <progress{value}></progress> {done} of {total} {html.escape(name)}"
