"""The best of many random masks: the baseline of the literature ("max1000").

A draw is a circulant mask with its rows and columns permuted at random, which reaches every regular mask at m = 4 and
n = 1, but is not uniform over all of them. The same draws serve all blocks of a call.

Cost: O(samples * m^2) a block, as one matrix product. Source: [Hubara2021, appendix].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tmask.arrays import Scores
from tmask.errors import InvalidProblemError
from tmask.solver import Answer, Masks, Solver


@dataclass(frozen=True)
class RandomBest(Solver):
    """Baseline.

    Args:
        samples: random masks tried.
        seed: of the draws; the same seed gives the same masks.
    """

    samples: int = 1000
    seed: int = 0

    name: ClassVar[str] = "random-best"
    exact: ClassVar[bool] = False
    chunk: ClassVar[int] = 1 << 12

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InvalidProblemError(f"samples must be at least 1, got {self.samples}")

    def _solve(self, scores: Scores, n: int) -> Answer:
        num_blocks, side = scores.shape[:2]
        masks = random_masks(self.samples, n, side, self.seed)
        flat = masks.reshape(len(masks), -1).astype(np.float64)
        objectives = scores.reshape(num_blocks, -1).astype(np.float64) @ flat.T  # (B, samples)
        return Answer(masks[objectives.argmax(1)])


def random_masks(samples: int, n: int, side: int, seed: int) -> Masks:
    """(samples, m, m) bool: circulant masks with n per line, rows and columns shuffled."""
    rng = np.random.default_rng(seed)
    lines = np.tile(np.arange(side), (samples, 1))
    rows, cols = rng.permuted(lines, axis=1), rng.permuted(lines, axis=1)
    return np.asarray((cols[:, None, :] - rows[:, :, None]) % side < n)
