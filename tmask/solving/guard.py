"""What stands between the core and a solver's own code: what it is given to read, and what becomes of its errors.

The solvers of `tmask_solvers` get the arrays themselves, which costs nothing: `tests/test_contract.py` holds each of
them to leaving its scores alone, and numba would compile anew for read-only ones. The solvers of others get a copy that
is read-only. A copy, since whoever writes past the flag (torch has none, C does not ask) must not change what is
judged, nor what the next solver of a comparison sees; read-only, so that who writes by mistake learns of it at once.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy.typing as npt

from tmask.errors import SolverFailedError, TmaskError


class HasName(Protocol):
    """What this file needs of `tmask.solving.solver.Solver`, which stands on it."""

    name: ClassVar[str]


def is_ours(solver: HasName) -> bool:
    """Whether its class stands in this package, and not in one of somebody else's."""
    return type(solver).__module__.partition(".")[0] == "tmask_solvers"


def sealed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, flagged read-only: a view."""
    view = array.view()
    view.flags.writeable = False
    return view


@contextmanager
def faults_of(solver: HasName, where: str) -> Iterator[None]:
    """What goes wrong in a solver's own code becomes a SolverFailedError that says in which solver, and where.

    SystemExit too: a solver may not end the process.
    """
    try:
        yield
    except TmaskError:
        raise
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise SolverFailedError(f"solver {solver.name!r}, {where}: {what}{_advice(solver, error)}") from error


def to_its_author(solver: HasName) -> str:
    """Whom to tell that a solver does not keep its contract, at the end of a text."""
    return "please report this" if is_ours(solver) else f"for the author of {type(solver).__module__} to mend"


def _advice(solver: HasName, error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return ""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({Path(last.filename).name}, line {last.lineno}); {to_its_author(solver)}"
