"""The midpoint iteration over a stack of blocks, 16 at a time, with the exact fallback.

For column prices v let b_i be the (n+1)-th largest of x_ij = fl(s_ij - v_j) in row i. The mask S = [x_ij > b_i] has at
most n entries a row. If every column counts n, so does every row, and S is optimal: rounding is monotone, so x_p > x_q
proves s_p - v_p > s_q - v_q for the very vector v that was used, and complementary slackness holds. No tolerance is
needed, only a subtraction and a strict comparison; and finite prices, so blocks with scores above 2^90 take the
fallback.

A lane that is done is stored and refilled at once, so lanes do not wait for one another. A block that does not balance
within the limit, or whose rows tie exactly (fewer than n entries above b), goes to the fallback, from the prices it
has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tmask.arrays import Scores
from tmask.solver import Masks, Prices
from tmask_solvers._augment import augment, grid_exponent, quantise, take_rows
from tmask_solvers._lanes import balanced, column_step, row_step
from tmask_solvers._numba import kernel

Array = npt.NDArray[Any]

_LARGEST = 2.0**90
_EARLY = 6  # rounds before a tie is believed


@kernel
def solve_blocks(
    scores: Scores,
    ns: tuple[int, ...],
    ms: tuple[int, ...],
    limit: int,
    reals: Array,
    words: Array,
    masks: Masks,
    prices: Prices,
) -> int:
    """Masks and column prices of blocks (B, m, m); returns how many took the fallback.

    Args:
        ns, ms: tuples of length n and m, 0 < n < m <= 32; their lengths are what counts.
        limit: rounds a block.
        reals, words: scratch from `scratch`.
    """
    n, m = len(ns), len(ms)
    lanes = 64 // scores.itemsize
    row_words = (m + 3) // 4
    size = m * lanes
    weight, v, u = reals[: m * size], reals[m * size : (m + 1) * size], reals[(m + 1) * size : (m + 2) * size]
    target, momentum = reals[(m + 2) * size : (m + 3) * size], reals[(m + 3) * size :]
    kept, count = words[: row_words * size], words[row_words * size :]
    reals[:] = 0
    block = np.full(lanes, -1, np.int64)
    age = np.zeros(lanes, np.int64)
    gain = 0.3 if m <= 8 else 0.4 if m <= 16 else 0.5
    following, active, fallbacks = 0, 0, 0
    while True:
        for lane in range(lanes):
            while block[lane] < 0 and following < len(scores):
                if _load(scores[following], lane, lanes, weight):
                    block[lane], age[lane] = following, 0
                    momentum[lane] = 0
                    for i in range(m):
                        u[i * lanes + lane] = 0
                    active += 1
                else:
                    _fall_back(scores[following], n, np.zeros(m), masks[following], prices[following])
                    fallbacks += 1
                following += 1
        if active == 0:
            return fallbacks
        for j in range(m):
            column_step(weight, u, v, target, momentum, j, ns, ms)
        momentum[:] = gain
        count[:] = 0
        for i in range(m):
            row_step(weight, v, u, kept, count, i, ns, ms)
        good = balanced(weight, count, ns, ms)
        for lane in range(lanes):
            age[lane] += 1
            b = block[lane]
            if b < 0:
                continue
            if (good >> lane) & 1:
                for i in range(m):
                    for j in range(m):
                        word = kept[(i * row_words + (j >> 2)) * lanes + lane]
                        masks[b, i, j] = (word >> (8 * (j & 3))) & 1
                for j in range(m):
                    prices[b, j] = v[j * lanes + lane]
            elif age[lane] >= limit or (age[lane] >= _EARLY and _tied(kept, lane, lanes, n, m)):
                start = np.empty(m)
                for j in range(m):
                    start[j] = v[j * lanes + lane]
                _fall_back(scores[b], n, start, masks[b], prices[b])
                fallbacks += 1
            else:
                continue
            block[lane] = -1
            active -= 1


@kernel
def _load(score: Array, lane: int, lanes: int, weight: Array) -> bool:
    """Copy a block into its lane; False if it is too large for finite prices."""
    m = score.shape[0]
    high = score[0, 0]
    for i in range(m):
        for j in range(m):
            x = score[i, j]
            high = max(high, x)
            weight[(i * m + j) * lanes + lane] = x
    return bool(high <= _LARGEST)


@kernel
def _tied(kept: Array, lane: int, lanes: int, n: int, m: int) -> bool:
    """Whether some row has fewer than n entries above its (n+1)-th largest: a tie, which midpoints cannot part."""
    row_words = (m + 3) // 4
    for i in range(m):
        total = 0
        for k in range(row_words):
            word = kept[(i * row_words + k) * lanes + lane]
            total += (word & 1) + ((word >> 8) & 1) + ((word >> 16) & 1) + ((word >> 24) & 1)
        if total < n:
            return True
    return False


@kernel
def _fall_back(score: Array, n: int, start: Array, mask: Array, price: Array) -> None:
    """Shortest augmenting paths from the prices `start`; exact for every block, see `_augment`."""
    m = score.shape[0]
    q = np.empty((m, m), np.int64)
    u, v, key, count = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m, np.int64)
    best, closed, parent = np.empty(2 * m, np.int64), np.empty(2 * m, np.int64), np.empty(2 * m, np.int64)
    shift = grid_exponent(score)
    half = shift // 2  # 2^shift itself may overflow
    quantise(score, shift, q)
    for j in range(m):
        # Any start will do, so a wild one is cut off.
        v[j] = np.int64(min(max(start[j] * 2.0**half * 2.0 ** (shift - half), -(2.0**48)), 2.0**48))
    take_rows(q, n, u, v, np.empty(n + 1, np.int64), key, mask, count)
    augment(q, n, u, v, best, closed, parent, mask, count)
    for j in range(m):
        price[j] = v[j] * 2.0**-half * 2.0 ** (half - shift)


def scratch(m: int, dtype: npt.DTypeLike) -> tuple[Array, Array]:
    """Room for the lanes: weights and prices, mask words; on cache lines, since vectors that straddle two are slow."""
    lanes = 64 // np.dtype(dtype).itemsize
    row_words = (m + 3) // 4
    return _aligned((m * m + 3 * m + 1) * lanes, dtype), _aligned((m + 1) * row_words * lanes, np.int32)


def _aligned(count: int, dtype: npt.DTypeLike) -> Array:
    num_bytes = count * np.dtype(dtype).itemsize
    raw = np.zeros(num_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + num_bytes].view(dtype)
