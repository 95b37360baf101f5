"""SparseGPT under a transposable mask: prune a layer in one sweep over its inputs, weights to come making up for it.

A layer's inputs are taken in blocks of m columns (m input channels at one kernel position), the width of a tile. The
masks of a block's tiles, for all outputs together, are found on the scores that its weights have by then; its columns
are then fixed one after the other, and what each loses is spread over all columns behind it by the formula of optimal
brain surgeon.

Source: [Frantar2023], where a row of the block keeps its own n of m; [Meng2025] for transposable masks in such a sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tmask.blocks.pattern import Pattern
from tmask.nn.calibration.batches import Calibration, Forward, evaluating
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.linear_view import LinearView
from tmask.nn.fitting.fit import Fitted, Plan
from tmask.nn.fitting.layer_masks import FoundMask, check_plain, plain_mask
from tmask.nn.fitting.least_squares import check_samples, damped, invert, least_squares
from tmask.nn.fitting.prunable import Choice, find_layers
from tmask.nn.fitting.refit import check_settings
from tmask.nn.fitting.report import PruningReport
from tmask.nn.pruning.layerwise import Progress, Settings, prune
from tmask.nn.pruning.plans import Patterns, by_module, make_plans
from tmask.solving.api import solve
from tmask.solving.solver import Solver


def sparsegpt(
    model: nn.Module,
    calibration: Iterable[Any],
    pattern: Patterns,
    *,
    transposable: bool = True,
    solver: Solver | str = "auto",
    refit: bool = True,
    sequential: bool = True,
    damping: float = 1e-2,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip_ends: bool = True,
    update_batch_norm: bool = True,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> PruningReport:
    """Give the linear and convolution layers of a model N:M masks by a SparseGPT sweep, in place.

    Args:
        refit: solve for the kept weights exactly once the mask is complete (`least_squares`, from the swept weights):
            in the sweep itself a weight can make up only for those before it.
        damping: share of the mean squared input that is added to the diagonal; must be above 0 if inputs depend on
            one another.
    The other arguments, and what is raised, are those of `adaprune`. The rows of the report hold the share of the
    scores at the time that was kept, and the gap of all column blocks together.

    Cost: that of the data as in `adaprune`; then C^3 for a layer's inverse, R C^2 for its sweep, and C / m calls of
        the solver.
    """
    check_settings("none", damping)
    check_plain(transposable, solver)
    data, pattern = Calibration(calibration, forward), by_module(model, pattern)
    with evaluating(model):
        named = pattern if isinstance(pattern, Mapping) else ()
        layers, skipped = find_layers(model, data, Choice(include, exclude, skip_ends, named))
    plans, skipped = make_plans(layers, skipped, pattern, transposable)

    def fit(plan: Plan, gram: Gram, free: Gram, weight: Tensor) -> Fitted:
        assert plan.pattern is not None
        swept, found = sweep(plan.layer.view, free, weight, plan.pattern, plan.transposable, solver, damping)
        return Fitted(least_squares(free, swept, found.mask, damping) if refit else swept, found)

    return prune(model, data, plans, skipped, fit, Settings(sequential, update_batch_norm, progress))


def sweep(
    view: LinearView,
    gram: Gram,
    weight: Tensor,
    pattern: Pattern,
    transposable: bool,
    solver: Solver | str,
    damping: float,
) -> tuple[Tensor, FoundMask]:
    """The swept weights (G, R, C), 0 off the mask, and the mask.

    Raises:
        InvalidProblemError: too few samples, or a singular Gram matrix, with damping 0.
    """
    order = view.position_major()
    check_samples(gram, int((gram.xx.diagonal(dim1=1, dim2=2) > 0).sum(1).max()), damping)
    inverse = invert(damped(gram.xx, damping)[:, order][:, :, order])
    # Row j of this factor is row j of the inverse once the columns before j are fixed, over its diagonal's root.
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    pivots = upper.diagonal(dim1=1, dim2=2)  # (G, C)
    alive = gram.xx.diagonal(dim1=1, dim2=2)[:, order] > 0
    left = weight[:, :, order].clone()
    kept = torch.zeros_like(left, dtype=torch.bool)
    worth = _Worth()
    for start, stop in _blocks(view.channels, view.positions, pattern.m):
        part = slice(start, stop)
        scores = (left[:, :, part] / pivots[:, None, part]).square() * alive[:, None, part]
        kept[:, :, part] = worth.add(scores, pattern, transposable, solver)
        lost = torch.zeros_like(scores)
        for j in range(start, stop):
            removed = left[:, :, j] * ~kept[:, :, j]
            lost[:, :, j - start] = removed / pivots[:, None, j]
            # Within the block at once, since the next column's removed weights depend on it.
            left[:, :, j:stop] -= lost[:, :, j - start, None] * upper[:, None, j, j:stop]
        left[:, :, stop:] -= lost @ upper[:, part, stop:]
    swept, mask = torch.empty_like(left), torch.empty_like(kept)
    swept[:, :, order], mask[:, :, order] = left * kept, kept
    return swept, worth.found(mask)


def _blocks(channels: int, positions: int, m: int) -> Iterable[tuple[int, int]]:
    """First column and one past the last of each block, in position-major order."""
    for k in range(positions):
        for c in range(0, channels, m):
            yield k * channels + c, k * channels + min(c + m, channels)


class _Worth:
    """What the masks of the blocks keep, in all."""

    def __init__(self) -> None:
        self.objective = self.bound = self.total = 0.0
        self.solvers: dict[str, None] = {}

    def add(self, scores: Tensor, pattern: Pattern, transposable: bool, solver: Solver | str) -> Tensor:
        """The mask (G, R, width) for a block's scores."""
        groups, rows, width = scores.shape
        values = scores.reshape(groups * rows, width).cpu().numpy()
        if transposable:
            solution = solve(values, pattern, solver, groups=groups)
            assert solution.dual_bound is not None
            kept, objective, bound, name = solution.mask, solution.objective, solution.dual_bound, solution.solver
        else:
            kept, name = plain_mask(values, pattern), "largest"
            objective = bound = float(values[kept].sum())
        self.objective += objective
        self.bound += bound
        self.total += float(values.sum())
        self.solvers[name] = None
        return torch.from_numpy(kept).to(scores.device).reshape(scores.shape)

    def found(self, mask: Tensor) -> FoundMask:
        """The complete mask with its worth."""
        retained = self.objective / self.total if self.total else 1.0
        gap = (self.bound - self.objective) / self.bound if self.bound else 0.0
        return FoundMask(mask, retained, gap, "+".join(self.solvers))
