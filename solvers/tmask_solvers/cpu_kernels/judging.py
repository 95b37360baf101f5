"""The core's checks of blocks as compiled loops, with the same results as numpy's in `tmask.judging.duals`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import Masks, Prices, Scores
from tmask_solvers.cpu_kernels.compiling import kernel
from tmask_solvers.cpu_kernels.examining import examine_window
from tmask_solvers.cpu_kernels.sums import ROOM
from tmask_solvers.cpu_kernels.tiles import make_window

Array = npt.NDArray[Any]


def examine(weight: Array, mask: Array, n: int, m: int) -> tuple[float, float, bool]:
    """See `tmask.solving.matrices.examine`."""
    kept, total, regular = examine_window(*make_window(weight, mask), (0,) * n, (0,) * m, np.empty(ROOM))
    return kept, total, regular


@kernel
def count_lines(masks: Masks, rows: Array, cols: Array) -> None:
    """rows, cols (B, m) int64: entries kept in each row and column of masks (B, m, m)."""
    num_blocks, m = masks.shape[:2]
    cols[:] = 0
    for b in range(num_blocks):
        for i in range(m):
            total = 0
            for j in range(m):
                total += masks[b, i, j]
                cols[b, j] += masks[b, i, j]
            rows[b, i] = total


@kernel
def check_prices(scores: Scores, masks: Masks, v: Prices, objective: Array, proven: Array) -> None:
    """objective, proven (B,): kept score of each block, and whether prices v (B, m) prove its (regular) mask optimal.

    In each row the smallest kept s - v must be no less than the largest pruned one. Rounded differences that differ
    decide it, because rounding is monotone; equal ones are looked at exactly.
    """
    num_blocks, m = masks.shape[:2]
    # A block lies here column by column: its rows then are SIMD lanes, where a minimum along a row would be a chain.
    score, mask = np.empty((m, m)), np.empty((m, m), np.bool_)
    kept, pruned, total, rest = np.empty(m), np.empty(m), np.empty(m), np.empty(m)
    for b in range(num_blocks):
        for i in range(m):
            for j in range(m):
                score[j, i], mask[j, i] = scores[b, i, j], masks[b, i, j]
        for i in range(m):
            kept[i], pruned[i], total[i], rest[i] = np.inf, -np.inf, 0.0, 0.0
        for j in range(m):
            price = v[b, j]
            for i in range(m):
                s, on = score[j, i], mask[j, i]
                x = s - price
                # No early way out of a block that is not proven: the sum takes every entry.
                total[i] += s if on else 0.0
                high, low = x if on else np.inf, -np.inf if on else x
                kept[i] = high if high < kept[i] else kept[i]
                pruned[i] = low if low > pruned[i] else pruned[i]
                rest[i] += x - x  # NaN for a difference that is not finite, which proves nothing
        good = True
        kept_score = 0.0
        for i in range(m):
            kept_score += total[i]
            good &= rest[i] == 0
            if kept[i] < pruned[i] or (kept[i] == pruned[i] and not _ordered(scores[b, i], masks[b, i], v[b], kept[i])):
                good = False
        objective[b] = kept_score
        proven[b] = good


@kernel
def _ordered(score: Array, mask: Array, v: Array, tie: float) -> bool:
    """Among the entries of a row whose rounded s - v is `tie`: no kept one is truly less than a pruned one.

    Their true differences are tie + e with the rounding error e, which [Knuth1997, 4.2.2, theorem B] computes exactly.
    """
    # Apart from the caller's loop, since few rows tie, and six more additions an entry would cost all of them.
    kept, pruned = np.inf, -np.inf
    for j in range(score.size):
        s = np.float64(score[j])
        x = s - v[j]
        if x == tie:
            back = x - s
            error = (s - (x - back)) - (v[j] + back)
            if mask[j]:
                kept = min(kept, error)
            else:
                pruned = max(pruned, error)
    return bool(kept >= pruned)
