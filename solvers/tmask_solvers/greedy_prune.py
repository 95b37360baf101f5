"""The greedy that prunes: light to heavy, an entry is pruned if its row or its column still lacks pruned entries.

This is the 2-approximation that [Hubara2021, section 3.2] proves: the pruned weight is less than twice that of the
best mask. It covers each line with at least m - n pruned entries, usually more than it must, so lines are left
underfilled.

Cost: one sort of m^2 entries a block, O(m^2) else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import Masks, Scores
from tmask.judging.answers import Answer
from tmask.solving.solver import Solver
from tmask_solvers.cpu_kernels.compiling import kernel
from tmask_solvers.cpu_kernels.sort import order_entries, sort_scratch

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GreedyPrune(Solver):
    """Heuristic, within a factor 2 on the pruned weight; usually underfilled; no settings."""

    name: ClassVar[str] = "greedy-prune"
    exact: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("numba",)

    def _solve(self, scores: Scores, n: int) -> Answer:
        masks = np.empty(scores.shape, np.bool_)
        _solve_blocks(scores, n, masks)
        return Answer(masks)


@kernel
def _prune_light(order: Array, lacking: int, rows: Array, cols: Array, kept: Masks) -> None:
    """`rows` and `cols` count the pruned entries that each line still lacks."""
    m = kept.shape[0]
    rows[:] = lacking
    cols[:] = lacking
    kept[:] = True
    short = 2 * m
    for k in range(order.size):
        i, j = order[k] // m, order[k] % m
        if rows[i] > 0 or cols[j] > 0:
            kept[i, j] = False
            rows[i] -= 1
            cols[j] -= 1
            # Met once on the way down: lines that lack none go on below 0 where the other line still lacks.
            short -= np.int64(rows[i] == 0) + np.int64(cols[j] == 0)
            if short == 0:
                break


@kernel
def _solve_blocks(scores: Scores, n: int, masks: Masks) -> None:
    num_blocks, m = scores.shape[:2]
    scratch = sort_scratch(m * m)
    rows, cols = np.empty(m, np.int64), np.empty(m, np.int64)
    for b in range(num_blocks):
        order = order_entries(scores[b], scratch)
        _prune_light(order, m - n, rows, cols, masks[b])
