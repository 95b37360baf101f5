"""Where a mask breaks its pattern."""

from __future__ import annotations

import numpy as np

from tmask.blocks.tiling import Mask, Tiling
from tmask.judging.counts import count_lines


def first_violation(kept: Mask, tiling: Tiling) -> str:
    """The first break of the pattern in words, or ""."""
    n = tiling.pattern.n
    for region, blocks in zip(tiling.regions(), tiling.split(kept), strict=True):
        rows, columns = count_lines(blocks)  # (B, m); what fills a tile up is not kept
        for line, counts in ("row", rows[:, : region.height]), ("column", columns[:, : region.width]):
            # Full tiles alone can keep n in every line.
            bad = counts != n if region.full else counts > n
            if bad.any():
                block, index = (int(i) for i in np.argwhere(bad)[0])
                rule = "exactly" if region.full else "at most"
                return (
                    f"not a transposable {tiling.pattern} mask: the block at {tiling.locate(region, block)} keeps "
                    f"{counts[block, index]} in its {line} {index}, {rule} {n} allowed "
                    f"({int(bad.any(1).sum())} of {len(bad)} such blocks break it)"
                )
    return ""
