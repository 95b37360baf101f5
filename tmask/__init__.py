"""Transposable N:M sparsity masks, proven optimal.

`solve` finds a mask, `certify` judges one from anywhere, `check_mask` refuses a wrong one, `compare` runs several
solvers on the same weights, `plot` draws what came out, `read_masks` reads a mask file. Solvers are
interchangeable: `available_solvers`, `get_solver`, `register_solver`. Importing tmask imports numpy alone.
"""

from tmask.blocks.pattern import Pattern
from tmask.errors import (
    FileFormatError,
    InvalidMaskError,
    InvalidProblemError,
    KernelError,
    OutputError,
    RanksDifferError,
    SolverFailedError,
    SolverUnavailableError,
    TmaskError,
    UnknownSolverError,
)
from tmask.files.masks import MaskRecord, read_masks
from tmask.front.comparing import Comparison, compare
from tmask.front.plotting import plot
from tmask.judging.answers import Answer
from tmask.judging.solution import Certificate, Solution, Status
from tmask.judging.worth import Worth
from tmask.sharding.solve_file import solve_file
from tmask.solving.api import certify, check_mask, solve
from tmask.solving.registry import available_solvers, get_solver, register_solver
from tmask.solving.solver import Solver
from tmask.solving.tensor_solver import TensorSolver
from tmask.version import __version__ as __version__

__all__ = [
    "Answer",
    "Certificate",
    "Comparison",
    "FileFormatError",
    "InvalidMaskError",
    "InvalidProblemError",
    "KernelError",
    "MaskRecord",
    "OutputError",
    "Pattern",
    "RanksDifferError",
    "Solution",
    "Solver",
    "SolverFailedError",
    "SolverUnavailableError",
    "Status",
    "TensorSolver",
    "TmaskError",
    "UnknownSolverError",
    "Worth",
    "__version__",
    "available_solvers",
    "certify",
    "check_mask",
    "compare",
    "get_solver",
    "plot",
    "read_masks",
    "register_solver",
    "solve",
    "solve_file",
]
