"""Every pattern tried: one matrix product and an argmax.

A side of at most 4 has few regular masks (24 at 1:4, 90 at 2:4), so all of them are scored at once. Products are made
in float64, where sums of up to 16 float32 scores that differ by less than a factor 2^25 are exact; beyond that, and
for float64 scores, two masks whose objectives differ by less than 2^-48 of them may be taken for each other.

Cost: O(P m^2) a block for P patterns, in the speed of a matrix product; memory O(P) a block.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from tmask.blocks.arrays import Masks, Scores
from tmask.judging.answers import Answer
from tmask.solving.solver import Solver


@dataclass(frozen=True)
class Patterns(Solver):
    """Exact, for blocks of side 4 and less; needs numpy alone; no settings."""

    name: ClassVar[str] = "patterns"
    exact: ClassVar[bool] = True
    max_side: ClassVar[int] = 4
    chunk: ClassVar[int] = 1 << 14

    def _solve(self, scores: Scores, n: int) -> Answer:
        num_blocks, side = scores.shape[:2]
        masks = regular_masks(n, side)  # (P, m, m)
        flat = masks.reshape(len(masks), -1).astype(np.float64)
        # In float64, in which sums of float32 scores seldom round (above).
        objectives = scores.reshape(num_blocks, -1).astype(np.float64) @ flat.T  # (B, P)
        return Answer(masks[objectives.argmax(1)])


@cache
def regular_masks(n: int, side: int) -> Masks:
    """(P, m, m) bool: every mask with exactly n per row and column, from every choice of rows."""
    rows = [np.isin(np.arange(side), kept) for kept in itertools.combinations(range(side), n)]
    masks: Masks = np.array(list(itertools.product(rows, repeat=side)))  # (R^m, m, m)
    masks = masks[(masks.sum(1) == n).all(1)]
    masks.flags.writeable = False  # it is cached, so all callers have the same one
    return masks
