"""The three calls that most users need: solve, certify, check_mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tmask.blocks.arrays import to_mask, to_scores
from tmask.blocks.pattern import Pattern
from tmask.blocks.plain import is_tensor, plain_tensor
from tmask.blocks.tiling import Tiling
from tmask.errors import InvalidMaskError, InvalidProblemError
from tmask.judging.exact import judge_exactly
from tmask.judging.solution import Certificate, Solution
from tmask.judging.violation import first_violation
from tmask.showing.progress import Progress, reporting
from tmask.solving.devices import solve_on_device, stays_on_device
from tmask.solving.host import solve_on_host
from tmask.solving.reference import judge_blocks
from tmask.solving.region_answer import make_solution
from tmask.solving.registry import get_solver
from tmask.solving.request import Request
from tmask.solving.solver import Solver


def solve(
    weight: Any,
    pattern: Pattern | str,
    solver: Solver | str = "auto",
    *,
    score: Any = None,
    groups: int = 1,
    layout: str | None = None,
    certify: bool = True,
    progress: Progress = None,
    warm_start: Solution | bool = False,
    keep_zeros: bool = False,
    **settings: Any,
) -> Solution:
    """The transposable N:M mask that a solver finds for a weight, judged.

    In every m-by-m block, n entries per row and n per column are kept so that the kept score is largest. Blocks cut
    short at the edges keep at most n per line.

    Args:
        weight: numpy array or torch tensor, float16, bfloat16, float32 or float64; its axes as `layout` says. A tensor
            on a device stays there if its solver can (docs/how-to/gpu.md).
        pattern: n kept of every m, as `Pattern` or "2:4".
        solver: a name (see `available_solvers`), "auto" for the fastest exact one there, or a Solver. Tiles cut short
            are solved as larger blocks; where those are too large for it, "auto" takes them, and
            `Solution.solver` names both.
        score: importance to maximise in place of |weight|; same shape, >= 0, finite.
        groups: of a grouped convolution; no block crosses a group.
        layout: "matrix", (rows, cols); "stack", matrices one behind the other, (*stack, rows, cols), such as experts;
            "convolution", (Cout, Cin, *kernel), tiled m outputs by m inputs at each kernel position. It must be given
            where the shape leaves it open: for three axes, and where a kernel would be wider than its channels.
        certify: compute `dual_bound` and `optimality_gap`.
        progress: True for a bar; or called with blocks done, their number, and the pattern ("" at the end).
        warm_start: the solution of nearly the same weights, to start from its prices; or True, to keep prices for
            that in the first place, which costs 1 / m of the weight's memory. The mask is as good either way;
            `midpoint` is the faster with it the less the weights have changed, others ignore it.
        keep_zeros: entries of the weight that are 0 are never kept, so that lines keep at most n, and the mask is the
            best of those. Tiles are then solved as larger blocks, which takes several times as long.
        settings: of the solver, by name.
    Returns:
        A Solution; its mask is of the weight's kind, shape and device.
    Raises:
        InvalidProblemError, UnknownSolverError, SolverUnavailableError, SolverFailedError.
    Cost: the solver's, plus O(size) for checks and, with certify=True, at most that of the exact optimum.
    Source: [Hubara2021] for the problem; docs/explanation/certificates.md for the bound.
    """
    pattern = Pattern.parse(pattern)
    # Before the weight is looked at: what is wrong with the call itself should not take a pass over it to say.
    fixed = _solver(solver, settings)
    if fixed is not None:
        fixed.check_side(pattern.m)
    request = Request(weight, pattern, fixed, score, groups, layout, certify, None, warm_start, keep_zeros)
    way = solve_on_device if stays_on_device(weight, fixed, pattern.m) else solve_on_host
    with reporting(progress, "blocks of") as tell:
        mask, answers = way(replace(request, progress=tell))
    if keep_zeros:
        mask &= _nonzero(weight)  # they count 0 in every sum, so that nothing else changes
    return make_solution(mask, pattern, answers, layout)


def certify(
    weight: Any,
    mask: Any,
    pattern: Pattern | str,
    *,
    score: Any = None,
    groups: int = 1,
    layout: str | None = None,
    at_most: bool = False,
    exact: bool = False,
) -> Certificate:
    """Whether a mask from anywhere is feasible, and how far from the optimum it can be at most.

    Args:
        weight, pattern, score, groups, layout: as in `solve`.
        mask: bool, the weight's shape, True = kept.
        at_most: full blocks too may keep fewer than n in a line, as with `keep_zeros`; bounds are those of such masks.
        exact: decide each block in whole numbers of Python, for scores of any sizes beside one another. Without it, a
            block that spans more than 2^22 may stay unproven although its mask is optimal. Slow: about a millisecond a
            block of side 8, some hundredths of a second at 32.
    Raises:
        InvalidProblemError: unusable weight or score, a mask that is not bool or of another shape.
    """
    pattern = Pattern.parse(pattern)
    scores, kept = to_scores(weight, score), to_mask(mask)
    if kept.shape != scores.shape:
        raise InvalidProblemError(f"mask has shape {kept.shape}, but weight has shape {scores.shape}")
    tiling = Tiling(scores.shape, pattern, groups, layout, at_most)
    # Tiles cut short are judged as the larger blocks that stand for them, in which every line keeps n: duality is about
    # these.
    matrices, masks = tiling.to_matrices(scores), tiling.to_matrices(kept)
    judged = judge_exactly if exact else judge_blocks
    judgements = [
        judged(region.split(matrices), region.complete(region.split(masks), pattern.n), pattern.n)
        for region in tiling.regions()
    ]
    # A tile cut short is completed to n in every line if none of its own keeps more.
    violation = "" if all(j.regular.all() for j in judgements) else first_violation(kept, tiling)
    return Certificate(
        objective=float(sum(j.objective.sum() for j in judgements)),
        total=float(scores.sum(dtype=np.float64)),
        dual_bound=float(sum(j.bound.sum() for j in judgements)),
        feasible=not violation,
        violation=violation,
        # All blocks are judged, the bad ones too: a mask may break the pattern in one place alone.
        proven_blocks=int(sum(j.proven.sum() for j in judgements)),
        num_blocks=sum(len(j.proven) for j in judgements),
        pattern=pattern,
        layout=tiling.read_as,
    )


def check_mask(
    mask: Any, pattern: Pattern | str, *, groups: int = 1, layout: str | None = None, at_most: bool = False
) -> None:
    """Return if the mask is transposable N:M, else say where it is not.

    Every row and column of a full block must keep exactly n (with `at_most` at most n), of one cut short at an edge at
    most n.

    Args:
        groups, layout: as in `solve`.
    Raises:
        InvalidMaskError: names the first offending block, and its row or column.
        InvalidProblemError: not a bool array of two or more axes.
    """
    kept = to_mask(mask)
    if violation := first_violation(kept, Tiling(kept.shape, Pattern.parse(pattern), groups, layout, at_most)):
        raise InvalidMaskError(violation)


def _nonzero(weight: Any) -> Any:
    """Bool, of the weight's kind and on its device."""
    return (plain_tensor(weight, "weight") if is_tensor(weight) else np.asarray(weight)) != 0


def _solver(solver: Solver | str, settings: dict[str, Any]) -> Solver | None:
    """The solver to use for every block, or None for "auto"."""
    if isinstance(solver, Solver):
        # A setting that is ignored looks like one that makes no difference.
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
