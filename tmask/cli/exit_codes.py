"""Errors to exit codes: no command ends in a traceback for what a user did."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import IntEnum
from typing import ParamSpec

import typer

from tmask.cli.console import complain, note
from tmask.errors import OutputError, SolverFailedError, SolverUnavailableError, TmaskError

Parameters = ParamSpec("Parameters")


class Code(IntEnum):
    """Exit codes."""

    OK = 0
    CHECK_FAILED = 1
    BAD_INPUT = 2
    SOLVER = 3
    OUTPUT = 4
    # 128 and the number of the signal, as shells count.
    INTERRUPTED = 130


def reports_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose TmaskErrors become one line on stderr and an exit code, never a traceback.

    Notes that were added to the error (`add_note`) follow it, each on a line.
    """

    # typer reads a command's options from its signature, which `wraps` hands on.
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
