"""One way through a region: its blocks are copied, solved as a stack, and judged afterwards. Any solver can go it."""

from __future__ import annotations

import numpy as np

from tmask.blocks.arrays import magnitudes
from tmask.blocks.parts import Values
from tmask.blocks.tiling import Mask, Region
from tmask.judging.certificate import tally
from tmask.solving.reference import judge_blocks
from tmask.solving.region_answer import RegionAnswer
from tmask.solving.request import Request
from tmask.solving.solver import Solver


def solve_blocks(solver: Solver, region: Region, matrices: Values, masks: Mask, request: Request) -> RegionAnswer:
    """Write the mask of a region of matrices (K, G, rows, cols).

    Raises:
        InvalidProblemError: entries without a finite sum.
        SolverFailedError: see `Solver.solve`.
    """
    n = request.pattern.n
    blocks = magnitudes(region.split(matrices))  # a copy, m by m entries together, as solvers of blocks read them
    with np.errstate(over="ignore"):
        total = float(blocks.sum(dtype=np.float64))
    if not np.isfinite(total):  # a solver must not see such entries
        raise request.unusable()
    answer = solver.solve(blocks, n, request.blocks_done)
    region.join(answer.masks, masks)
    judged = judge_blocks(blocks, answer.masks, n, answer.prices) if request.certify else tally(blocks, answer.masks, n)
    return RegionAnswer(
        worth=judged.worth(total),
        seconds=answer.seconds,
        solver=solver.name,
        # A tile cut short may keep fewer; it is no worse for that.
        underfilled=region.full and not judged.regular.all(),
        limit_reached=answer.limit_reached,
    )
