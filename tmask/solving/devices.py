"""The way of a tensor that stays where it lies: solved, summed and judged on its device.

All regions are solved and looked at first, and the sums of all are fetched together: the one time that the core waits
for the device. Only where a bound takes more does it wait again: for blocks that their prices do not prove at first
sight (`device_masks`), and for solvers that prove nothing, whose masks are compared with the optimum.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tmask.blocks.arrays import checked_tensor, to_numpy
from tmask.blocks.plain import is_tensor
from tmask.blocks.tensor_blocks import cut_region, cut_tiles, join_padded, padded_blocks, to_matrices
from tmask.blocks.tiling import Region, Tiling
from tmask.errors import InvalidProblemError, TmaskError
from tmask.judging.examining import examine_all
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
    ((mask, answers),) = solve_many_on_device([request])
    return mask, answers


def solve_many_on_device(requests: Sequence[Request]) -> list[tuple[Tensor, list[RegionAnswer]]]:
    """The same for several weights on one device, which is waited for once for all of them.

    Raises:
        InvalidProblemError, SolverFailedError: as `tmask.solve`; of the first weight that is at fault, whose place in
            the list is the error's attribute `request`.
    """
    begin = time.perf_counter()
    jobs = []
    for place, request in enumerate(requests):
        with at_request(place):
            jobs.append(_Job.of(request))
    parts = _solve_regions([(job, region) for job in jobs for region in job.regions])
    # Whether the scores are usable comes with the sums: to ask before would be to wait once more.
    usable, sums = _fetch([job.usable for job in jobs], parts)
    seconds = (time.perf_counter() - begin) / len(parts)  # solved together: each region has an equal share
    results, done = [], 0
    for place, (job, ok) in enumerate(zip(jobs, usable, strict=True)):
        own = slice(done, done + len(job.regions))
        done = own.stop
        with at_request(place):
            results.append((job.mask, job.answers(ok, parts[own], sums[own], seconds)))
    return results


@contextmanager
def at_request(place: int) -> Iterator[None]:
    """Errors of ours that come from here tell of which request they are."""
    try:
        yield
    except TmaskError as error:
        error.request = place  # type: ignore[attr-defined]
        raise


@dataclass(frozen=True, slots=True)
class _Job:
    """A request on its way: its matrices (K, G, rows, cols), and those of its mask, views of `mask`."""

    request: Request
    tiling: Tiling
    matrices: Tensor
    masks: Tensor
    mask: Tensor
    regions: list[Region]
    usable: Tensor | None

    @classmethod
    def of(cls, request: Request) -> _Job:
        """With a mask that is not written yet."""
        import torch

        weight = request.weight
        values, usable = _scores(weight, request.score)
        if request.zeroes_scores:
            values = values.where(weight != 0, 0)
        tiling = Tiling(tuple(values.shape), request.pattern, request.groups, request.layout, request.at_most)
        mask = torch.empty(weight.shape, dtype=torch.bool, device=weight.device)
        matrices, masks = to_matrices(tiling, values), to_matrices(tiling, mask)
        return cls(request, tiling, matrices, masks, mask, list(tiling.regions()), usable)

    def answers(self, usable: bool, parts: list[DeviceMasks], sums: list[Sums], seconds: float) -> list[RegionAnswer]:
        """What is known of each region, once nothing is wrong with scores and masks."""
        if not usable or not sum(known.total for known in sums) < float("inf"):
            raise self.request.unusable()
        # After the scores, since masks of NaN may be wrong without the solver's fault.
        for part, known in zip(parts, sums, strict=True):
            part.refuse_wrong(known)
        answers = []
        for region, part, known in zip(self.regions, parts, sums, strict=True):
            bound = self._bound(region, part, known) if self.request.certify else None
            short = region.full and known.irregular > 0
            answers.append(RegionAnswer(known.worth(bound), seconds, part.solver.name, underfilled=short))
        if self.request.progress is not None:
            self.request.progress(self.tiling.num_blocks, self.tiling.num_blocks, "")
        return answers

    def _bound(self, region: Region, part: DeviceMasks, known: Sums) -> float:
        """An upper bound on what a region can keep."""
        if part.has_proof:
            return known.objective + part.excess(known)
        # The solver proves nothing, so the optimum itself is the bound, found by one that does.
        exact = replace(self, request=replace(self.request, solver=None), masks=self.masks.new_empty(self.masks.shape))
        (best,) = _solve_regions([(exact, region)])
        _, (optimum,) = _fetch([], [best])
        # Two sums of one mask may differ in their last place.
        return max(known.objective, optimum.objective + best.excess(optimum))


def _scores(weight: Tensor, score: Any) -> tuple[Tensor, Tensor | None]:
    """What |entries| are maximised of, and () bool: whether the weight behind a score can be used, and the score."""
    import torch

    values = checked_tensor(weight, "weight").detach()
    if score is None:
        return values, None
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


def _solve_regions(regions: Sequence[tuple[_Job, Region]]) -> list[DeviceMasks]:
    """Write the masks of all; full regions of one pattern and solver together."""
    parts: list[DeviceMasks | None] = [None] * len(regions)
    together: dict[object, list[int]] = {}
    chosen = [_choose(job.request.solver, region, job.matrices.device.type) for job, region in regions]
    for k, ((job, region), solver) in enumerate(zip(regions, chosen, strict=True)):
        pattern = job.request.pattern
        # n = m keeps everything, which takes no solver, and no solver's slack.
        if region.full and pattern.n < pattern.m:
            # Those of others one by one: each weight is copied for them, and that of a whole model would be much.
            together.setdefault((solver, pattern) if is_ours(solver) else k, []).append(k)
        else:
            parts[k] = _keep_all(solver, job, region) if region.full else _solve_padded(solver, job, region)
    for places in together.values():
        solved = _solve_whole(chosen[places[0]], [regions[k] for k in places])
        for k, part in zip(places, solved, strict=True):
            parts[k] = part
    return [part for part in parts if part is not None]


def _solve_whole(solver: TensorSolver, regions: Sequence[tuple[_Job, Region]]) -> list[DeviceMasks]:
    """Full regions of one pattern."""
    pattern = regions[0][0].request.pattern
    n, m = pattern.n, pattern.m
    pairs = [(cut_region(region, job.matrices), cut_region(region, job.masks)) for job, region in regions]
    # Others may write into what they read, and torch has no read-only tensors: what is judged is the original.
    given = [(weights if is_ours(solver) else weights.clone(), kept) for weights, kept in pairs]
    shapes = ", ".join(str(tuple(weights.shape)) for weights, _ in pairs[:3]) + (", ..." if len(pairs) > 3 else "")
    with faults_of(solver, f"blocks of a {shapes} tensor"):
        proofs = solver.solve_many(given, n, m)
    return [
        DeviceMasks(solver, n, cut_tiles(weights, m, m), cut_tiles(kept, m, m), proof)
        for (weights, kept), proof in zip(pairs, proofs, strict=True)
    ]


def _keep_all(solver: TensorSolver, job: _Job, region: Region) -> DeviceMasks:
    m = region.side
    weights, kept = cut_region(region, job.matrices), cut_region(region, job.masks)
    proof = TensorProof(slack=kept.fill_(True).new_zeros((), dtype=weights.dtype).double())
    return DeviceMasks(solver, m, cut_tiles(weights, m, m), cut_tiles(kept, m, m), proof)


def _solve_padded(solver: TensorSolver, job: _Job, region: Region) -> DeviceMasks:
    """A region whose tiles are cut short, as larger blocks."""
    n = job.request.pattern.n
    blocks = padded_blocks(region, job.matrices)
    # Solvers need not bear NaN; that there was some shows in the sums, which are made of the blocks as they were.
    with faults_of(solver, f"{len(blocks)} blocks cut short at an edge"):
        answer = solver.solve_tensor(blocks.abs().nan_to_num_(nan=0.0, posinf=0.0), n)
        refuse_wrong_types(solver, answer, tuple(blocks.shape))
    join_padded(region, answer.masks, job.masks)
    grid = (len(blocks), 1, 1, 1, region.side, region.side)
    return DeviceMasks(solver, n, blocks.view(grid), answer.masks.reshape(grid), answer.proof)


def _fetch(usable: Sequence[Tensor | None], parts: Sequence[DeviceMasks]) -> tuple[list[bool], list[Sums]]:
    """All numbers at once: which scores are usable (None: nothing was asked), and the sums of each part."""
    import torch

    figures = examine_all([part.part for part in parts])
    others = [one for one in (*(part.proof.slack for part in parts), *usable) if one is not None]
    numbers = figures.flatten()
    if others:  # what is there as one tensor already is fetched as it is
        numbers = torch.cat((numbers, *(one.reshape(1).to(numbers.dtype) for one in others)))
    found = iter(numbers.tolist())
    rows = [[next(found) for _ in range(figures.shape[1])] for _ in parts]
    slacks = [0.0 if part.proof.slack is None else next(found) for part in parts]
    sums = [Sums._make((*row, slack)) for row, slack in zip(rows, slacks, strict=True)]
    return [one is None or bool(next(found)) for one in usable], sums
