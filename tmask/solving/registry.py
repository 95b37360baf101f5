"""Which solvers exist, which can be used here, and how to get one by name.

One more built-in solver is one file and one line in `BUILTIN` (and an extra in pyproject.toml for its library).
Other packages add theirs through the entry-point group `tmask.solvers`, whose names are solver names and whose
values are Solver classes.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from tmask.errors import InvalidProblemError, SolverUnavailableError, TmaskError, UnknownSolverError
from tmask.solving.entry import Entry, missing_modules
from tmask.solving.foreign import ANY_FAULT, fault_of_class, foreign_class, required_settings, text_of
from tmask.solving.solver import Solver
from tmask.solving.tensor_solver import TensorSolver

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "tmask.solvers"

log = logging.getLogger("tmask")

BUILTIN: dict[str, Entry] = {
    "midpoint": Entry("midpoint:Midpoint", ("numba",), "numba"),
    "augmenting-paths": Entry("augmenting_paths:AugmentingPaths", ("numba",), "numba"),
    "midpoint-torch": Entry("midpoint_torch:MidpointTorch", ("torch",), "torch"),
    "midpoint-cuda": Entry("midpoint_cuda:MidpointCuda", ("torch", "numba_cuda"), "cuda", gpu=True),
    "patterns": Entry("patterns:Patterns"),
    "ortools-flow": Entry("ortools_flow:OrtoolsFlow", ("ortools",), "ortools"),
    "networkx-simplex": Entry("networkx_simplex:NetworkxSimplex", ("networkx",), "networkx"),
    "ortools-cpsat": Entry("ortools_cpsat:OrtoolsCpsat", ("ortools",), "ortools"),
    "ortools-pdlp": Entry("ortools_pdlp:OrtoolsPdlp", ("ortools", "scipy"), "pdlp"),
    "pulp-cbc": Entry("pulp_milp:PulpCbc", ("pulp", "cbcbox"), "pulp"),
    "pulp-highs": Entry("pulp_milp:PulpHighs", ("pulp", "highspy"), "highs"),
    "greedy-keep": Entry("greedy_keep:GreedyKeep", ("numba",), "numba"),
    "greedy-prune": Entry("greedy_prune:GreedyPrune", ("numba",), "numba"),
    "local-search": Entry("local_search:LocalSearch", ("numba",), "numba"),
    "entropic": Entry("entropic:Entropic", ("torch",), "torch"),
    "bi-nm": Entry("bi_nm:BiNM"),
    "random-best": Entry("random_best:RandomBest"),
}

# What "auto" takes: the first of these that is installed and takes the block side. All are exact; the
# first three in the order of their speed (bench/results/solvers.csv). "patterns", which needs numpy alone, is here so
# that 2:4 works where nothing else is installed.
AUTO = ("midpoint", "augmenting-paths", "ortools-flow", "pulp-highs", "networkx-simplex", "patterns")

# What "auto" takes for tensors on other devices than the CPU, likewise. All are TensorSolvers, and exact.
DEVICE_AUTO = ("midpoint-cuda", "midpoint-torch")

# What certificates take for bounds where it is installed. A bound needs prices,
# which of the exact solvers for arrays these two give for every block.
REFERENCES = ("midpoint", "augmenting-paths")

_registered: dict[str, type[Solver]] = {}
_broken: set[str] = set()  # built-in solvers whose library is installed and does not load


@dataclass(frozen=True, slots=True)
class SolverInfo:
    """A solver as `available_solvers` lists it, without importing its library.

    Args:
        missing: modules that it needs and that are not installed, or `entry.DRIVER`; empty if it can be used.
        install: the command that brings them, or "".
    """

    name: str
    missing: tuple[str, ...]
    install: str

    @property
    def available(self) -> bool:
        """Whether it can be used here."""
        return not self.missing


def available_solvers() -> list[str]:
    """Names of the solvers whose libraries are installed, built-in ones first."""
    return [info.name for info in solver_infos() if info.available]


def solver_infos() -> list[SolverInfo]:
    """Every known solver, with what it lacks here. Imports none of their libraries."""
    infos = [SolverInfo(name, entry.lacking(), entry.install()) for name, entry in BUILTIN.items()]
    infos += [SolverInfo(name, missing_modules(cls.requires), "") for name, cls in _registered.items()]
    # What this process has registered goes before an entry point of the same name, as in `solver_class`.
    known = {info.name for info in infos}
    return infos + [SolverInfo(name, (), "") for name in _entry_points() if name not in known]


def register_solver(cls: type[Solver]) -> type[Solver]:
    """Make a Solver class known by its name, for this process; can be used as a decorator.

    Raises:
        InvalidProblemError: not a dataclass over Solver, or the name is taken.
    """
    if fault := fault_of_class(cls):
        raise InvalidProblemError(f"{cls!r} {fault}")
    name = cls.name
    if name in BUILTIN or _registered.get(name, cls) is not cls or name == "auto":
        raise InvalidProblemError(f"a solver named {name!r} exists already; choose another name")
    _registered[name] = cls
    return cls


def get_solver(name: str, **settings: Any) -> Solver:
    """A solver by name, with its settings.

    Raises:
        UnknownSolverError: no solver has that name; lists those that exist.
        SolverUnavailableError: its library is not installed; gives the pip line.
        InvalidProblemError: a setting that it does not have, or a value that it refuses.
    """
    # Looked at here, since a dataclass's own TypeError would not say which settings there are.
    _tell_of_compiling(name)
    cls = solver_class(name)
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for setting in settings:
        if setting not in fields:
            has = "its settings are " + ", ".join(sorted(fields)) if fields else "it has no settings"
            raise InvalidProblemError(f"solver {name!r} has no setting {setting!r}; {has}")
    try:
        return cls(**settings)
    except TmaskError:
        raise
    except ANY_FAULT as error:  # its own checks, or what they need of the machine
        if needed := [one for one in required_settings(cls) if one not in settings]:
            raise InvalidProblemError(f"solver {name!r} needs the settings {', '.join(needed)}") from error
        raise SolverUnavailableError(f"solver {name!r} cannot be made: {text_of(error)}") from error


def auto_solver(side: int) -> Solver:
    """The first exact solver of `AUTO` that is installed and takes blocks of this side.

    Raises:
        SolverUnavailableError: none is.
    """
    if found := _first(AUTO, lambda cls: cls.max_side >= side):
        return found
    raise SolverUnavailableError(
        f"no exact solver for blocks of side {side} is installed here; {BUILTIN[AUTO[0]].install()} brings the fastest"
    )


def device_solver(device_type: str, side: int) -> TensorSolver | None:
    """The first of `DEVICE_AUTO` that can be used and takes this type of torch device and side; None if none does."""
    names = [name for name in DEVICE_AUTO if device_type == "cuda" or not BUILTIN[name].gpu]
    for name in names:
        if missing := BUILTIN[name].lacking():  # said here alone: the next one is much slower
            _say_once(logging.INFO, f"'auto' passes over solver {name!r}, which lacks {', '.join(missing)}")

    def takes(cls: type[Solver]) -> bool:
        return issubclass(cls, TensorSolver) and cls.takes_device(device_type) and cls.max_side >= side

    found = _first(names, takes)
    assert found is None or isinstance(found, TensorSolver)
    return found


def reference_solver(side: int) -> Solver | None:
    """The fastest installed exact solver that proves its masks by prices, or None: certificates then use numpy."""
    return _first(REFERENCES, lambda cls: cls.max_side >= side)


def _first(names: Iterable[str], takes: Callable[[type[Solver]], bool]) -> Solver | None:
    """The first of some built-in solvers that is installed, is one to take, and can be made here.

    One that is installed and yet of no use here is passed over, which is said once.
    """
    for name in names:
        if BUILTIN[name].lacking() or name in _broken:
            continue
        try:
            cls = _loaded(name)
            if takes(cls):
                return cls()
        except SolverUnavailableError as error:
            _say_once(logging.WARNING, f"'auto' passes over a solver: {error}")
    return None


def _loaded(name: str) -> type[Solver]:
    """The class behind a built-in solver's name; a broken library is not loaded anew for each weight."""
    _tell_of_compiling(name)
    try:
        return solver_class(name)
    except SolverUnavailableError:
        _broken.add(name)
        raise


@cache
def _say_once(level: int, text: str) -> None:
    """Log a text the first time in a process: every weight of a model asks anew."""
    log.log(level, "%s", text)


def _tell_of_compiling(name: str) -> None:
    """Say at once that a solver which is about to be used compiles, if it does: its library takes a while to load."""
    if name in BUILTIN and "numba" in BUILTIN[name].requires and not BUILTIN[name].lacking():
        importlib.import_module("tmask_solvers.shared.kernel_cache").tell_if_empty()


def solver_class(name: str) -> type[Solver]:
    """The class behind a name; imports its library.

    Raises:
        UnknownSolverError, SolverUnavailableError, InvalidProblemError: see `get_solver`.
    """
    if name == "auto":
        raise InvalidProblemError("'auto' stands for a solver that depends on the pattern; name one here")
    if name in _registered:
        return _registered[name]
    if name in BUILTIN:
        return _builtin_class(name, BUILTIN[name])
    found = _entry_points()
    if name not in found:
        names = ["auto", *BUILTIN, *_registered, *found]
        close = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise UnknownSolverError(f"unknown solver {name!r}; {meant}there are: {', '.join(names)}")
    return foreign_class(found[name])


def _builtin_class(name: str, entry: Entry) -> type[Solver]:
    # Looked for first: an ImportError from deep inside the module could not name the extra that is missing.
    if missing := entry.lacking():
        raise SolverUnavailableError(
            f"solver {name!r} needs {', '.join(missing)}, not installed here; run: {entry.install()}"
        )
    module, _, attribute = entry.target.partition(":")
    try:
        cls: type[Solver] = getattr(importlib.import_module(f"tmask_solvers.{module}"), attribute)
    except ANY_FAULT as error:  # a library that is there, but broken
        raise SolverUnavailableError(f"solver {name!r}: its library cannot be loaded: {error}") from error
    return cls


def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # a third of the import time of tmask, and rarely needed

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name not in BUILTIN}
