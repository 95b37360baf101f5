"""Errors to exit codes: no command ends in a traceback for what a user did."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import ParamSpec

from tmask.cli.console import complain, note
from tmask.cli.signals import EndedBySignal
from tmask.errors import OutputError, SolverFailedError, SolverUnavailableError, TmaskError

Parameters = ParamSpec("Parameters")


class Code(IntEnum):
    """Exit codes."""

    OK = 0
    CHECK_FAILED = 1
    BAD_INPUT = 2
    SOLVER = 3
    OUTPUT = 4
    # 128 and the number of the signal, as shells count: INT, PIPE, and TERM or HUP by their own numbers.
    INTERRUPTED = 130
    READER_GONE = 141


def reports_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose TmaskErrors become one line on stderr and an exit code, never a traceback."""

    # typer reads a command's options from its signature, which `wraps` hands on.
    @functools.wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        with errors_as_exit_codes():
            command(*args, **kwargs)

    return wrapped


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Ends the process for a TmaskError or an interrupt, with its text on stderr.

    Notes that were added to the error (`add_note`) follow it, each on a line.
    """
    try:
        yield
    except (TmaskError, KeyboardInterrupt) as error:
        complain("interrupted" if type(error) is KeyboardInterrupt else str(error))
        for text in getattr(error, "__notes__", ()):
            note(text)
        raise SystemExit(_code(error)) from error


def _code(error: BaseException) -> int:
    if isinstance(error, EndedBySignal):
        return 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        return Code.INTERRUPTED
    if isinstance(error, OutputError):
        return Code.OUTPUT
    if isinstance(error, SolverUnavailableError | SolverFailedError):
        return Code.SOLVER
    return Code.BAD_INPUT
