"""Greedy, repair, then 2-swaps to a local optimum.

The mask of `greedy-keep`, every short line filled, then pairs of kept entries exchanged for the two opposite corners
of their rectangle while that gains; the last step of [Meng2025]. What remains are gains that need longer cycles of
exchanges.

Cost: one sort a block, O(m^3) or so a pass of swaps (15 to 34 times the greedy at m = 32, bench/results/solvers.csv).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tmask.blocks.arrays import Masks, Scores
from tmask.judging.answers import Answer
from tmask.solving.solver import Solver
from tmask_solvers.cpu_kernels.compiling import kernel
from tmask_solvers.cpu_kernels.greedy import fill_short_lines, keep_heavy, swap_pairs
from tmask_solvers.cpu_kernels.sort import order_entries, sort_scratch


@dataclass(frozen=True)
class LocalSearch(Solver):
    """Heuristic; exactly n per line; no settings."""

    name: ClassVar[str] = "local-search"
    exact: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("numba",)

    def _solve(self, scores: Scores, n: int) -> Answer:
        masks = np.empty(scores.shape, np.bool_)
        _solve_blocks(scores, n, masks)
        return Answer(masks)


@kernel
def _solve_blocks(scores: Scores, n: int, masks: Masks) -> None:
    num_blocks, m = scores.shape[:2]
    scratch = sort_scratch(m * m)
    rows, cols = np.empty(m, np.int64), np.empty(m, np.int64)
    for b in range(num_blocks):
        order = order_entries(scores[b], scratch)
        if keep_heavy(order, n, rows, cols, masks[b]):
            fill_short_lines(scores[b], rows, cols, masks[b])
        swap_pairs(scores[b], masks[b])  # last, since swaps keep every line's count and could fill none
