"""What can go wrong, by name. Every error of the package is a `TmaskError`."""

from __future__ import annotations


class TmaskError(Exception):
    """Base of all errors that tmask raises on purpose."""


class InvalidProblemError(TmaskError, ValueError):
    """The weights, the scores, the pattern or a setting cannot be used; the text says what and where."""


class InvalidMaskError(TmaskError, ValueError):
    """A mask breaks its pattern; the text names the first offending block, row or column."""


class UnknownSolverError(TmaskError, LookupError):
    """No solver has that name; the text lists those that exist."""


class SolverUnavailableError(TmaskError, ImportError):
    """A library that a solver (or the plots) needs is not installed; the text gives the pip line."""


class SolverFailedError(TmaskError, RuntimeError):
    """A backend gave no usable answer; the text gives solver, block and backend status."""


class FileFormatError(TmaskError, ValueError):
    """A file cannot be read as weights or masks, or does not belong to the weights at hand."""


class OutputError(TmaskError, OSError):
    """An output cannot be written, or exists already."""


class KernelError(TmaskError, RuntimeError):
    """A sparse kernel fails, or multiplies wrong; the text says which, on what device, and what differs."""


class RanksDifferError(TmaskError, RuntimeError):
    """Processes that train one model together hold different weights or masks; the text names layer and ranks."""
