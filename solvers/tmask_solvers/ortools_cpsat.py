"""CP-SAT of OR-Tools, one block a model: a Boolean per entry, n true in every row and column.

A general constraint solver for a problem with structure; it is here as an independent oracle, and for users who want to
add constraints of their own. Objective coefficients are integers (`shared.integer`); a circulant mask is given as a
hint, so that there is an answer whenever a limit stops the search.

Source: [Perron2023]; `ortools.sat.python.cp_model`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from ortools.sat.python import cp_model

from tmask.blocks.arrays import Masks, Scores
from tmask.errors import SolverFailedError
from tmask.judging.answers import Answer
from tmask.solving.solver import Solver
from tmask_solvers.shared.integer import integer_scores
from tmask_solvers.shared.settings import check_count, check_time_limit


@dataclass(frozen=True)
class OrtoolsCpsat(Solver):
    """Exact, up to the rounding that `shared.integer` states, unless the time limit stops it.

    Args:
        time_limit: seconds a block, or None for none; the best mask so far is returned when it is reached.
        workers: threads of the search.
    """

    time_limit: float | None = None
    workers: int = 1

    name: ClassVar[str] = "ortools-cpsat"
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("ortools",)
    chunk: ClassVar[int] = 16

    def __post_init__(self) -> None:
        check_time_limit(self.time_limit)
        check_count("workers", self.workers)

    def _solve(self, scores: Scores, n: int) -> Answer:
        masks = np.empty(scores.shape, np.bool_)
        limit_reached = False
        for index, values in enumerate(integer_scores(scores)):
            masks[index], proven = self._solve_block(values, n, index)
            limit_reached |= not proven
        return Answer(masks, limit_reached=limit_reached)

    def _solve_block(self, values: npt.NDArray[np.int64], n: int, index: int) -> tuple[Masks, bool]:
        side = len(values)
        hint = (np.arange(side) - np.arange(side)[:, None]) % side < n
        model = cp_model.CpModel()
        kept = np.array([[model.new_bool_var("") for _ in range(side)] for _ in range(side)])
        for line in (*kept, *kept.T):
            model.add(cp_model.LinearExpr.sum(list(line)) == n)
        model.maximize(cp_model.LinearExpr.weighted_sum(list(kept.ravel()), values.ravel().tolist()))
        for variable, value in zip(kept.ravel(), hint.ravel(), strict=True):
            model.add_hint(variable, bool(value))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = self.workers
        # Gaps are tested in float64, which cannot tell objectives above 2^53 apart: with limits of 0 there is no such
        # test, and the search ends when the integer bounds meet.
        solver.parameters.relative_gap_limit = 0
        solver.parameters.absolute_gap_limit = 0
        if self.time_limit is not None:
            solver.parameters.max_time_in_seconds = self.time_limit
        solver.parameters.catch_sigint_signal = False  # it would stop this block's search, and tell nobody
        status = _search(solver, model)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            found = np.array(solver.boolean_values(kept.ravel()), np.bool_).reshape(side, side)
            return found, status == cp_model.OPTIMAL
        if status == cp_model.UNKNOWN:  # stopped before it had looked at the hint
            return hint, False
        raise SolverFailedError(f"solver {self.name!r}, block {index}: {solver.status_name(status)}")


def _search(solver: cp_model.CpSolver, model: cp_model.CpModel) -> Any:
    """Its status. It runs in a thread: what waits here hears of Ctrl-C at once, which native code does not."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(solver.solve, model)
        try:
            return running.result()
        finally:
            while not running.done():
                solver.stop_search()  # does nothing before the search has begun, hence more than once
                wait([running], timeout=0.01)
