"""One way through a region of full tiles: solved and checked where they lie, no block copied. For a MatrixSolver."""

from __future__ import annotations

import time

from tmask.blocks.parts import RowPrices, Values
from tmask.blocks.tiling import Mask, Region
from tmask.errors import InvalidProblemError
from tmask.judging.worth import Worth
from tmask.solving.matrices import MatrixSolver, make_row_prices, solve_matrices
from tmask.solving.region_answer import RegionAnswer
from tmask.solving.request import Request


def solve_in_place(
    solver: MatrixSolver, region: Region, matrices: Values, masks: Mask, request: Request
) -> RegionAnswer:
    """Write the mask of a region of matrices (K, G, rows, cols).

    Raises:
        InvalidProblemError: a warm start from a solution that does not fit.
        SolverFailedError: see `solve_matrices`.
    """
    weights, pattern = region.cut(matrices), request.pattern  # a view, so masks are written where they belong
    row_prices = _row_prices(solver, weights, request)
    begin = time.perf_counter()
    worth = solve_matrices(solver, weights, pattern.n, pattern.m, region.cut(masks), request.blocks_done, row_prices)
    seconds = time.perf_counter() - begin
    if not request.certify:
        worth = Worth(worth.objective, worth.total, None)  # the bound came for nothing; who wants none gets none
    return RegionAnswer(worth, seconds, solver.name, row_prices=row_prices)


def _row_prices(solver: MatrixSolver, weights: Values, request: Request) -> RowPrices | None:
    """Where to start from: a copy of an earlier solution's prices, or zeros; None where that is of no use."""
    pattern, warm_start = request.pattern, request.warm_start
    if warm_start is False or not solver.has_warm_start(pattern.m, weights.dtype):
        return None
    row_prices = make_row_prices(weights, pattern.m)
    if warm_start is True:
        return row_prices
    earlier = warm_start.row_prices
    if warm_start.pattern != pattern or earlier is None or earlier.shape != row_prices.shape:
        what = "without prices" if earlier is None else f"of {warm_start.pattern} on {tuple(warm_start.mask.shape)}"
        raise InvalidProblemError(
            f"warm_start is a solution {what}; give one of the same pattern and shape that was made with warm_start"
        )
    row_prices[...] = earlier  # a copy, which is overwritten, while the earlier solution stays as it is
    return row_prices
