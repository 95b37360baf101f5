"""Integer programming by PuLP: one or more blocks a model, CBC or HiGHS behind it, or any solver that PuLP knows.

A binary variable per entry, n set in every row and column. The constraint matrix is totally unimodular, so the root
relaxation is integral already and no branching follows [Schrijver2003, chapter 21]; most of the time goes into
building models in Python.

The solvers stop at absolute tolerances around 1e-7 an entry, so each block's scores are scaled by a power of two to
between 2^19 and 2^20: that is 2e-13 of the block's largest score. CBC reads its models from text with 13 significant
digits, which may move each score by 5e-13 of itself. A mask that falls short of the optimum by up to n * m * 2e-12 of
the largest score may therefore be taken for it. Source: [Mitchell2011], [Forrest2005], [Huangfu2018].
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pulp

from tmask.blocks.arrays import Masks, Scores
from tmask.errors import InvalidProblemError, SolverFailedError, SolverUnavailableError
from tmask.judging.answers import Answer
from tmask.solving.solver import Solver
from tmask_solvers.shared.settings import check_count, check_time_limit

_SCALE_BITS = 20


@dataclass(frozen=True)
class _PulpMilp(Solver):
    """Exact, up to the tolerances that the module states.

    Args:
        backend: PuLP's name of the solver to use (`pulp.listSolvers()`).
        blocks_per_model: blocks solved in one model, which spreads the cost of a call.
        time_limit: seconds a model, or None for none; the best masks so far are returned when it is reached.
    """

    backend: str
    blocks_per_model: int
    time_limit: float | None = None

    exact: ClassVar[bool] = True
    chunk: ClassVar[int] = 256

    def __post_init__(self) -> None:
        check_time_limit(self.time_limit)
        check_count("blocks_per_model", self.blocks_per_model)
        if self.backend not in pulp.listSolvers():
            raise InvalidProblemError(
                f"PuLP knows no solver {self.backend!r}; it knows {', '.join(sorted(set(pulp.listSolvers())))}"
            )

    def _solve(self, scores: Scores, n: int) -> Answer:
        solver = self._make_solver()
        largest = scores.max((1, 2), keepdims=True).astype(np.float64)
        scaled = np.ldexp(scores.astype(np.float64), _SCALE_BITS - np.frexp(largest)[1])
        masks = np.empty(scores.shape, np.bool_)
        limit_reached = False
        for start in range(0, len(scaled), self.blocks_per_model):
            part = slice(start, start + self.blocks_per_model)
            masks[part], proven = self._solve_model(solver, scaled[part], n, start)
            limit_reached |= not proven
        return Answer(masks, limit_reached=limit_reached)

    def _make_solver(self) -> Any:
        settings: dict[str, Any] = {"msg": False, "timeLimit": self.time_limit}
        if self.backend in ("HiGHS", "COIN_CMD"):
            # Their own relative gaps stop at a mask that is nearly the best.
            settings |= {"gapRel": 0, "threads": 1}
        if self.backend == "COIN_CMD" and importlib.util.find_spec("cbcbox"):
            import cbcbox  # the binary that pip installs, which is on no PATH unless its environment is activated

            settings["path"] = cbcbox.cbc_bin_path()
        solver = pulp.getSolver(self.backend, **settings)
        if not solver.available():
            raise SolverUnavailableError(
                f"solver {self.name!r}: PuLP finds no {self.backend} here; it finds "
                f"{', '.join(pulp.listSolvers(onlyAvailable=True)) or 'none'}"
            )
        return solver

    def _solve_model(self, solver: Any, values: npt.NDArray[np.float64], n: int, first: int) -> tuple[Masks, bool]:
        count, side = values.shape[:2]
        problem = pulp.LpProblem("blocks", pulp.LpMaximize)
        names = (f"x_{b}_{i}_{j}" for b in range(count) for i in range(side) for j in range(side))
        flat = [problem.add_variable(name, cat="Binary") for name in names]
        kept = np.array(flat, dtype=object).reshape(values.shape)
        problem.setObjective(pulp.LpAffineExpression(zip(flat, values.ravel().tolist(), strict=True)))
        for block in kept:
            for line in (*block, *block.T):
                problem += pulp.lpSum(line) == n
        where = f"solver {self.name!r}, blocks {first} to {first + count - 1}"
        try:
            problem.solve(solver)
        except pulp.PulpSolverError as error:
            raise SolverFailedError(f"{where}: {error}") from error
        if problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
            # Solvers work on real numbers: 0.9999999 is a 1. A variable that none of them reported has no value.
            found = np.array([round(variable.value() or 0) for variable in flat]) == 1
            return found.reshape(values.shape), problem.sol_status == pulp.LpSolutionOptimal
        if self.time_limit is not None and problem.sol_status == pulp.LpSolutionNoSolutionFound:
            # Stopped before it had any mask: a valid one all the same, said to be limited.
            any_regular = (np.arange(side) - np.arange(side)[:, None]) % side < n
            return np.broadcast_to(any_regular, values.shape), False
        raise SolverFailedError(f"{where}: {self.backend} says {pulp.LpStatus[problem.status]!r}")


@dataclass(frozen=True)
class PulpCbc(_PulpMilp):
    """Exact, up to the tolerances that the module states; CBC unless `backend` says otherwise.

    Args:
        backend: PuLP's name of the solver to use (`pulp.listSolvers()`).
        blocks_per_model: blocks solved in one model, which spreads the cost of a call.
        time_limit: seconds a model, or None for none; the best masks so far are returned when it is reached.
    """

    backend: str = "COIN_CMD"
    blocks_per_model: int = 32

    name: ClassVar[str] = "pulp-cbc"
    requires: ClassVar[tuple[str, ...]] = ("pulp", "cbcbox")


@dataclass(frozen=True)
class PulpHighs(_PulpMilp):
    """Exact, up to the tolerances that the module states; HiGHS, in process, unless `backend` says otherwise.

    Args:
        backend: PuLP's name of the solver to use (`pulp.listSolvers()`).
        blocks_per_model: blocks solved in one model, which spreads the cost of a call.
        time_limit: seconds a model, or None for none; the best masks so far are returned when it is reached.
    """

    backend: str = "HiGHS"
    blocks_per_model: int = 8

    name: ClassVar[str] = "pulp-highs"
    requires: ClassVar[tuple[str, ...]] = ("pulp", "highspy")
