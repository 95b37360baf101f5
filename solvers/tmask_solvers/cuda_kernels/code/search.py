"""Augmenting paths for a warp on one or more tiles, as device functions that become part of the kernel.

The method is Hungarian: while a column keeps more than n, a path leads from such columns to one that keeps fewer,
through entries that cost nothing at the present prices; where there is none, prices move until one entry more costs
nothing. Which entries those are stands in words of bits, so that all nodes of a level are reached by one vote, however
many tie. Distances are integers, and the prices at the end are those that `cpu_kernels.augment` finds along such paths.

Lane t of a tile's team is row t and column t, and holds of both what stands in words:

- own: columns that row t keeps; held: rows that keep column t
- zero_row, zero_col: entries of row t, and of column t, with q = u + v

Shared by the team, from `base` on: u, v (32,) int64 prices; from_col, from_row (32,) int32, the path; and the scores on
the grid, q (32, m + 1) int64. Entries that are kept have q >= u + v, the others q <= u + v.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tmask_solvers.cuda_kernels.code.lines import inlined, lanes_per_tile

FAR = 1 << 62
EVERYONE = 0xFFFFFFFF


def make_search(cuda: Any, n: int, m: int) -> SimpleNamespace:
    """Device functions for n:m; `team` names a lane's team by its bits, `base` by its first lane.

    - lowest(x), highest(x): over the team
    - vote(x, base): a word of the team's votes, bit t for lane t
    - across(word, t, base): bit i of the result is bit t of lane i's word
    - balance(t, line, base, q, u, v, own, from_col, from_row, searching): paths until every column keeps n, in the
      teams that are `searching`; returns `held`
    """
    lanes = lanes_per_tile(m)
    members, stride = (1 << lanes) - 1, m + 1
    steps = tuple(1 << k for k in range((lanes - 1).bit_length()))
    most_steps = 4 * m + 4  # each reaches a node, or moves prices so that the next does; a GPU in error shall not hang

    def lowest(x: Any) -> Any:
        for step in steps:
            x = min(x, cuda.shfl_xor_sync(EVERYONE, x, step))
        return x

    def highest(x: Any) -> Any:
        for step in steps:
            x = max(x, cuda.shfl_xor_sync(EVERYONE, x, step))
        return x

    def vote(x: Any, base: Any) -> Any:
        return (np.int64(cuda.ballot_sync(EVERYONE, x)) >> base) & members

    lowest, highest, vote = inlined(cuda, lowest), inlined(cuda, highest), inlined(cuda, vote)

    def across(word: Any, t: Any, base: Any) -> Any:
        result: Any = np.int64(0)
        for j in range(m):
            votes = vote((word >> j) & 1 != 0, base)
            result = votes if t == j else result
        return result

    across = inlined(cuda, across)

    def zeros_of_row(line: Any, base: Any, q: Any, u: Any, v: Any) -> Any:
        """Bit j: the entry (line, j) costs nothing."""
        word: Any = np.int64(0)
        for j in range(m):
            if q[(base + line) * stride + j] == u[base + line] + v[base + j]:
                word |= np.int64(1) << j
        return word

    zeros_of_row = inlined(cuda, zeros_of_row)

    def nearest(
        line: Any, base: Any, q: Any, u: Any, v: Any, own: Any, held: Any, rows: Any, cols: Any, row: Any, col: Any
    ) -> Any:
        """What the cheapest entry out of this lane's row and column costs, where they are reached (`row`, `col`).

        Args:
            rows, cols: words of those that are reached.
        """
        best: Any = np.int64(FAR)
        for k in range(m):
            # From its row to a column that the row does not keep, from its column to a row that keeps that.
            if row and ((own | cols) >> k) & 1 == 0:
                best = min(best, u[base + line] + v[base + k] - q[(base + line) * stride + k])
            if col and (held & ~rows) >> k & 1 == 1:
                best = min(best, q[(base + k) * stride + line] - u[base + k] - v[base + line])
        return best

    nearest = inlined(cuda, nearest)

    def exchange(t: Any, base: Any, end: Any, from_col: Any, from_row: Any, own: Any, held: Any) -> Any:
        """`own` and `held` after the path to column `end`: each row gives up the column before for the next one."""
        at: Any = end
        i: Any = np.int64(from_row[base + at])
        while i >= 0:
            before = np.int64(from_col[base + i])
            if t == i:
                own = (own | (np.int64(1) << at)) & ~(np.int64(1) << before)
            if t == at:
                held |= np.int64(1) << i
            if t == before:
                held &= ~(np.int64(1) << i)
            at = before
            i = np.int64(from_row[base + at])
        return own, held

    exchange = inlined(cuda, exchange)

    def balance(
        t: Any, line: Any, base: Any, q: Any, u: Any, v: Any, own: Any, from_col: Any, from_row: Any, searching: Any
    ) -> Any:
        lane = base + t
        mine = t < m
        held = across(own, t, base)
        zero_row = zeros_of_row(line, base, q, u, v)
        zero_col = across(zero_row, t, base)
        paths = 0
        over = vote(mine and cuda.popc(held) > n, base)  # apart: all threads vote, and `and` would leave some out
        searching = searching and over != 0
        # All threads stay to the end, since votes need them; in teams that have done, nothing changes any more.
        while cuda.any_sync(EVERYONE, searching):
            kept = cuda.popc(held)
            short = vote(mine and kept < n, base)
            row, col = False, mine and kept > n  # reached so far, from the columns that keep too many
            rows: Any = np.int64(0)
            cols = vote(col, base)
            front = cols
            cuda.syncwarp()  # the path before has been read
            from_row[lane] = -1
            end: Any = np.int64(-1)
            stuck = False
            taken = 0
            looking = searching
            while cuda.any_sync(EVERYONE, looking):
                hit = zero_row & own & front
                fresh = looking and mine and not row and hit != 0
                if fresh:
                    row = True
                    from_col[lane] = cuda.popc((hit & -hit) - 1)
                new_rows = vote(fresh, base)
                rows |= new_rows
                hit = zero_col & ~held & new_rows
                fresh = looking and mine and not col and hit != 0
                if fresh:
                    col = True
                    from_row[lane] = cuda.popc((hit & -hit) - 1)
                front = vote(fresh, base)
                cols |= front
                taken += 1
                ends = front & short
                if looking and ends != 0:
                    end = np.int64(cuda.popc((ends & -ends) - 1))
                stuck = looking and (taken > most_steps)
                looking = looking and ends == 0 and not stuck
                # Prices move where nothing more can be reached; then all that was reached is looked at again.
                dry = looking and front == 0
                if cuda.any_sync(EVERYONE, dry):
                    apart = lowest(nearest(line, base, q, u, v, own, held, rows, cols, dry and row, dry and col))
                    if dry and apart == FAR:
                        stuck, looking, dry = True, False, False
                    cuda.syncwarp()  # all have read the prices
                    if dry and row:
                        u[lane] -= apart
                    if dry and col:
                        v[lane] += apart
                    cuda.syncwarp()
                    zero_row = zeros_of_row(line, base, q, u, v)
                    zero_col = across(zero_row, t, base)
                    if dry:
                        front = cols
                    # A row that is reached already leads on to a column that costs nothing now.
                    hit = zero_col & ~held & rows
                    fresh = dry and mine and not col and hit != 0
                    if fresh:
                        col = True
                        from_row[lane] = cuda.popc((hit & -hit) - 1)
                    more = vote(fresh, base)
                    front |= more
                    cols |= more
                    ends = more & short
                    if looking and ends != 0:
                        end = np.int64(cuda.popc((ends & -ends) - 1))
                        looking = False
            cuda.syncwarp()  # the path is read by all, and was written by each of its nodes
            if searching and end >= 0:
                own, held = exchange(t, base, end, from_col, from_row, own, held)
            paths += 1
            over = vote(mine and cuda.popc(held) > n, base)
            searching = searching and not stuck and end >= 0 and over != 0 and paths < n * m
        return held

    return SimpleNamespace(lowest=lowest, highest=highest, vote=vote, balance=inlined(cuda, balance))
