"""`tmask.solve` for a tensor that stays where it lies: solved, summed and judged on its device.

The steps are those of `tmask.solve`. All regions are solved and looked at first, and the sums of all are fetched
together: the one time that the core waits for the device. Only where a bound takes more does it wait again: for blocks
that their prices do not prove at first sight (`device_masks`), and for solvers that prove nothing, whose masks are
compared with the optimum.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tmask.blocks.arrays import checked_tensor, is_tensor, to_numpy, unusable
from tmask.blocks.pattern import Pattern
from tmask.blocks.tensor_blocks import cut_region, cut_tiles, join_padded, padded_blocks, to_matrices
from tmask.blocks.tiling import Region, Tiling
from tmask.errors import InvalidProblemError
from tmask.judging.solution import Solution, status_of
from tmask.judging.worth import Worth
from tmask.solving.device_masks import DeviceMasks, Sums
from tmask.solving.registry import device_solver
from tmask.solving.solver import Solver
from tmask.solving.tensor_solver import WITHOUT_FLOAT64, TensorProof, TensorSolver

if TYPE_CHECKING:
    from torch import Tensor


def stays_on_device(weight: Any, solver: Solver | None, side: int) -> bool:
    """Whether `solve_on_device` is the way for this weight and solver (None for "auto")."""
    if not is_tensor(weight) or weight.device.type in ("cpu", "meta", *WITHOUT_FLOAT64):
        return False
    if solver is None:
        return device_solver(weight.device.type, side) is not None
    return isinstance(solver, TensorSolver) and solver.takes_device(weight.device.type)


def solve_on_device(
    weight: Tensor,
    pattern: Pattern,
    solver: Solver | None = None,
    *,
    score: Any = None,
    groups: int = 1,
    certify: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Solution:
    """See `tmask.solve`; the solver is a TensorSolver, or None for "auto".

    `Solution.seconds` includes the checks, which the device does in one go with the rest.
    """
    import torch

    begin = time.perf_counter()
    tiling = Tiling(tuple(weight.shape), pattern, groups)
    values, usable = _scores(weight, score)
    mask = torch.empty(weight.shape, dtype=torch.bool, device=weight.device)
    matrices, masks = to_matrices(tiling, values), to_matrices(tiling, mask)
    regions = list(tiling.regions())
    parts = [_solve_region(solver, region, matrices, masks, pattern.n) for region in regions]
    ok, *sums = _fetch(usable, parts)
    seconds = time.perf_counter() - begin
    total = sum(part.total for part in sums)
    if not ok or not total < float("inf"):
        raise unusable(weight, score)
    for part, known in zip(parts, sums, strict=True):
        part.refuse_wrong(known)
    objective = sum(known.objective for known in sums)
    dual_bound = None
    if certify:
        dual_bound = sum(
            _bound(region, matrices, part, known) for region, part, known in zip(regions, parts, sums, strict=True)
        )
    if progress is not None:
        progress(tiling.num_blocks)
    short = any(region.full and known.irregular for region, known in zip(regions, sums, strict=True))
    return Solution(
        mask=mask,
        objective=objective,
        dual_bound=dual_bound,
        total=total,
        status=status_of(Worth(objective, total, dual_bound), underfilled=short, limit_reached=False),
        seconds=seconds,
        solver="+".join(dict.fromkeys(part.solver.name for part in parts)),
        pattern=pattern,
    )


def _scores(weight: Tensor, score: Any) -> tuple[Tensor, Tensor]:
    """What |entries| are maximised of, and () bool: whether the weight behind a score can be used, and the score."""
    import torch

    values = checked_tensor(weight, "weight").detach()
    if score is None:
        return values, torch.ones((), dtype=torch.bool, device=values.device)
    given = checked_tensor(score, "score") if is_tensor(score) else torch.from_numpy(to_numpy(score, "score").copy())
    if given.shape != values.shape:
        raise InvalidProblemError(f"score has shape {tuple(given.shape)}, but weight has shape {tuple(values.shape)}")
    given = given.detach().to(values.device)
    return given, values.isfinite().all() & (given >= 0).all()


def _choose(solver: Solver | None, region: Region, device_type: str) -> TensorSolver:
    """The solver for a region: the given one if it takes blocks of that side, else what "auto" takes."""
    if isinstance(solver, TensorSolver) and (region.full or solver.max_side >= region.side):
        return solver
    found = device_solver(device_type, region.side)
    assert found is not None, "midpoint-torch takes all sides"
    return found


def _solve_region(solver: Solver | None, region: Region, matrices: Tensor, masks: Tensor, n: int) -> DeviceMasks:
    """Write a region's masks."""
    chosen = _choose(solver, region, matrices.device.type)
    if region.full:
        m = region.side
        weights, kept = cut_region(region, matrices), cut_region(region, masks)
        if n < m:
            proof = chosen.solve_matrices(weights, n, m, kept)
        else:
            proof = TensorProof(slack=kept.fill_(True).new_zeros((), dtype=matrices.dtype).double())
        return DeviceMasks(chosen, n, cut_tiles(weights, m, m), cut_tiles(kept, m, m), proof)
    blocks = padded_blocks(region, matrices)
    answer = chosen.solve_tensor(blocks.abs().nan_to_num_(nan=0.0, posinf=0.0), n)
    join_padded(region, answer.masks, masks)
    grid = (len(blocks), 1, 1, 1, region.side, region.side)
    return DeviceMasks(chosen, n, blocks.view(grid), answer.masks.reshape(grid), answer.proof)


def _fetch(usable: Tensor, parts: list[DeviceMasks]) -> tuple[Any, ...]:
    """All numbers at once."""
    import torch

    rows = torch.stack([part.sums() for part in parts])
    first, *others = torch.cat((usable.to(rows.dtype).expand(1, rows.shape[1]), rows)).tolist()
    return (bool(first[0]), *(Sums(*row) for row in others))


def _bound(region: Region, matrices: Tensor, part: DeviceMasks, known: Sums) -> float:
    """An upper bound on what a region can keep."""
    import torch

    if part.has_proof:
        return known.objective + part.excess(known)
    masks = torch.empty(matrices.shape, dtype=torch.bool, device=matrices.device)
    best = _solve_region(None, region, matrices, masks, part.n)
    _, optimum = _fetch(masks.new_ones(()), [best])
    return max(known.objective, float(optimum.objective) + best.excess(optimum))
