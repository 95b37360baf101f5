"""The steps of shortest augmenting paths for a warp on one tile, as device functions that become part of the kernel.

The method and the arithmetic are those of `cpu_kernels.augment`. Lane k is row k and column k: it holds the distances
of both, its row's mask (`own`) and its column's count, while scores, prices and all masks are shared. Arguments:

- lane: of this thread; line: the same, or m - 1 beyond it, so that idle lanes read something
- q: (m, m + 1) int64 scores on the grid; u, v, kept: (32,) int64 row and column prices, and a word of bits a row
- parent: (2m,) int32, a row before each column, then a column before each row
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tmask_solvers.cuda_kernels.lines import inlined
from tmask_solvers.shared.constants import LAST_PLACE, PLACE_BITS

FAR = 1 << 62
EVERYONE = 0xFFFFFFFF


def make_search(cuda: Any, n: int, m: int) -> SimpleNamespace:
    """Device functions for n:m.

    - lowest(x), highest(x): over the warp
    - balance(lane, line, q, u, v, kept, parent, own): paths until every column of `kept` counts n
    """
    stride, nodes = m + 1, 2 * m

    def lowest(x: Any) -> Any:
        for step in (1, 2, 4, 8, 16):
            x = min(x, cuda.shfl_xor_sync(EVERYONE, x, step))
        return x

    def highest(x: Any) -> Any:
        for step in (1, 2, 4, 8, 16):
            x = max(x, cuda.shfl_xor_sync(EVERYONE, x, step))
        return x

    lowest, highest = inlined(cuda, lowest), inlined(cuda, highest)

    def columns_of(i: Any, distance: Any, best: Any, lane: Any, line: Any, q: Any, u: Any, v: Any, kept: Any) -> Any:
        """This lane's column, reached through row i if that does not keep it."""
        reach = ((distance + u[i] + v[line] - q[i * stride + line]) << PLACE_BITS) + line
        return reach if lane < m and (kept[i] >> line) & 1 == 0 and reach < best else best

    def rows_of(at: Any, distance: Any, best: Any, lane: Any, line: Any, q: Any, u: Any, v: Any, own: Any) -> Any:
        """This lane's row, reached through column `at` if it keeps that."""
        reach = ((distance - v[at] + q[line * stride + at] - u[line]) << PLACE_BITS) + m + line
        return reach if lane < m and (own >> at) & 1 and reach < best else best

    columns_of, rows_of = inlined(cuda, columns_of), inlined(cuda, rows_of)

    def search(lane: Any, line: Any, q: Any, u: Any, v: Any, kept: Any, parent: Any, own: Any, count: Any) -> Any:
        """A shortest path from the over-full columns to a deficient one, which is returned, -1 if there is none.

        `parent` holds the path, and prices are such that entries on it cost nothing.
        """
        mine = lane < m
        # One word that all threads hold: whether a column is deficient is then asked without memory.
        short = cuda.ballot_sync(EVERYONE, mine and count < n)
        # distance and node in one key (`PLACE_BITS`), so that the nearest is a plain minimum; open until scanned
        col_best: Any = np.int64(lane) if mine and count > n else FAR
        row_best: Any = FAR
        col_open, row_open = True, True
        if mine:
            parent[lane] = -1
        at: Any = np.int64(0)
        distance: Any = np.int64(0)
        searching = True
        scans = 0
        while searching and scans < nodes:  # no node twice; a GPU in error shall not hang
            scans += 1
            nearest = lowest(min(col_best if col_open else FAR, row_best if row_open else FAR))
            at, distance = nearest & LAST_PLACE, nearest >> PLACE_BITS
            if at >= m:  # a row: on through the columns that it does not keep
                i = at - m
                row_open = row_open and lane != i
                reached = columns_of(i, distance, col_best, lane, line, q, u, v, kept)
                if reached < col_best:
                    col_best = reached
                    parent[lane] = i
            elif (short >> at) & 1:
                searching = False
            # The branches are those of the whole warp: `nearest` is the same for all of its threads.
            else:  # a column: on through the rows that keep it
                col_open = col_open and lane != at
                reached = rows_of(at, distance, row_best, lane, line, q, u, v, own)
                if reached < row_best:
                    row_best = reached
                    parent[m + lane] = at
        # Paths are read by all threads, and were written each by its own.
        cuda.syncwarp()
        if searching:
            at = np.int64(-1)
        else:
            if not col_open:
                v[lane] += distance - (col_best >> PLACE_BITS)
            if not row_open:
                u[lane] -= distance - (row_best >> PLACE_BITS)
        return at

    def exchange(lane: Any, at: Any, parent: Any, own: Any, count: Any) -> Any:
        """`own` and `count` after the path that ends in column `at`: each of its rows gives up a column for another."""
        if lane == at:
            count += 1
        i: Any = np.int64(parent[at])
        while i >= 0:
            if lane == i:
                own |= np.int64(1) << at
            at = np.int64(parent[m + i])
            if lane == i:
                own &= ~(np.int64(1) << at)
            i = np.int64(parent[at])
        if lane == at:
            count -= 1
        return own, count

    search, exchange = inlined(cuda, search), inlined(cuda, exchange)

    def balance(lane: Any, line: Any, q: Any, u: Any, v: Any, kept: Any, parent: Any, own: Any) -> None:
        mine = lane < m
        # Counted once; `exchange` keeps count from then on.
        count: Any = 0
        for i in range(m):
            count += (kept[i] >> line) & 1
        while cuda.any_sync(EVERYONE, mine and count > n):
            at = search(lane, line, q, u, v, kept, parent, own, count)
            if at < 0:
                break
            own, count = exchange(lane, at, parent, own, count)
            kept[lane] = own
            cuda.syncwarp()

    return SimpleNamespace(lowest=lowest, highest=highest, balance=inlined(cuda, balance))
