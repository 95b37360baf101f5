"""A line of the registry's table: where a built-in solver lives, what it needs, and what of that is not here.

Nothing is imported to find out, neither the solver nor its library: `find_spec` looks for a module without running it,
so that listing all solvers costs milliseconds, and one with a broken library cannot hide the others.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from functools import cache

# What a solver for GPUs lacks on a machine without one.
DRIVER = "an NVIDIA driver"


@dataclass(frozen=True, slots=True)
class Entry:
    """One built-in solver.

    Args:
        target: "module:Class" below `tmask_solvers`; a text, since solvers import the core, which must not import them.
        requires: the modules that it imports.
        extra: of pyproject.toml, which installs them.
        gpu: whether it runs on NVIDIA GPUs alone.
    """

    target: str
    requires: tuple[str, ...] = ()
    extra: str = ""
    gpu: bool = False

    def lacking(self) -> tuple[str, ...]:
        """What it needs and does not find here: modules, or `DRIVER`."""
        missing = missing_modules(self.requires)
        return (*missing, DRIVER) if self.gpu and not _has_driver() else missing

    def install(self) -> str:
        """The command that brings what it needs, "" if it needs nothing."""
        where = ", on a machine with an NVIDIA GPU" if self.gpu else ""
        return f'pip install "tmask[{self.extra}]"{where}' if self.extra else ""


def missing_modules(requires: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the modules that are not installed."""
    return tuple(module for module in requires if not _is_installed(module))


_installed: set[str] = set()


def _is_installed(module: str) -> bool:
    # To look for a module is to look into every folder of the path: as long as a small solve. What was found once stays
    # there; what was not may be installed while a notebook goes on.
    if module not in _installed:
        try:
            if importlib.util.find_spec(module) is None:
                return False
        except (ImportError, ValueError):  # a part of a package that is not there; one not imported as usual
            return False
        _installed.add(module)
    return True


@cache
def _has_driver() -> bool:
    """Whether NVIDIA's driver is installed. It is not started: a process that has done so cannot be forked."""
    import ctypes

    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
