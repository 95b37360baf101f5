"""From a fractional solution to a mask with exactly n per line.

Greedy, heavy to light, keeps an entry if its row and column both have room. A row i and a column j may be left short.
Then some kept (k, c) has (k, j) and (i, c) free, and trading it for those two adds one to row i and one to column j,
and changes nothing else: row i keeps fewer than n, and column j too, so the m - n + 1 or more columns that are free in
row i hold more kept entries than the at most n - 1 rows that keep column j can account for. The one that gains most is
traded. (If (i, j) itself is free, it was greedy's to keep.)

Numpy, all blocks at once: one step a rank of the sorted entries. Source: [Meng2025, section 3.2] for the idea.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import Masks

Values = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]


def round_to_regular(values: Values, n: int) -> Masks:
    """(B, m, m) bool with n per row and column, from values (B, m, m) that say how much an entry is wanted."""
    num_blocks, side = values.shape[:2]
    masks = np.zeros(values.shape, np.bool_)
    rows = np.full((num_blocks, side), n)
    cols = np.full((num_blocks, side), n)
    every = np.arange(num_blocks)
    order = np.argsort(-values.reshape(num_blocks, -1), axis=1, kind="stable")  # (B, m * m)
    for place in order.T:
        i, j = place // side, place % side
        kept = (rows[every, i] > 0) & (cols[every, j] > 0)
        masks[every, i, j] = kept
        rows[every, i] -= kept
        cols[every, j] -= kept
    short = np.flatnonzero(rows.any(1))
    while len(short):
        _trade(values, masks, rows, cols, short)
        short = short[rows[short].any(1)]
    return masks


def _trade(
    values: npt.NDArray[np.floating],
    masks: Masks,
    rows: npt.NDArray[np.int_],
    cols: npt.NDArray[np.int_],
    short: npt.NDArray[np.int_],
) -> None:
    """Give the first short row and column of each block in `short` one entry more."""
    i, j = (rows[short] > 0).argmax(1), (cols[short] > 0).argmax(1)
    part, kept = values[short], masks[short]  # (b, m, m)
    pick = np.arange(len(short))
    free_row, free_col = ~kept[pick, i], ~kept[pick, :, j]  # (b, m): columns free in row i, rows free in column j
    usable = kept & free_row[:, None, :] & free_col[:, :, None]
    gain = part[pick, i][:, None, :] + part[pick, :, j][:, :, None] - part
    best = np.where(usable, gain, -np.inf).reshape(len(short), -1).argmax(1)
    k, c = best // kept.shape[2], best % kept.shape[2]
    direct = free_row[pick, j]  # (i, j) is free: keep it
    masks[short, i, j] |= direct
    traded = ~direct
    masks[short[traded], k[traded], c[traded]] = False
    masks[short[traded], i[traded], c[traded]] = True
    masks[short[traded], k[traded], j[traded]] = True
    rows[short, i] -= 1
    cols[short, j] -= 1
