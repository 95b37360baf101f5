"""The three calls that most users need: solve, certify, check_mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tmask.blocks.arrays import Scores, like, magnitudes, to_mask, to_scores, to_values, unusable
from tmask.blocks.parts import RowPrices, Values
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Mask, Region, Tiling
from tmask.errors import InvalidMaskError, InvalidProblemError
from tmask.judging.certificate import tally
from tmask.judging.solution import Certificate, Solution, status_of
from tmask.judging.worth import Worth
from tmask.solving.devices import solve_on_device, stays_on_device
from tmask.solving.matrices import MatrixSolver, make_row_prices, solve_matrices
from tmask.solving.reference import judge_blocks
from tmask.solving.registry import auto_solver, get_solver
from tmask.solving.solver import Solver


def solve(
    weight: Any,
    pattern: Pattern | str,
    solver: Solver | str = "auto",
    *,
    score: Any = None,
    groups: int = 1,
    certify: bool = True,
    progress: Callable[[int], object] | None = None,
    warm_start: Solution | bool = False,
    **settings: Any,
) -> Solution:
    """The transposable N:M mask that a solver finds for a weight, judged.

    In every m-by-m block, n entries per row and n per column are kept so that the kept score is largest. Blocks cut
    short at the edges keep at most n per line.

    Args:
        weight: numpy array or torch tensor, float16, bfloat16, float32 or float64; (rows, cols), or (Cout, Cin,
            *kernel), which is tiled m outputs by m inputs at each kernel position. A tensor on a device stays there if
            its solver can (docs/gpu.md).
        pattern: n kept of every m, as `Pattern` or "2:4".
        solver: a name (see `available_solvers`), "auto" for the fastest exact one there, or a Solver. Tiles cut short
            are solved as larger blocks; where those are too large for it, "auto" takes them, and
            `Solution.solver` names both.
        score: importance to maximise in place of |weight|; same shape, >= 0, finite.
        groups: of a grouped convolution; no block crosses a group.
        certify: compute `dual_bound` and `optimality_gap`.
        progress: called with the number of blocks done since the last call.
        warm_start: the solution of nearly the same weights, to start from its prices; or True, to keep prices for
            that in the first place, which costs 1 / m of the weight's memory. The mask is as good either way;
            `midpoint` is the faster with it the less the weights have changed, others ignore it.
        settings: of the solver, by name.
    Returns:
        A Solution; its mask is of the weight's kind, shape and device.
    Raises:
        InvalidProblemError, UnknownSolverError, SolverUnavailableError, SolverFailedError.
    Cost: the solver's, plus O(size) for checks and, with certify=True, at most that of the exact optimum.
    Source: [Hubara2021] for the problem; docs/certificates.md for the bound.
    """
    pattern = Pattern.parse(pattern)
    fixed = _solver(solver, settings)
    if fixed is not None:
        fixed.check_side(pattern.m)
    if stays_on_device(weight, fixed, pattern.m):
        options = {"score": score, "groups": groups, "certify": certify, "progress": progress}
        return solve_on_device(weight, pattern, fixed, **options)
    # What solves matrices in place also checks them as it goes; for others the check comes first.
    in_place = score is None and isinstance(fixed or auto_solver(pattern.m), MatrixSolver)
    values = to_values(weight, "weight") if in_place else to_scores(weight, score)
    tiling = Tiling(values.shape, pattern, groups)
    mask = np.empty(values.shape, np.bool_)
    matrices, masks = tiling.to_matrices(values), tiling.to_matrices(mask)
    answers = []
    for region in tiling.regions():
        used = fixed if fixed and (region.full or fixed.max_side >= region.side) else auto_solver(region.side)
        if region.full and pattern.n < pattern.m and isinstance(used, MatrixSolver):
            weights, kept = region.cut(matrices), region.cut(masks)
            answers.append(_solve_in_place(used, weights, kept, pattern, progress, warm_start))
            continue
        blocks = magnitudes(region.split(matrices))
        with np.errstate(over="ignore"):
            entries = float(blocks.sum(dtype=np.float64))
        if not np.isfinite(entries):
            raise unusable(weight, score)
        answers.append(_solve_blocks(used, region, blocks, entries, masks, pattern.n, certify, progress))
    worth = Worth.sum(answer.worth for answer in answers)
    if not np.isfinite(worth.total):
        raise unusable(weight, score)
    return Solution(
        mask=like(mask, weight),
        objective=worth.objective,
        dual_bound=worth.dual_bound if certify else None,
        total=worth.total,
        status=status_of(
            worth if certify else Worth(worth.objective, worth.total, None),
            underfilled=any(answer.underfilled for answer in answers),
            limit_reached=any(answer.limit_reached for answer in answers),
        ),
        seconds=sum(answer.seconds for answer in answers),
        solver="+".join(dict.fromkeys(answer.solver for answer in answers)),
        pattern=pattern,
        row_prices=next((answer.row_prices for answer in answers if answer.row_prices is not None), None),
    )


@dataclass(frozen=True, slots=True)
class _RegionAnswer:
    """What is known of the mask of a region."""

    worth: Worth
    seconds: float
    solver: str
    underfilled: bool = False
    limit_reached: bool = False
    row_prices: RowPrices | None = None


def _solve_in_place(
    solver: MatrixSolver,
    weights: Values,
    masks: Mask,
    pattern: Pattern,
    progress: Callable[[int], object] | None,
    warm_start: Solution | bool,
) -> _RegionAnswer:
    """Write the masks of full tiles, matrices (K, G, h, w); no block is copied."""
    row_prices = _row_prices(solver, weights, pattern, warm_start)
    answer = solve_matrices(solver, weights, pattern.n, pattern.m, masks, progress, row_prices)
    return _RegionAnswer(
        worth=answer.worth,
        seconds=answer.seconds,
        solver=solver.name,
        row_prices=row_prices,
    )


def _row_prices(
    solver: MatrixSolver, weights: Values, pattern: Pattern, warm_start: Solution | bool
) -> RowPrices | None:
    """Where to start from: a copy of an earlier solution's prices, or zeros; None where that is of no use."""
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
    row_prices[...] = earlier
    return row_prices


def _solve_blocks(
    solver: Solver,
    region: Region,
    blocks: Scores,
    total: float,
    masks: Mask,
    n: int,
    certify: bool,
    progress: Callable[[int], object] | None,
) -> _RegionAnswer:
    """Write the mask of a region, given in blocks and their sum."""
    answer = solver.solve(blocks, n, progress)
    region.join(answer.masks, masks)
    judgement = judge_blocks(blocks, answer.masks, n, answer.prices) if certify else tally(blocks, answer.masks, n)
    return _RegionAnswer(
        worth=judgement.worth(total),
        seconds=answer.seconds,
        solver=solver.name,
        underfilled=region.full and not judgement.regular.all(),
        limit_reached=answer.limit_reached,
    )


def certify(weight: Any, mask: Any, pattern: Pattern | str, *, score: Any = None, groups: int = 1) -> Certificate:
    """Whether a mask from anywhere is feasible, and how far from the optimum it can be at most.

    Args:
        weight, pattern, score, groups: as in `solve`.
        mask: bool, the weight's shape, True = kept.
    Raises:
        InvalidProblemError: unusable weight or score, a mask that is not bool or of another shape.
    """
    pattern = Pattern.parse(pattern)
    scores, kept = to_scores(weight, score), to_mask(mask)
    if kept.shape != scores.shape:
        raise InvalidProblemError(f"mask has shape {kept.shape}, but weight has shape {scores.shape}")
    tiling = Tiling(scores.shape, pattern, groups)
    violation = _violation(kept, tiling)
    matrices, masks = tiling.to_matrices(scores), tiling.to_matrices(kept)
    judgements = [
        judge_blocks(region.split(matrices), region.complete(region.split(masks), pattern.n), pattern.n)
        for region in tiling.regions()
    ]
    return Certificate(
        feasible=not violation,
        violation=violation,
        objective=float(sum(j.objective.sum() for j in judgements)),
        dual_bound=float(sum(j.bound.sum() for j in judgements)),
        total=float(scores.sum(dtype=np.float64)),
        proven_blocks=int(sum(j.proven.sum() for j in judgements)),
        num_blocks=sum(len(j.proven) for j in judgements),
        pattern=pattern,
    )


def check_mask(mask: Any, pattern: Pattern | str, *, groups: int = 1) -> None:
    """Return if the mask is transposable N:M, else say where it is not.

    Every row and column of a full block must keep exactly n, of one cut short at an edge at most n.

    Raises:
        InvalidMaskError: names the first offending block, and its row or column.
        InvalidProblemError: not a bool array of two or more axes.
    """
    kept = to_mask(mask)
    if violation := _violation(kept, Tiling(kept.shape, Pattern.parse(pattern), groups)):
        raise InvalidMaskError(violation)


def _solver(solver: Solver | str, settings: dict[str, Any]) -> Solver | None:
    """The solver to use for every block, or None for "auto"."""
    if isinstance(solver, Solver):
        if settings:
            raise InvalidProblemError(
                f"settings {sorted(settings)} would be ignored: the solver is given as an object, with its own"
            )
        return solver
    if solver != "auto":
        return get_solver(solver, **settings)
    if settings:
        raise InvalidProblemError(f"settings {sorted(settings)} belong to a solver; name it instead of 'auto'")
    return None


def _violation(kept: Mask, tiling: Tiling) -> str:
    """The first break of the pattern in words, or ""."""
    n = tiling.pattern.n
    for region, blocks in zip(tiling.regions(), tiling.split(kept), strict=True):
        tiles = blocks[:, : region.height, : region.width]
        for axis, line in ((2, "row"), (1, "column")):
            counts = tiles.sum(axis, dtype=np.int64)  # (B, lines)
            bad = counts != n if region.full else counts > n
            if bad.any():
                block, index = (int(i) for i in np.argwhere(bad)[0])
                rule = "exactly" if region.full else "at most"
                return (
                    f"not a transposable {tiling.pattern} mask: the block at {tiling.locate(region, block)} keeps "
                    f"{counts[block, index]} in its {line} {index}, {rule} {n} allowed "
                    f"({int(bad.any(1).sum())} of {len(bad)} such blocks break it)"
                )
    return ""
