"""Which solvers exist, which can be used here, and how to get one by name.

One more built-in solver is one file and one line in `BUILTIN` (and an extra in pyproject.toml for its library).
Other packages add theirs through the entry-point group `tmask.solvers`, whose names are solver names and whose
values are Solver classes.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from tmask.errors import InvalidProblemError, SolverUnavailableError, TmaskError, UnknownSolverError
from tmask.solving.solver import Solver
from tmask.solving.tensor_solver import TensorSolver

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "tmask.solvers"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a built-in solver lives, the modules that it imports, and the extra that installs them.

    Args:
        gpu: whether it runs on NVIDIA GPUs alone.
    """

    target: str
    requires: tuple[str, ...] = ()
    extra: str = ""
    gpu: bool = False


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

# What "auto" takes: the first of these that is installed and takes the block side. All are exact.
AUTO = ("midpoint", "augmenting-paths", "ortools-flow", "pulp-highs", "networkx-simplex", "patterns")

# What "auto" takes for tensors on other devices than the CPU, likewise. All are TensorSolvers, and exact.
DEVICE_AUTO = ("midpoint-torch",)

# What certificates take for bounds where it is installed.
REFERENCES = ("midpoint", "augmenting-paths")

# What a solver for GPUs lacks on a machine without one.
DRIVER = "an NVIDIA driver"

# What the code of somebody else may raise. Not KeyboardInterrupt, which is the user's own.
_ANY_FAULT = (Exception, SystemExit)

_registered: dict[str, type[Solver]] = {}
_broken: set[str] = set()  # built-in solvers whose library is installed and does not load

log = logging.getLogger("tmask")


@dataclass(frozen=True, slots=True)
class SolverInfo:
    """A solver as `available_solvers` lists it, without importing its library.

    Args:
        missing: modules that it needs and that are not installed, or `DRIVER`; empty if it can be used.
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
    infos = [SolverInfo(name, _lacking(entry), _install(entry)) for name, entry in BUILTIN.items()]
    infos += [SolverInfo(name, _missing(cls.requires), "") for name, cls in _registered.items()]
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
    except _ANY_FAULT as error:  # its own checks, or what they need of the machine
        if needed := [one for one in _required(cls) if one not in settings]:
            raise InvalidProblemError(f"solver {name!r} needs the settings {', '.join(needed)}") from error
        raise SolverUnavailableError(f"solver {name!r} cannot be made: {_text(error)}") from error


def auto_solver(side: int) -> Solver:
    """The first exact solver of `AUTO` that is installed and takes blocks of this side.

    Raises:
        SolverUnavailableError: none is.
    """
    for name in AUTO:
        cls = _loadable(name)
        if cls is not None and cls.max_side >= side:
            return cls()
    raise SolverUnavailableError(
        f"no exact solver for blocks of side {side} is installed here; {_install(BUILTIN[AUTO[0]])} brings the fastest"
    )


def device_solver(device_type: str, side: int) -> TensorSolver | None:
    """The first of `DEVICE_AUTO` that is installed and takes this type of torch device and side; None if none does."""
    for name in DEVICE_AUTO:
        cls = _loadable(name)
        if cls is not None and issubclass(cls, TensorSolver) and cls.takes_device(device_type) and cls.max_side >= side:
            return cls()
    return None


def reference_solver(side: int) -> Solver | None:
    """The fastest installed exact solver that proves its masks by prices, or None: certificates then use numpy."""
    for name in REFERENCES:
        cls = _loadable(name)
        if cls is not None and cls.max_side >= side:
            return cls()
    return None


def _loadable(name: str) -> type[Solver] | None:
    """The class of a built-in solver; None if its library is missing, or there and broken, which is said once."""
    if _lacking(BUILTIN[name]) or name in _broken:
        return None
    try:
        return solver_class(name)
    except SolverUnavailableError as error:
        _broken.add(name)
        log.warning("%s; going on without it", error)
        return None


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
        entry = BUILTIN[name]
        if missing := _lacking(entry):
            raise SolverUnavailableError(
                f"solver {name!r} needs {', '.join(missing)}, not installed here; run: {_install(entry)}"
            )
        module, _, attribute = entry.target.partition(":")
        try:
            cls: type[Solver] = getattr(importlib.import_module(f"tmask_solvers.{module}"), attribute)
        except _ANY_FAULT as error:  # a library that is there, but broken
            raise SolverUnavailableError(f"solver {name!r}: its library cannot be loaded: {error}") from error
        return cls
    found = _entry_points()
    if name not in found:
        names = ", ".join([*BUILTIN, *_registered, *found])
        raise UnknownSolverError(f"unknown solver {name!r}; there are: auto, {names}")
    return _load(found[name])


def _load(point: EntryPoint) -> type[Solver]:
    """The class of another package. What its file raises when it is imported is its author's to mend."""
    what = f"solver {point.name!r} ({point.value})"
    try:
        loaded: object = point.load()
    except _ANY_FAULT as error:
        raise SolverUnavailableError(f"{what} cannot be loaded: {_text(error)}") from error
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


def _required(cls: type[Solver]) -> list[str]:
    """Settings without a default."""
    return [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and field.init
    ]


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # a third of the import time of tmask, and rarely needed

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name not in BUILTIN}


def _lacking(entry: Entry) -> tuple[str, ...]:
    missing = _missing(entry.requires)
    return (*missing, DRIVER) if entry.gpu and not _has_driver() else missing


def _missing(requires: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(module for module in requires if not _is_installed(module))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a part of a package that is not there; a module that was not imported as usual
        return False


@cache
def _has_driver() -> bool:
    """Whether NVIDIA's driver is installed. It is not started: a process that has done so cannot be forked."""
    import ctypes

    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _install(entry: Entry) -> str:
    where = ", on a machine with an NVIDIA GPU" if entry.gpu else ""
    return f'pip install "tmask[{entry.extra}]"{where}' if entry.extra else ""
