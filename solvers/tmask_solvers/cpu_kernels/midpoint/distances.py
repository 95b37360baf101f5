"""Prices changed where ties do not balance the columns: shortest paths as by Dijkstra, a set of lines at once.

From a column that is reached, a row that keeps an entry there is as far as that entry is above the row's price; from a
row, a column is as far as the entry there is below it. Columns that keep too many are at 0, and the search ends at the
first distance at which a column keeps too few. Prices then move by what is left of that distance, so that the entries
along all shortest paths tie, and no kept entry falls below its row's price, nor any other rises above it.

Source: successive shortest paths with potentials [Ahuja1993, section 9.7].
"""

from __future__ import annotations

import numpy as np

from tmask_solvers.cpu_kernels.compiling import inlined
from tmask_solvers.cpu_kernels.midpoint.bits import STEP, equal, least, least_left, shorten
from tmask_solvers.cpu_kernels.midpoint.lanes import lowest_bit
from tmask_solvers.cpu_kernels.midpoint.room import Paths, padded

_padded = inlined(padded)
_BYTE = (1 << STEP) - 1


@inlined
def change_prices(paths: Paths, reached: int, reached_rows: int, under: int, m: int) -> None:
    """Move prices until ties lead to a column of `under`; the lines given are what they lead to now."""
    q, u, v, to_row, to_column = paths.q, paths.u, paths.v, paths.to_row, paths.to_column
    everyone = (np.int64(1) << m) - 1
    width = _padded(m)
    to_row[:] = np.inf
    to_column[:] = np.inf
    columns, rows = reached, reached_rows
    left_columns, left_rows = everyone, everyone
    distance = 0.0
    while True:
        left_columns &= ~columns
        left_rows &= ~rows
        todo = left_rows
        while todo:
            i = lowest_bit(todo)
            todo &= todo - 1
            hit = paths.kept[i] & columns
            if hit:
                near = to_row[i] - (distance - u[i])
                for k in range(0, width, STEP):
                    near = least_left(q, i * width + k, v, k, (hit >> k) & _BYTE, near)
                to_row[i] = near + (distance - u[i])
        while columns:
            j = lowest_bit(columns)
            columns &= columns - 1
            to_column[j] = distance
        while rows:
            i = lowest_bit(rows)
            rows &= rows - 1
            to_row[i] = distance
            free = ~paths.kept[i] & left_columns
            for k in range(0, width, STEP):
                shorten(to_column, k, distance + u[i], v, q, i * width + k, (free >> k) & _BYTE)
        distance = np.inf
        for k in range(0, width, STEP):
            distance = least(to_column, k, (left_columns >> k) & _BYTE, distance)
            distance = least(to_row, k, (left_rows >> k) & _BYTE, distance)
        for k in range(0, width, STEP):
            columns |= equal(to_column, k, distance) << k
            rows |= equal(to_row, k, distance) << k
        columns &= left_columns
        rows &= left_rows
        if columns & under:
            break
    for k in range(m):
        v[k] += max(distance - to_column[k], 0.0)
        u[k] -= max(distance - to_row[k], 0.0)
