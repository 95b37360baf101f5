"""Columns balanced along ties: entries exchanged that are worth the same, found by a search over sets of lines in bits.

A row at whose price some entries are kept and others are not may exchange one for the other at no cost. The search
goes from columns that keep too many, by such rows, to columns that keep too few.
"""

from __future__ import annotations

import numpy as np

from tmask_solvers.cpu_kernels.compiling import inlined, lean_kernel
from tmask_solvers.cpu_kernels.midpoint.lanes import lowest_bit
from tmask_solvers.cpu_kernels.midpoint.room import Array, Paths


@inlined
def exchange_at_once(paths: Paths, over: int, under: int, digits: int, m: int) -> tuple[int, int]:
    """The exchanges that one row makes alone; returns the columns that then keep too many, and those too few."""
    level, kept = paths.level, paths.kept
    many, few = over, under
    for i in range(m):
        give, take = level[i] & kept[i] & many, level[i] & ~kept[i] & few
        while give and take:
            old, new = lowest_bit(give), lowest_bit(take)
            kept[i] ^= (np.int64(1) << old) | (np.int64(1) << new)
            give &= give - 1
            take &= take - 1
            many &= ~counted(paths.planes, digits, old, 1)
            few &= ~counted(paths.planes, digits, new, -1)
    return many, few


@lean_kernel
def counted(planes: Array, digits: int, column: int, more: int) -> int:
    """Let a column lack so many more; the column's bit if it lacks none then."""
    bit = np.int64(1) << column
    lacking = np.int64(0)
    for p in range(digits):
        lacking |= ((planes[p] >> column) & 1) << p
    lacking += more
    for p in range(digits):
        planes[p] = (planes[p] & ~bit) | (((lacking >> p) & 1) << column)
    return bit if lacking == 1 << (digits - 1) else np.int64(0)


@inlined
def reach(level: Array, kept: Array, over: int, under: int, row_of: Array, into: Array, m: int) -> tuple[int, int, int]:
    """Columns and rows that are reached from columns `over`, and how many steps were made, 0 if `under` is not met.

    Step k went by row row_of[k] into columns into[k]; the last one is the first that meets `under`.
    """
    columns, rows = over, np.int64(0)
    steps = 0
    growing = True
    while growing:
        growing = False
        for i in range(m):
            fresh = level[i] & ~kept[i] & ~columns
            if (rows >> i) & 1 == 0 and level[i] & kept[i] & columns:
                rows |= np.int64(1) << i
                if fresh:
                    row_of[steps], into[steps] = i, fresh
                    steps += 1
                    columns |= fresh
                    if fresh & under:
                        return columns, rows, steps
                    growing = True
    return columns, rows, 0


@inlined
def exchange(level: Array, kept: Array, over: int, end: int, steps: int, row_of: Array, into: Array) -> int:
    """Exchange along the way to column `end`, which the last step met; returns the column of `over` it began at."""
    to = end
    k = steps - 1
    begin = np.int64(0)
    while begin == 0:
        i = row_of[k]
        old = level[i] & kept[i]  # before the exchange, and so are all rows that are still to come
        begin = old & over
        choice = begin
        if begin == 0:
            # A column by which the row was reached: one of the latest of the earlier steps that leads into any.
            k -= 1
            while old & into[k] == 0:
                k -= 1
            choice = old & into[k]
        given = lowest_bit(choice)
        kept[i] = (kept[i] | (np.int64(1) << to)) ^ (np.int64(1) << given)
        to = given
    return to
