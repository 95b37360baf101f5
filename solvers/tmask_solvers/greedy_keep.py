"""The greedy that keeps: heavy to light, an entry is kept if its row and its column both have room.

This is the algorithm in the code published with [Hubara2021], where it goes by "2-approximation"; the one with the
proof is `greedy-prune`. It can leave rows and columns short, about half of the blocks at 4:8; `repair` fills them. The
sort takes most of the time: packed integer keys, see `cpu_kernels.sort`. Tensors are solved where they lie, with the
same masks: blocks are sorted together, then one step a rank takes the next entry of every block
(`torch_kernels.greedy`).

Cost: one sort of m^2 entries a block, O(m^2) else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tmask.blocks.arrays import Masks, Scores
from tmask.judging.answers import Answer
from tmask.solving.tensor_solver import TensorAnswer, TensorSolver
from tmask_solvers.cpu_kernels.compiling import kernel
from tmask_solvers.cpu_kernels.greedy import fill_short_lines, keep_heavy
from tmask_solvers.cpu_kernels.sort import order_entries, sort_scratch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GreedyKeep(TensorSolver):
    """Heuristic; underfilled in many blocks unless repaired.

    Args:
        repair: fill rows and columns that were left short, so that each keeps exactly n.
    """

    repair: bool = False

    name: ClassVar[str] = "greedy-keep"
    exact: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("numba",)

    def _solve(self, scores: Scores, n: int) -> Answer:
        masks = np.empty(scores.shape, np.bool_)
        _solve_blocks(scores, n, self.repair, masks)
        return Answer(masks)

    def solve_tensor(self, scores: Tensor, n: int) -> TensorAnswer:
        from tmask_solvers.torch_kernels.greedy import keep_in_order, repair

        # From light to heavy and back, so that of equal entries the last comes first, as in `cpu_kernels.sort`.
        order = scores.flatten(1).argsort(dim=1, stable=True).flip(1)
        masks = keep_in_order(order, n, scores.shape[1])
        if self.repair:
            repair(scores.double(), masks, n)  # as the kernel adds, so that both trade the same entries
        return TensorAnswer(masks)


@kernel
def _solve_blocks(scores: Scores, n: int, repair: bool, masks: Masks) -> None:
    num_blocks, m = scores.shape[:2]
    scratch = sort_scratch(m * m)
    rows, cols = np.empty(m, np.int64), np.empty(m, np.int64)
    for b in range(num_blocks):
        order = order_entries(scores[b], scratch)
        missing = keep_heavy(order, n, rows, cols, masks[b])
        if repair and missing:
            fill_short_lines(scores[b], rows, cols, masks[b])
