"""The way of a tensor that stays where it lies: solved, summed and judged on its device.

All regions are solved and looked at first, and the sums of all are fetched together: the one time that the core waits
for the device. Only where a bound takes more does it wait again: for blocks that their prices do not prove at first
sight (`device_masks`), and for solvers that prove nothing, whose masks are compared with the optimum.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tmask.blocks.arrays import checked_tensor, to_numpy
from tmask.blocks.plain import is_tensor
from tmask.blocks.tensor_blocks import cut_region, cut_tiles, join_padded, padded_blocks, to_matrices
from tmask.blocks.tiling import Region, Tiling
from tmask.errors import InvalidProblemError
from tmask.solving.device_masks import DeviceMasks, Sums
from tmask.solving.guard import faults_of, is_ours
from tmask.solving.region_answer import RegionAnswer
from tmask.solving.registry import device_solver
from tmask.solving.request import Request
from tmask.solving.solver import Solver
from tmask.solving.tensor_solver import WITHOUT_FLOAT64, TensorProof, TensorSolver, refuse_wrong_types

if TYPE_CHECKING:
    from torch import Tensor


def stays_on_device(weight: Any, solver: Solver | None, side: int) -> bool:
    """Whether `solve_on_device` is the way for this weight and solver (None for "auto")."""
    if not is_tensor(weight) or weight.device.type in ("cpu", "meta", *WITHOUT_FLOAT64):
        return False
    if solver is None:
        return device_solver(weight.device.type, side) is not None
    return isinstance(solver, TensorSolver) and solver.takes_device(weight.device.type)


def solve_on_device(request: Request) -> tuple[Tensor, list[RegionAnswer]]:
    """The mask on the weight's device, and what is known of each region; the solver is a TensorSolver, or "auto".

    The seconds include the checks, which the device does in one go with the rest.

    Raises:
        InvalidProblemError, SolverFailedError: as `tmask.solve`.
    """
    import torch

    begin = time.perf_counter()
    weight, n = request.weight, request.pattern.n
    values, usable = _scores(weight, request.score)
    if request.zeroes_scores:
        values = values.where(weight != 0, 0)
    tiling = Tiling(tuple(values.shape), request.pattern, request.groups, request.layout, request.at_most)
    mask = torch.empty(weight.shape, dtype=torch.bool, device=weight.device)
    matrices, masks = to_matrices(tiling, values), to_matrices(tiling, mask)
    regions = list(tiling.regions())
    parts = [_solve_region(request.solver, region, matrices, masks, n) for region in regions]
    # Whether the scores are usable comes with the sums: to ask before would be to wait once more.
    ok, *sums = _fetch(usable, parts)
    seconds = (time.perf_counter() - begin) / len(parts)  # solved together: each has an equal share
    if not ok or not sum(known.total for known in sums) < float("inf"):
        raise request.unusable()
    # After the scores, since masks of NaN may be wrong without the solver's fault.
    for part, known in zip(parts, sums, strict=True):
        part.refuse_wrong(known)
    answers = []
    for region, part, known in zip(regions, parts, sums, strict=True):
        bound = _bound(region, matrices, part, known) if request.certify else None
        short = region.full and known.irregular > 0
        answers.append(RegionAnswer(known.worth(bound), seconds, part.solver.name, underfilled=short))
    if request.progress is not None:
        request.progress(tiling.num_blocks, tiling.num_blocks, "")
    return mask, answers


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
        # n = m keeps everything, which takes no solver, and no solver's slack.
        if n < m:
            # Others may write into what they read, and torch has no read-only tensors: what is judged is the original.
            given = weights if is_ours(chosen) else weights.clone()
            with faults_of(chosen, f"blocks of a {tuple(weights.shape)} tensor"):
                proof = chosen.solve_matrices(given, n, m, kept)
        else:
            proof = TensorProof(slack=kept.fill_(True).new_zeros((), dtype=matrices.dtype).double())
        return DeviceMasks(chosen, n, cut_tiles(weights, m, m), cut_tiles(kept, m, m), proof)
    blocks = padded_blocks(region, matrices)
    # Solvers need not bear NaN; that there was some shows in the sums, which are made of the blocks as they were.
    with faults_of(chosen, f"{len(blocks)} blocks cut short at an edge"):
        answer = chosen.solve_tensor(blocks.abs().nan_to_num_(nan=0.0, posinf=0.0), n)
        refuse_wrong_types(chosen, answer, tuple(blocks.shape))
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
    # The solver proves nothing, so the optimum itself is the bound, found by one that does.
    masks = torch.empty(matrices.shape, dtype=torch.bool, device=matrices.device)
    best = _solve_region(None, region, matrices, masks, part.n)
    _, optimum = _fetch(masks.new_ones(()), [best])
    # Two sums of one mask may differ in their last place.
    return max(known.objective, float(optimum.objective) + best.excess(optimum))
