"""Row-wise N:M, then column-wise N:M of what is left: the baseline that ignores the coupling.

Every row keeps its n largest; then every column keeps the n largest of those. No line keeps more than n, many keep
fewer, so the mask is usually underfilled. Ties go to the lower index. Cost: a sort of each row and column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tmask.blocks.arrays import Masks, Scores
from tmask.judging.answers import Answer
from tmask.solving.solver import Solver


@dataclass(frozen=True)
class BiNM(Solver):
    """Baseline, usually underfilled; no settings."""

    name: ClassVar[str] = "bi-nm"
    exact: ClassVar[bool] = False

    def _solve(self, scores: Scores, n: int) -> Answer:
        rows = _largest(scores, n)
        left = np.where(rows, scores, -1)  # scores are at least 0, so what a row gave up comes last
        return Answer(rows & _largest(left.transpose(0, 2, 1), n).transpose(0, 2, 1))


def _largest(values: Scores, n: int) -> Masks:
    """(B, m, m) bool: the n largest of each row, ties to the lower index."""
    # Stable, and of the negated values: so ties go to the lower index, on every platform.
    order = np.argsort(-values, axis=2, kind="stable")[:, :, :n]
    masks = np.zeros(values.shape, np.bool_)
    np.put_along_axis(masks, order, True, axis=2)
    return masks
