"""The compiled checks, where their libraries have been loaded anyway; numpy's and torch's serve elsewhere.

They are not worth loading a library for, which takes longer than most checks; a solver that needs it has loaded it by
then.
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


def find_device_kernels() -> ModuleType | None:
    """`tmask_solvers.cuda_kernels.judging`, or None where no solver has launched kernels of its kind."""
    if "tmask_solvers.cuda_kernels.launch" not in sys.modules:
        return None
    return importlib.import_module("tmask_solvers.cuda_kernels.judging")
