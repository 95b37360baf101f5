"""Solvers of other packages: what their files and classes may do wrong, said to their authors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tmask.errors import InvalidProblemError, SolverUnavailableError
from tmask.solving.solver import Solver

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# What the code of somebody else may raise. Not KeyboardInterrupt, which is the user's own.
ANY_FAULT = (Exception, SystemExit)


def foreign_class(point: EntryPoint) -> type[Solver]:
    """The class that an entry point names. What its file raises when it is imported is its author's to mend.

    Raises:
        SolverUnavailableError: it does not load.
        InvalidProblemError: it cannot serve as a solver, or has another name than the entry point.
    """
    what = f"solver {point.name!r} ({point.value})"
    try:
        loaded: object = point.load()
    except ANY_FAULT as error:
        raise SolverUnavailableError(f"{what} cannot be loaded: {text_of(error)}") from error
    fault = fault_of_class(loaded)
    if not fault and (own := loaded.name) != point.name:  # type: ignore[attr-defined]
        fault = f"calls itself {own!r}; entry point and class must have one name"
    if fault:
        raise InvalidProblemError(f"{what} {fault}")
    return loaded  # type: ignore[return-value]


def fault_of_class(cls: object) -> str:
    """Why a class cannot serve as a solver, in words that follow its name; "" if it can."""
    if not (isinstance(cls, type) and issubclass(cls, Solver) and dataclasses.is_dataclass(cls)):
        return "is not a dataclass that extends tmask.Solver"
    constants = {"name": str, "exact": bool, "max_side": int, "chunk": int, "requires": tuple}
    for constant, kind in constants.items():
        if not isinstance(getattr(cls, constant, None), kind):
            return f"has no class constant {constant!r} of type {kind.__name__}"
    if lacking := sorted(cls.__abstractmethods__):
        return f"does not implement {', '.join(lacking)}"
    return ""


def required_settings(cls: type[Solver]) -> list[str]:
    """Settings without a default."""
    return [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and field.init
    ]


def text_of(error: BaseException) -> str:
    """Kind and text of an error, the kind alone where there is no text."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
