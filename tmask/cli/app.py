"""The `tmask` command."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from tmask import __version__
from tmask.cli.allocate import allocate
from tmask.cli.check import check
from tmask.cli.compare import compare
from tmask.cli.console import NoteHandler
from tmask.cli.convert import convert
from tmask.cli.diversity import diversity
from tmask.cli.doctor import doctor
from tmask.cli.plot import plot
from tmask.cli.solve import solve
from tmask.cli.solvers import solvers

app = typer.Typer(
    name="tmask",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done; 1 a check failed; 2 wrong usage or input; 3 a solver is missing or failed; "
    "4 the output cannot be written; 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tmask {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Provably optimal transposable N:M sparsity masks (N weights are kept of every M)."""
    log = logging.getLogger("tmask")
    log.setLevel(logging.INFO)
    # Set, not added: with several calls in one process, as tests make, each note would come several times.
    log.handlers = [NoteHandler()]


app.command()(solve)
app.command()(compare)
app.command()(check)
app.command()(solvers)
app.command()(plot)
app.command()(doctor)
app.command()(diversity)
app.command()(allocate)
app.command()(convert)


def main() -> None:
    """Entry point of the `tmask` script."""
    app()
