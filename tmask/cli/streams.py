"""The standard streams of the process, guarded where bytes leave it, whoever writes them: tables, JSON, help, versions.

Python's own streams raise from wherever the text happens to be flushed, at the exit of the interpreter at the latest,
and libraries answer that in different ways: click and rich exit with 1, which here means that a check failed.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from tmask.cli.exit_codes import Code
from tmask.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Results(io.FileIO):
    """Stdout: a reader that has gone ends the command without a word, as it ends other commands in a pipe."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Raises OutputError for a full disk, and so on."""
        try:
            return super().write(data)
        except OSError as error:
            # What is left in buffers must go somewhere, else it is tried again at the exit.
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            if isinstance(error, BrokenPipeError):
                raise SystemExit(Code.READER_GONE) from None
            raise OutputError(f"cannot write to standard output: {error.strerror}") from error


class _Remarks(io.FileIO):
    """Stderr: where remarks cannot be written, nobody can be told, and the work goes on."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Never raises."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def guard_streams() -> None:
    """Put guarded streams in place of `sys.stdout` and `sys.stderr`; for a process of the command's own."""
    _occupy_standard_numbers()
    sys.stdout = _guarded(sys.stdout, _Results(1, "wb", closefd=False))
    sys.stderr = _guarded(sys.stderr, _Remarks(2, "wb", closefd=False))


def _occupy_standard_numbers() -> None:
    """Else the first file that the command opens would be the standard output, and get what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest free number: this one; writing to it fails, as it should


def _guarded(stream: TextIO | None, raw: io.FileIO) -> TextIO:
    if stream is not None:  # Python has none where the number was closed
        stream.flush()
    encoding = "utf-8" if stream is None else stream.encoding
    # A character that the terminal does not have is shown as its number.
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=raw.isatty())
