"""The way of a weight through the CPU: region by region, in place where the solver can, else as blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tmask.blocks.arrays import like, to_numpy, to_scores, to_values
from tmask.blocks.tiling import Region, Tiling
from tmask.solving.in_place import solve_in_place
from tmask.solving.matrices import MatrixSolver
from tmask.solving.region_answer import RegionAnswer
from tmask.solving.region_blocks import solve_blocks
from tmask.solving.registry import auto_solver
from tmask.solving.request import Request
from tmask.solving.solver import Solver


def solve_on_host(request: Request) -> tuple[Any, list[RegionAnswer]]:
    """The mask, of the weight's kind and on its device, and what is known of each region.

    Raises:
        InvalidProblemError, SolverUnavailableError, SolverFailedError: as `tmask.solve`.
    """
    pattern = request.pattern
    # What solves matrices in place also checks them as it goes; for others the check comes first.
    in_place = request.score is None and isinstance(request.solver or auto_solver(pattern.m), MatrixSolver)
    values = to_values(request.weight, "weight") if in_place else to_scores(request.weight, request.score)
    if request.zeroes_scores:
        values = np.where(to_numpy(request.weight, "weight") == 0, 0, values)
    tiling = Tiling(values.shape, pattern, request.groups, request.layout, request.at_most)
    mask = np.empty(values.shape, np.bool_)  # every entry is in one region, which writes it
    matrices, masks = tiling.to_matrices(values), tiling.to_matrices(mask)
    request = request.counting(tiling.num_blocks)
    answers = []
    for region in tiling.regions():
        solver = _choose(request.solver, region)
        # Keeping everything, n = m, takes no solver: the blocks' way answers that itself.
        if region.full and pattern.n < pattern.m and isinstance(solver, MatrixSolver):
            answers.append(solve_in_place(solver, region, matrices, masks, request))
        else:
            answers.append(solve_blocks(solver, region, matrices, masks, request))
    # In place, sums are the only look at whether entries are finite, and come last.
    if not np.isfinite(sum(answer.worth.total for answer in answers)):
        raise request.unusable()
    return like(mask, request.weight), answers


def _choose(solver: Solver | None, region: Region) -> Solver:
    """The solver for a region: the given one if it takes blocks of that side, else what "auto" takes."""
    if solver is not None and (region.full or solver.max_side >= region.side):
        return solver
    return auto_solver(region.side)
