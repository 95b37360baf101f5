"""The blocks of weights, for a comparison: the full ones alone, since solvers are measured on one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tmask.blocks.arrays import Scores
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling


def gather_blocks(tensors: Sequence[tuple[Scores, int, str | None]], pattern: Pattern) -> tuple[Scores, int]:
    """All full blocks (B, m, m) of layers, and the number of tiles that are cut short.

    Args:
        tensors: scores of each layer, its groups, and its layout (None for the only one that its shape can mean).
    """
    # Weights without full blocks give an empty array, not an error of numpy's.
    full = [np.empty((0, pattern.m, pattern.m), np.float32)]
    cut_short = 0
    for scores, groups, layout in tensors:
        tiling = Tiling(scores.shape, pattern, groups, layout)
        for region, blocks in zip(tiling.regions(), tiling.split(scores), strict=True):
            if region.full:
                full.append(blocks)
            else:
                cut_short += len(blocks)
    return np.concatenate(full), cut_short
