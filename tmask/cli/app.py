"""The `tmask` command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tmask import __version__
from tmask.cli.allocate import allocate
from tmask.cli.check import check
from tmask.cli.compare import compare
from tmask.cli.console import NoteHandler, hushable
from tmask.cli.convert import convert
from tmask.cli.diversity import diversity
from tmask.cli.doctor import doctor
from tmask.cli.evaluate import evaluate
from tmask.cli.exit_codes import errors_as_exit_codes
from tmask.cli.help.command import Command
from tmask.cli.help.examples import SHORT
from tmask.cli.merge import merge
from tmask.cli.output import show_line
from tmask.cli.plot import plot
from tmask.cli.prune import prune
from tmask.cli.signals import stop_on_signals
from tmask.cli.solve import solve
from tmask.cli.solvers import solvers
from tmask.cli.streams import guard_streams
from tmask.showing.printable import printable


class _Group(TyperGroup):
    """The commands, with errors of usage made printable: they quote arguments, which may be names of files."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """As in typer."""
        with _printable_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """As in typer."""
        with _printable_usage_errors():
            return super().invoke(ctx)


@contextmanager
def _printable_usage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # By what it has: typer keeps a copy of click of its own, or uses the installed one.
        if hasattr(error, "format_message") and isinstance(message := getattr(error, "message", None), str):
            error.message = printable(message)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="tmask",
    cls=_Group,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done; 1 a check failed; 2 wrong usage or input; 3 a solver is missing or failed; "
    "4 the output cannot be written; 130 interrupted, 143 by TERM, 129 by HUP; 141 the reader of a pipe has gone.",
)


def _version(wanted: bool) -> None:
    if wanted:
        show_line(f"tmask {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Provably optimal transposable N:M sparsity masks (N weights are kept of every M)."""
    if ctx.invoked_subcommand is None:
        for line in ctx.get_help().splitlines():
            show_line(line)
        raise typer.Exit
    log = logging.getLogger("tmask")
    log.setLevel(logging.INFO)
    # Set, not added: with several calls in one process, as tests make, each note would come several times.
    log.handlers = [NoteHandler()]


for _function in (
    solve, merge, compare, check, solvers, plot, doctor, diversity, allocate, convert, prune, evaluate,
):  # fmt: skip
    app.command(cls=Command, short_help=SHORT[_function.__name__])(hushable(_function))


def main() -> None:
    """Entry point of the `tmask` script: a process of its own, whose streams and signals are the command's."""
    guard_streams()
    stop_on_signals()
    with errors_as_exit_codes():
        try:
            app()
        finally:
            sys.stdout.flush()  # what help has left there, and an error with it, while it can still be told
