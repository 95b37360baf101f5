"""The blocks of weights, for a comparison: the full ones alone, since solvers are measured on one size.

Of many, a random part: no solver needs more than some millions of weights to show what it is worth, and a model would
not fit in memory as blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


def gather_blocks(
    parts: Sequence[ComparedWeight], pattern: Pattern, seed: int = 0, shuffled: bool = False
) -> tuple[Scores, list[str]]:
    """Full blocks (B, m, m) of weights, and remarks on those that are not among them.

    Args:
        seed: of the choice, where there are more than a comparison takes, and of the order.
        shuffled: in the order that `compare` would bring them in, which then need not copy them.
    Cost: memory for the blocks, beside one weight's.
    """
    tilings = [Tiling(part.shape, pattern, part.groups, part.layout) for part in parts]
    counts = [_num_full(tiling) for tiling in tilings]
    total, most = sum(counts), max(1, _MOST_ENTRIES // pattern.m**2)
    few = total <= most
    # A list of all there are would be larger than the blocks that are taken.
    chosen = np.arange(total) if few else np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    gathered = np.empty((len(chosen), pattern.m, pattern.m), np.float32)
    places = np.arange(len(chosen))
    if shuffled:
        places[shuffled_order(len(chosen), seed)] = np.arange(len(chosen))
    before = 0
    for part, tiling, count in zip(parts, tilings, counts, strict=True):
        scores = part.load()  # of a weight without full blocks as well: what is wrong with it is to be said
        if scores.dtype == np.float64:
            gathered = gathered.astype(np.float64, copy=False)
        first, last = np.searchsorted(chosen, (before, before + count))
        _take_full(tiling, scores, chosen[first:last] - before, gathered, places[first:last])
        before += count
        del scores  # or it would lie beside the next one
    remarks = []
    if not few:
        remarks.append(f"{pattern}: of {total:,} full blocks, {most:,} were taken at random")
    if cut_short := sum(tiling.num_blocks for tiling in tilings) - total:
        remarks.append(f"{pattern}: {cut_short:,} tiles that are cut short at an edge were left out")
    return gathered, remarks


def shuffled_order(count: int, seed: int) -> npt.NDArray[np.int64]:
    """The order of a comparison: weights come in one of their own, and the first blocks must be a sample of all."""
    return np.random.default_rng(seed).permutation(count)


def _take_full(
    tiling: Tiling, scores: Scores, chosen: npt.NDArray[np.int64], gathered: Scores, places: npt.NDArray[np.int64]
) -> None:
    """Copy some of a weight's full blocks, by their numbers, to their places, and nothing but these."""
    m = tiling.pattern.m
    for region in tiling.regions():
        if region.full:
            matrices = region.cut(tiling.to_matrices(scores))
            down, across = region.grid
            tiles = matrices.reshape(*matrices.shape[:2], down, m, across, m)  # (K, G, down, m, across, m), a view
            tiles = tiles.transpose(0, 1, 2, 4, 3, 5)
            gathered[places] = tiles[np.unravel_index(chosen, tiles.shape[:4])]


def _num_full(tiling: Tiling) -> int:
    """Blocks of the region that is whole, of which a tiling has one at most."""
    return tiling.num_matrices * sum(math.prod(region.grid) for region in tiling.regions() if region.full)
