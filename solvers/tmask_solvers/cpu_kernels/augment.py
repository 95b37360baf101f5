"""Shortest augmenting paths for one block, in integers: exact for every input, from any column prices.

Scores become integers q, so that all sums are exact; docs: exactness, section 3, says what is lost where that rounds
them. Entries that are kept have q - u - v >= 0, others <= 0, throughout; only the column counts are wrong at first, and
each path from a column with too many entries to one with too few repairs a unit of that.

Cost: O(m^3) for the start, O(m^2) a path. Source: successive shortest paths with potentials [Ahuja1993, section 9.7].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tmask_solvers.cpu_kernels.compiling import lean_kernel
from tmask_solvers.shared.constants import GRID_BITS, LAST_PLACE, PLACE_BITS

Array = npt.NDArray[Any]

FAR = np.int64(2**62)


@lean_kernel
def grid_exponent(score: Array) -> int:
    """The power of two that takes a block (m, m) to its grid, 0 for a block of zeros."""
    high = 0.0
    for i in range(score.shape[0]):
        for j in range(score.shape[1]):
            high = max(high, np.float64(score[i, j]))
    return GRID_BITS - math.frexp(high)[1] if high > 0.0 else 0


@lean_kernel
def quantise(score: Array, shift: int, q: Array) -> bool:
    """q (m, m) int64 = score * 2^shift, rounded; whether any was. In two steps, since 2^shift itself may overflow."""
    first = shift // 2
    s, t = math.ldexp(1.0, first), math.ldexp(1.0, shift - first)
    rounded = False
    for i in range(score.shape[0]):
        for j in range(score.shape[1]):
            scaled = np.float64(score[i, j]) * s * t
            # Cut after adding a half, which is exact below 2^46: scores are never negative.
            q[i, j] = np.int64(scaled + 0.5)
            # What is scaled to nothing was rounded, too: float64 spans more than its own exponents.
            rounded |= np.float64(q[i, j]) != scaled or (score[i, j] > 0 and q[i, j] == 0)
    return rounded


@lean_kernel
def insert_largest(x: int, top: Array) -> None:
    """Insert x into the descending list `top`, whose last entry falls out."""
    last = top.size - 1
    if x > top[last]:
        while last > 0 and top[last - 1] < x:
            top[last] = top[last - 1]
            last -= 1
        top[last] = x


@lean_kernel
def column_midpoints(q: Array, n: int, top: Array, v: Array) -> None:
    """v_j half way between the n-th and the (n+1)-th largest of column j, rounded down; `top` holds n + 1 values."""
    m = q.shape[0]
    for j in range(m):
        top[:] = -FAR
        for i in range(m):
            insert_largest(q[i, j], top)
        v[j] = (top[n - 1] + top[n]) >> 1


@lean_kernel
def take_rows(q: Array, n: int, u: Array, v: Array, top: Array, key: Array, kept: Array, count: Array) -> None:
    """Each row keeps its n best of q - v, and u becomes the least of them.

    Where the n-th equals the next, equal ones are taken in turn from column i * n mod m on, so that constant blocks
    balance at once: keys pack the reduced score and that turn, and an entry's rank is the number of greater keys.
    """
    m = q.shape[0]
    count[:] = 0
    for i in range(m):
        top[:] = -FAR
        for j in range(m):
            insert_largest(q[i, j] - v[j], top)
        u[i] = top[n - 1]
        # Ranks take m^2 comparisons, and are for rows that tie alone.
        if top[n - 1] > top[n]:
            for j in range(m):
                kept[i, j] = q[i, j] - v[j] >= u[i]
        else:
            turn = (i * n) % m
            for j in range(m):
                position = j - turn
                position += m if position < 0 else 0
                key[j] = ((q[i, j] - v[j]) << PLACE_BITS) + (LAST_PLACE - position)
            for j in range(m):
                greater = np.int64(0)
                for k in range(m):
                    greater += np.int64(key[k] > key[j])
                kept[i, j] = greater < n
        for j in range(m):
            count[j] += np.int64(kept[i, j])


@lean_kernel
def augment(
    q: Array, n: int, u: Array, v: Array, best: Array, closed: Array, parent: Array, kept: Array, count: Array
) -> int:
    """Balance the column counts by shortest paths; returns their number.

    Dijkstra from all over-full columns at once, over columns 0..m-1 and rows m..2m-1: from a column through an entry
    that is kept, from a row through one that is not, at reduced costs >= 0. `best` holds
    distance and node in one key (`PLACE_BITS`); `closed` is FAR for scanned nodes, 0 else.
    """
    m = q.shape[0]
    paths = 0
    while True:
        surplus = False
        for j in range(m):
            over = count[j] > n
            surplus |= over
            best[j] = j if over else FAR
            best[m + j] = FAR
            parent[j] = -1
        if not surplus:
            return paths
        closed[:] = 0
        while True:
            low = FAR
            for k in range(2 * m):
                low = min(low, best[k] | closed[k])  # FAR is one high bit: what is scanned is far, without a branch
            at = low & LAST_PLACE
            distance = low >> PLACE_BITS
            if at < m:
                # Before it is scanned: a deficient column keeps the price it began with, which bounds all others.
                if count[at] < n:
                    break
                closed[at] = FAR
                base = distance - v[at]
                for i in range(m):
                    to = ((base + q[i, at] - u[i]) << PLACE_BITS) + (m + i)
                    if kept[i, at] and to < best[m + i]:
                        best[m + i] = to
                        parent[m + i] = at
            else:
                closed[at] = FAR
                base = distance + u[at - m]
                for j in range(m):
                    to = ((base + v[j] - q[at - m, j]) << PLACE_BITS) + j
                    if not kept[at - m, j] and to < best[j]:
                        best[j] = to
                        parent[j] = at
        # Now the entries of the path cost nothing, and the others no less than that, so it can be exchanged.
        for k in range(m):
            v[k] += distance - (best[k] >> PLACE_BITS) if closed[k] else 0
            u[k] -= distance - (best[m + k] >> PLACE_BITS) if closed[m + k] else 0
        count[at] += 1
        while parent[at] >= 0:
            i = parent[at] - m
            kept[i, at] = True
            at = parent[m + i]
            kept[i, at] = False
        count[at] -= 1
        paths += 1
