"""Successive shortest augmenting paths, one block after another, in numba.

Column prices start at midpoints, each row takes its n best at these prices, and the few columns that then count more
than n are balanced along shortest paths, which keeps the mask optimal for its prices (`cpu_kernels.augment`). Fewer
than one path a row is needed on ordinary blocks. The prices prove the result: each row keeps its n largest of score -
v.

Cost: O(m^3) a block and O(m^2) a path; memory O(m^2) beyond input and output.
Source: [Ahuja1993, section 9.7], [Jonker1987] for the idea of starting from column reduction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tmask.blocks.arrays import Masks, Prices, Scores
from tmask.errors import InvalidProblemError
from tmask.judging.answers import Answer
from tmask.solving.cores import usable_cores
from tmask.solving.solver import Solver
from tmask_solvers.cpu_kernels.augment import augment, column_midpoints, grid_exponent, quantise, take_rows
from tmask_solvers.cpu_kernels.bands import bands_that_pay, in_bands
from tmask_solvers.cpu_kernels.compiling import kernel

# Entries in a thread: about a millisecond of work.
_LEAST_BAND = 2**15


@dataclass(frozen=True)
class AugmentingPaths(Solver):
    """Exact; up to n * m * 2^-45 of the largest score in blocks that span more than 2^22.

    docs/explanation/exactness.md, section 3, has the reason.

    Args:
        threads: bands of blocks solved at once, None for as many as there are usable cores, fewer where there are few
            blocks; the masks do not depend on it.
    """

    threads: int | None = None

    name: ClassVar[str] = "augmenting-paths"
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("numba",)

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InvalidProblemError(f"threads must be at least 1, got {self.threads}")

    def _solve(self, scores: Scores, n: int) -> Answer:
        num_blocks, side = scores.shape[:2]
        masks = np.empty(scores.shape, np.bool_)
        prices = np.empty((num_blocks, side))
        threads = self.threads or bands_that_pay(usable_cores(), scores.size, _LEAST_BAND)
        in_bands(lambda band: _solve_blocks(scores[band], n, masks[band], prices[band]), num_blocks, threads)
        return Answer(masks, prices)


@kernel
def _solve_blocks(scores: Scores, n: int, masks: Masks, prices: Prices) -> None:
    num_blocks, m = scores.shape[:2]
    q = np.empty((m, m), np.int64)
    u, v, key, count = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m, np.int64)
    top = np.empty(n + 1, np.int64)
    # A graph of 2 m nodes, columns before rows.
    best, closed, parent = np.empty(2 * m, np.int64), np.empty(2 * m, np.int64), np.empty(2 * m, np.int64)
    for b in range(num_blocks):
        shift = grid_exponent(scores[b])
        quantise(scores[b], shift, q)  # whether it rounds is not asked: the core looks at the prices with true scores
        column_midpoints(q, n, top, v)
        take_rows(q, n, u, v, top, key, masks[b], count)
        augment(q, n, u, v, best, closed, parent, masks[b], count)
        half = shift // 2  # 2^-shift itself may overflow
        for j in range(m):
            prices[b, j] = v[j] * 2.0**-half * 2.0 ** (half - shift)
