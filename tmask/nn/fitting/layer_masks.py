"""The mask of one layer: a transposable one by any solver, or the best along the inputs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.judging.worth import Worth
from tmask.nn.methods.support import Plain
from tmask.solving.api import solve
from tmask.solving.solver import Solver


@dataclass(frozen=True, slots=True)
class LayerMask:
    """A mask on one layer with its worth.

    Args:
        mask: (G, R, C) bool, True = kept.
        worth: under the scores by which it was found; of |weight| for a mask from elsewhere, without a bound.
        solver: that found it, "" for a mask from elsewhere.
        transposable: whether it was found as one.
    """

    mask: Tensor
    worth: Worth
    solver: str
    transposable: bool


@dataclass(frozen=True, slots=True)
class MaskSearch:
    """How masks are found.

    Args:
        transposable: along both axes; else along the inputs alone.
        solver: of transposable masks, by name or with settings.
        certify: ask for a bound on what the best transposable mask keeps.
        keep_zeros: weights that are 0 are never kept.
    Raises:
        InvalidProblemError: a solver, or certify=False, for plain masks, which would ignore them.
    """

    transposable: bool
    solver: Solver | str
    certify: bool
    keep_zeros: bool = False

    def __post_init__(self) -> None:
        if self.transposable:
            return
        if self.solver != "auto":
            raise InvalidProblemError(
                f"solver {self.solver!r} finds transposable masks; for plain ones, which need none, leave it out"
            )
        if not self.certify:
            raise InvalidProblemError(
                "certify is of transposable masks; leave it out: plain ones are the best there are"
            )

    def find(self, scores: Tensor, weight: Tensor, shape: Sequence[int], pattern: Pattern) -> LayerMask:
        """The mask that keeps the most.

        Args:
            scores: (G, R, C), >= 0.
            weight: (G, R, C), before anything was done to it.
            shape: of the weight that they belong to, see `WeightView.tiled_shape`.
            pattern: n kept of every m.
        """
        values, given = (data.reshape(tuple(shape)).cpu().numpy() for data in (scores, weight))
        if self.keep_zeros:
            values = np.where(given == 0, 0, values)
        if self.transposable:
            # In the shape of the weight, since tiles must cross neither groups nor kernel positions.
            found = solve(
                given if self.keep_zeros else values,
                pattern,
                self.solver,
                score=values if self.keep_zeros else None,
                groups=len(scores),
                layout="convolution",  # if it has more than two axes
                certify=self.certify,
                keep_zeros=self.keep_zeros,
            )
            kept, solver = found.mask, found.solver
            worth = Worth(found.objective, found.total, found.dual_bound)
        else:
            kept, solver = plain_mask(values, pattern), "largest"
            if self.keep_zeros:
                kept &= given != 0  # they count nothing, so that the rest stays the best
            objective = float(values[kept].sum())
            # Groups do not share entries, so the n largest of each are the optimum, and it is its own bound.
            worth = Worth(objective, float(values.sum()), objective)
        mask = torch.from_numpy(kept).to(scores.device).reshape(scores.shape)
        return LayerMask(mask, worth, solver, self.transposable)


def plain_mask(scores: npt.NDArray[np.floating], pattern: Pattern) -> npt.NDArray[np.bool_]:
    """Keep the n largest of every m consecutive inputs, for each output and kernel position; ties to the first.

    Args:
        scores: (outputs, inputs, *kernel), >= 0.
        pattern: n kept of every m; a group cut short at the end keeps at most n.
    Returns:
        bool, the shape of the scores.
    """
    moved = np.ascontiguousarray(np.moveaxis(scores, 1, -1))  # (outputs, *kernel, inputs)
    lines = torch.from_numpy(moved).reshape(-1, moved.shape[-1])
    kept = Plain(pattern).project(lines).mask.numpy().reshape(moved.shape)
    return np.ascontiguousarray(np.moveaxis(kept, -1, 1))
