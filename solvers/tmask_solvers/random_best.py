"""The best of many random masks: the baseline of the literature ("max1000").

A draw is a circulant mask with its rows and columns permuted at random, after which random 2-swaps are tried, about m
a row: two rows and two columns, exchanged where the mask alternates on them. Swaps join all regular masks (Ryser's
interchange theorem); without them, 18 of the 90 masks of 2:4 never come up. The draw is not uniform over the masks. The
same draws serve all blocks.

Cost: O(samples * m^2) a block, as a matrix product, and as much once for the draws. Source: [Hubara2021, appendix].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from tmask.blocks.arrays import Masks, Scores
from tmask.judging.answers import Answer
from tmask.solving.solver import Solver
from tmask_solvers.shared.settings import check_count

# Masks drawn and scored at once, which bounds memory.
_GROUP = 1000


@dataclass(frozen=True)
class RandomBest(Solver):
    """Baseline.

    Args:
        samples: random masks tried.
        seed: of the draws, at least 0; the same seed gives the same masks, and more samples add to them.
    """

    samples: int = 1000
    seed: int = 0

    name: ClassVar[str] = "random-best"
    exact: ClassVar[bool] = False
    chunk: ClassVar[int] = 1 << 12

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        check_count("seed", self.seed, least=0)

    def _solve(self, scores: Scores, n: int) -> Answer:
        num_blocks, side = scores.shape[:2]
        wide = scores.reshape(num_blocks, -1).astype(np.float64)
        every = np.arange(num_blocks)
        best = np.full(num_blocks, -np.inf)
        kept = np.empty(scores.shape, np.bool_)
        for group, start in enumerate(range(0, self.samples, _GROUP)):
            # Always drawn as a whole group, so that more samples add to fewer ones and do not replace them.
            masks = random_masks(n, side, self.seed, group)[: self.samples - start]
            objectives = wide @ masks.reshape(len(masks), -1).astype(np.float64).T  # (B, P)
            pick = objectives.argmax(1)
            better = objectives[every, pick] > best
            best[better] = objectives[every, pick][better]
            kept[better] = masks[pick[better]]
        return Answer(kept)


@lru_cache(maxsize=8)
def random_masks(n: int, side: int, seed: int, group: int = 0) -> Masks:
    """(1000, m, m) bool, read-only: random masks with n per line; groups of one seed differ."""
    rng = np.random.default_rng((seed, group))
    lines = np.tile(np.arange(side), (_GROUP, 1))
    rows, cols = rng.permuted(lines, axis=1), rng.permuted(lines, axis=1)
    masks: Masks = (cols[:, None, :] - rows[:, :, None]) % side < n
    every = np.arange(_GROUP)[:, None]
    for _ in range(side):
        pairs = rng.permuted(lines, axis=1)[:, : side // 2 * 2]
        i, k = pairs[:, ::2], pairs[:, 1::2]  # (1000, m // 2) disjoint pairs of rows, so that swaps do not meet
        j, c = rng.integers(0, side, (2, *i.shape))
        ij, ic, kj, kc = masks[every, i, j], masks[every, i, c], masks[every, k, j], masks[every, k, c]
        swap = (ij == kc) & (ic == kj) & (ij != ic)  # never so where j = c
        masks[every, i, j], masks[every, k, c] = ij ^ swap, kc ^ swap
        masks[every, i, c], masks[every, k, j] = ic ^ swap, kj ^ swap
    masks.flags.writeable = False  # cached, for all callers
    return masks
