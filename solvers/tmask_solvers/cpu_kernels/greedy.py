"""The greedy that keeps, its repair, and 2-swaps: kernels for one block.

`rows` and `cols` hold how many entries each line still has room for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tmask_solvers.cpu_kernels.compiling import kernel

Array = npt.NDArray[Any]


@kernel
def keep_heavy(order: Array, n: int, rows: Array, cols: Array, kept: Array) -> int:
    """From heavy to light, keep an entry if its row and column both have room; returns how many are missing."""
    m = kept.shape[0]
    rows[:] = n
    cols[:] = n
    kept[:] = False
    missing = n * m  # counted, to stop at the last entry that is kept and not at the lightest
    for k in range(order.size - 1, -1, -1):
        i, j = order[k] // m, order[k] % m
        if rows[i] > 0 and cols[j] > 0:
            kept[i, j] = True
            rows[i] -= 1
            cols[j] -= 1
            missing -= 1
            if missing == 0:
                break
    return int(missing)


@kernel
def fill_short_lines(scores: Array, rows: Array, cols: Array, kept: Array) -> None:
    """Bring every row and column to n, by the trade that gains most for each short pair.

    A kept (k, c) is traded for (k, j) and (i, c), which are free; `shared.rounding` says why there is one.
    """
    m = kept.shape[0]
    for i in range(m):
        while rows[i] > 0:
            j = 0
            while cols[j] == 0:
                j += 1
            if not kept[i, j]:
                kept[i, j] = True
            else:
                # Of any sign: a trade may have to lose, since lines must be full.
                gain, at, to = -np.inf, 0, 0
                for k in range(m):
                    if not kept[k, j]:
                        for c in range(m):
                            if kept[k, c] and not kept[i, c]:
                                value = np.float64(scores[k, j]) + scores[i, c] - scores[k, c]
                                if value > gain:
                                    gain, at, to = value, k, c
                kept[at, to] = False
                kept[at, j] = True
                kept[i, to] = True
            rows[i] -= 1
            cols[j] -= 1


@kernel
def swap_pairs(scores: Array, kept: Array) -> None:
    """2-swaps to a local optimum: kept (i, j) and (k, c) become (i, c) and (k, j) where those are free and weigh more.

    For two rows i and k the gain is a sum, (s_ic - s_kc) + (s_kj - s_ij), of a part for column c, kept by k alone, and
    one for column j, kept by i alone, so the best swap takes the best of each. Pairs of rows are gone over until none
    gains; the objective grows strictly, so that ends.
    """
    m = kept.shape[0]
    improved = True
    while improved:
        improved = False
        for i in range(m):
            for k in range(i):
                to_i, to_k = -np.inf, -np.inf
                c, j = 0, 0
                for column in range(m):
                    if kept[i, column] != kept[k, column]:
                        # In float64 differences of float32 seldom round, and a gain is one.
                        gain = np.float64(scores[i, column]) - np.float64(scores[k, column])
                        if kept[k, column] and gain > to_i:
                            to_i, c = gain, column
                        if kept[i, column] and -gain > to_k:
                            to_k, j = -gain, column
                # Strictly: swaps that gain nothing could go round for ever.
                if to_i + to_k > 0:
                    kept[i, j] = False
                    kept[k, c] = False
                    kept[i, c] = True
                    kept[k, j] = True
                    improved = True
