"""The blocks of weights, for a comparison: the full ones alone, since solvers are measured on one size.

Of many, a random part: no solver needs more than some millions of weights to show what it is worth, and a model would
not fit in memory as blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tmask.blocks.arrays import Scores
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling

_MOST_ENTRIES = 1 << 22  # 16 MiB of float32, more than caches hold


@dataclass(frozen=True, slots=True)
class ComparedWeight:
    """A weight that blocks are taken of.

    Args:
        shape: of the weight.
        groups, layout: as in `solve`; None for the only layout that the shape can mean.
        load: reads its scores; called once for each pattern.
    """

    shape: tuple[int, ...]
    groups: int
    layout: str | None
    load: Callable[[], Scores]


def gather_blocks(parts: Sequence[ComparedWeight], pattern: Pattern, seed: int = 0) -> tuple[Scores, list[str]]:
    """Full blocks (B, m, m) of weights, and remarks on those that are not among them.

    Args:
        seed: of the choice, where there are more than a comparison takes.
    Cost: memory for the blocks, beside one weight's.
    """
    tilings = [Tiling(part.shape, pattern, part.groups, part.layout) for part in parts]
    counts = [_num_full(tiling) for tiling in tilings]
    total, most = sum(counts), max(1, _MOST_ENTRIES // pattern.m**2)
    chosen = np.arange(total)
    if total > most:
        chosen = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    # Weights without full blocks give an empty array, not an error of numpy's.
    found = [np.empty((0, pattern.m, pattern.m), np.float32)]
    before = 0
    for part, tiling, count in zip(parts, tilings, counts, strict=True):
        scores = part.load()  # of a weight without full blocks as well: what is wrong with it is to be said
        first, last = np.searchsorted(chosen, (before, before + count))
        for region, blocks in zip(tiling.regions(), tiling.split(scores), strict=True):
            if region.full:
                found.append(blocks[chosen[first:last] - before])
        before += count
    remarks = []
    if total > most:
        remarks.append(f"{pattern}: of {total:,} full blocks, {most:,} were taken at random")
    if cut_short := sum(tiling.num_blocks for tiling in tilings) - total:
        remarks.append(f"{pattern}: {cut_short:,} tiles that are cut short at an edge were left out")
    return np.concatenate(found), remarks


def _num_full(tiling: Tiling) -> int:
    """Blocks of the region that is whole, of which a tiling has one at most."""
    return tiling.num_matrices * sum(math.prod(region.grid) for region in tiling.regions() if region.full)
