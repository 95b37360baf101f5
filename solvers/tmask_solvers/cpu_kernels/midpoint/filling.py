"""Ties filled: each row takes, among its entries at its price, those whose columns lack most.

What the columns lack is counted in bits, a plane a binary digit with a column a bit, so that all columns of a row count
at once. Which of the equal entries a row takes changes no sum of scores: so the mask stays optimal for its prices.
"""

from __future__ import annotations

import numpy as np

from tmask_solvers.cpu_kernels.compiling import inlined, lean_kernel
from tmask_solvers.cpu_kernels.midpoint.bits import how_many
from tmask_solvers.cpu_kernels.midpoint.room import Array

_PLACES = 5  # digits of a column's number, below 32


@inlined
def fill(above: Array, level: Array, kept: Array, planes: Array, n: int, m: int, digits: int) -> None:
    """kept = above and some of level, n a row; needs at most n of above, and at least n of both, in each row.

    `planes` receives what each column then lacks, raised by 2^(digits - 1) >= m.
    """
    lacking = n + (1 << (digits - 1))
    for p in range(digits):
        planes[p] = -((lacking >> p) & 1)  # all ones or all zeros
    for i in range(m):
        # A row that needs all that it may take leaves no choice, and the others should know of it.
        if how_many(above[i]) + how_many(level[i]) == n:
            kept[i] = above[i] | level[i]
        else:
            kept[i] = above[i]
        _subtract(planes, digits, kept[i])
    for i in range(m):
        wanted = n - how_many(kept[i])
        if wanted > 0:
            taken = _neediest(level[i], wanted, planes, digits, i)
            kept[i] |= taken
            _subtract(planes, digits, taken)


@lean_kernel
def _subtract(planes: Array, digits: int, columns: int) -> None:
    """One less in each column of a set."""
    borrow = columns
    for p in range(digits):
        plane = planes[p]
        planes[p] = plane ^ borrow
        borrow &= ~plane


@lean_kernel
def _neediest(columns: int, count: int, planes: Array, digits: int, row: int) -> int:
    """So many columns of a set, those that lack most; which of equal ones, changes from row to row."""
    among, wanted = columns, count
    taken = np.int64(0)
    # The digits of what columns lack, then those of their places: so no two are equal in the end.
    for p in range(digits + _PLACES):
        if wanted == 0:
            break
        if p < digits:
            plane = planes[digits - 1 - p]
        else:
            place = _PLACES - 1 - (p - digits)
            plane = _place_digit(place) ^ -((row >> place) & 1)
        high = among & plane
        found = how_many(high)
        if found > wanted:
            among = high
        else:
            taken |= high
            among ^= high
            wanted -= found
    return taken | among if wanted > 0 else taken


@inlined
def _place_digit(p: int) -> int:
    """The columns below 32 whose number has digit p."""
    return (0xAAAAAAAA, 0xCCCCCCCC, 0xF0F0F0F0, 0xFF00FF00, 0xFFFF0000)[p]
