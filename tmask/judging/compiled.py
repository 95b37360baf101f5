"""The compiled checks, where numba has been loaded anyway; numpy's serve elsewhere.

They are not worth loading numba for, which takes longer than most checks; a solver that needs it has loaded it by then.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


def find_compiled_kernels() -> ModuleType | None:
    """`tmask_solvers.cpu_kernels.judging`, or None where numba is not loaded."""
    if "numba" not in sys.modules:
        return None
    return importlib.import_module("tmask_solvers.cpu_kernels.judging")
