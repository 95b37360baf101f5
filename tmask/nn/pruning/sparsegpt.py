"""SparseGPT under a transposable mask: prune a layer in one sweep over its inputs, weights to come making up for it.

A layer's inputs are taken in blocks of m columns (m input channels at one kernel position), the width of a tile. The
masks of a block's tiles, for all outputs together, are found on the scores that its weights have by then. The sweep
itself is that of `tmask.nn.methods.sparsegpt`, one for each group of a grouped convolution.

Source: [Frantar2023], where a row of the block keeps its own n of m; [Meng2025] for transposable masks in such a sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tmask.blocks.pattern import Pattern
from tmask.judging.worth import Worth
from tmask.nn.calibration.batches import Calibration, Forward
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.weight_view import WeightView
from tmask.nn.fitting.cholesky import check_samples, damped, invert
from tmask.nn.fitting.fit import Fitted, Plan
from tmask.nn.fitting.layer_filter import LayerFilter
from tmask.nn.fitting.layer_masks import LayerMask, MaskSearch
from tmask.nn.fitting.pruning_report import PruningReport
from tmask.nn.fitting.refit import DAMPING, Refitting
from tmask.nn.libraries.offloaded import on_offloaded_too
from tmask.nn.methods.sparsegpt import sweep as sweep_columns
from tmask.nn.pruning.layerwise import Settings
from tmask.nn.pruning.patterns import LayerPatterns, prune_to_patterns
from tmask.showing.progress import Progress
from tmask.solving.solver import Solver


@on_offloaded_too
def sparsegpt(
    model: nn.Module,
    calibration: Iterable[Any],
    pattern: LayerPatterns,
    *,
    transposable: bool = True,
    solver: Solver | str = "auto",
    refit: bool = True,
    sequential: bool = True,
    damping: float = DAMPING,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip_ends: bool = True,
    keep_zeros: bool = False,
    update_batch_norm: bool = True,
    certify: bool = True,
    forward: Forward | None = None,
    progress: Progress = None,
) -> PruningReport:
    """Give the linear and convolution layers of a model N:M masks by a SparseGPT sweep, in place.

    Args:
        refit: solve for the kept weights exactly once the mask is complete (`least_squares`, from the swept weights):
            in the sweep itself a weight can make up only for those before it.
    The other arguments, and what is raised, are those of `adaprune`. The rows of the report hold the share of the
    scores at the time that was kept, and the gap of all column blocks together.

    Cost: that of the data as in `adaprune`; then C^3 for a layer's inverse, R C^2 for its sweep, and C / m calls of
        the solver.
    """
    search = MaskSearch(transposable, solver, certify, keep_zeros)
    fit = SweepAndRefit(search, Refitting("least-squares" if refit else "none", damping, fold=False))
    data, wanted = Calibration(calibration, forward), LayerFilter(include, exclude, skip_ends)
    settings = Settings(sequential, update_batch_norm, progress)
    return prune_to_patterns(model, data, pattern, transposable, wanted, fit, settings)


@dataclass(frozen=True, slots=True)
class SweepAndRefit:
    """SparseGPT's way with a layer: mask and weights together in a sweep, then a refit on the mask."""

    search: MaskSearch
    refit: Refitting

    def __call__(self, plan: Plan, gram: Gram, free: Gram, weight: Tensor) -> Fitted:
        assert plan.pattern is not None
        swept, found = sweep(plan.layer.view, free, weight, plan.pattern, self.search, self.refit.damping)
        return Fitted(self.refit(plan, free, swept, found.mask), found)


def sweep(
    view: WeightView, gram: Gram, weight: Tensor, pattern: Pattern, search: MaskSearch, damping: float
) -> tuple[Tensor, LayerMask]:
    """The swept weights (G, R, C), 0 off the mask, and the mask.

    Raises:
        InvalidProblemError: too few samples, or a singular Gram matrix, with damping 0.
    """
    order = view.position_major()
    alive = gram.xx.diagonal(dim1=1, dim2=2) > 0
    check_samples(gram, int(alive.sum(1).max()), damping)
    inverse = invert(damped(gram.xx, damping)[:, order][:, :, order])
    # Row j of this factor is row j of the inverse once the columns before j are fixed, over its diagonal's root.
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    alive = alive[:, order]
    # Position-major, so that a block is the width of a tile: m input channels at one kernel position.
    dense = weight[:, :, order]
    kept = torch.zeros_like(dense, dtype=torch.bool)
    blocks: list[LayerMask] = []

    def sweep_group(group: int) -> Tensor:
        pivots, own = upper[group].diagonal(), slice(group, group + 1)

        def choose(left: Tensor, part: slice) -> Tensor:
            # What an input that is always 0 multiplies costs nothing, whatever its pivot says.
            scores = (left / pivots[part]).square() * alive[group, part]
            blocks.append(search.find(scores[None], dense[own, :, part], left.shape, pattern))
            kept[own, :, part] = blocks[-1].mask
            return kept[group, :, part]

        return sweep_columns(dense[group], upper[group], parts, choose)

    parts = [slice(*ends) for ends in _blocks(view.channels, view.positions, pattern.m)]
    left = torch.stack([sweep_group(group) for group in range(len(dense))])
    # Back in the order of the weight, and 0 off the mask, where the sweep has left what it gave to others.
    swept, mask = torch.empty_like(left), torch.empty_like(kept)
    swept[:, :, order], mask[:, :, order] = left * kept, kept
    solvers = dict.fromkeys(block.solver for block in blocks)
    worth = Worth.sum(block.worth for block in blocks)
    return swept, LayerMask(mask, worth, "+".join(solvers), search.transposable)


def _blocks(channels: int, positions: int, m: int) -> Iterator[tuple[int, int]]:
    """First column and one past the last of each block, in position-major order."""
    for k in range(positions):
        for c in range(0, channels, m):
            yield k * channels + c, k * channels + min(c + m, channels)
