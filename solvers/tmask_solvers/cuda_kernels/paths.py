"""Shortest augmenting paths as a CUDA kernel, a warp a tile: solves what the rounds, or the closed forms, left over.

It finds its tiles in a list that the kernel before it has made on the device, so the host waits for nothing. The method
and the arithmetic, on integers, are those of `cpu_kernels.augment`: from the same prices it takes the same paths. A
thread is the row and the column of the same number; it holds its row's mask and its nodes' distances in registers, and
the nearest node is found by shuffles.

Ties are not parted first, as they are on a CPU: a warp scans a node in one step, so paths cost no more here than the
rounds that would save them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tmask_solvers.cuda_kernels.lines import WARP, Real, make_lines

_GRID = 46  # bits of the largest score, as in `cpu_kernels.augment`
_FAR = 1 << 62
_WILD = 2.0**48  # a price above this, on the grid, is no help
_EVERYONE = 0xFFFFFFFF


def make_paths(cuda: Any, n: int, m: int, real: Real, widen: Any) -> Any:
    """The kernel for n:m; the arguments are those of `make_rounds`."""
    lines = make_lines(cuda, n, m, real)
    find, load, extremes, quantise = lines.find, lines.load, lines.extremes, lines.quantise
    keys, largest, word = lines.keys, lines.largest, lines.word
    multiply = cuda.libdevice.dmul_rn
    stride, entries, nodes = m + 1, m * (m + 1), 2 * m

    def solve_left(
        weight: Any,
        mask: Any,
        across: Any,
        down: Any,
        groups: Any,
        row_prices: Any,
        col_prices: Any,
        prices: Any,
        warm: Any,
        left: Any,
        used: Any,
        slack: Any,
    ) -> None:
        """Masks of the tiles in a list, and prices that prove them. A tile with NaN or infinity gets some mask, too.

        Args:
            weight, mask, across, down, groups, left, used: see `rounds`.
            row_prices, col_prices: (tiles, m) float64; the search starts from the latter if `warm`. Column prices are
                written if prices >= 1, row prices if prices == 2.
            slack: (1,) float64, to which is added what masks may lose because scores were rounded.
        """
        lane = cuda.threadIdx.x & 31
        mine = lane < m
        line = min(lane, m - 1)
        q = cuda.shared.array(entries, np.int64)  # (m, m + 1)
        u = cuda.shared.array(WARP, np.int64)
        v = cuda.shared.array(WARP, np.int64)
        kept = cuda.shared.array(WARP, np.int64)  # a word a row
        parent = cuda.shared.array(nodes, np.int32)  # a row before each column, then a column before each row
        item = cuda.blockIdx.x
        while item < used[0]:
            place = left[item]
            k, g, y, x = find(place, across, down, groups)
            column = load(weight, k, g, y, x, line, widen)
            low, high, finite = extremes(column)
            for step in (1, 2, 4, 8, 16):
                low = min(low, cuda.shfl_xor_sync(_EVERYONE, low, step))
                high = max(high, cuda.shfl_xor_sync(_EVERYONE, high, step))
            if cuda.all_sync(_EVERYONE, finite) and low < high:
                shift = _GRID - math.frexp(np.float64(high))[1]
                first = shift >> 1  # 2^shift itself may overflow
                s, t = math.ldexp(1.0, first), math.ldexp(1.0, shift - first)
                start = multiply(multiply(col_prices[place, line], s), t) if warm else 0.0
                cuda.syncwarp()
                rounded = quantise(column, q, line, s, t)
                v[lane] = np.int64(start) if abs(start) < _WILD else np.int64(0)
                cuda.syncwarp()
                # Rows keep their n best; ties in turn from column i * n mod m on.
                row = keys(q, line * stride, v, line * n % m)
                least = largest(row)
                own = word(row, least)
                u[lane] = least >> 7
                kept[lane] = own
                cuda.syncwarp()
                count: Any = 0
                i: Any
                for i in range(m):
                    count += (kept[i] >> line) & 1
                while cuda.any_sync(_EVERYONE, mine and count > n):
                    short = cuda.ballot_sync(_EVERYONE, mine and count < n)
                    # (distance << 7) + node, so that the nearest is a plain minimum; open until scanned
                    col_best: Any = np.int64(lane) if mine and count > n else _FAR
                    row_best: Any = _FAR
                    col_open, row_open = True, True
                    if mine:
                        parent[lane] = -1
                    at: Any = np.int64(0)
                    distance: Any = np.int64(0)
                    searching = True
                    scans = 0
                    while searching and scans < nodes:  # no node twice; a GPU in error shall not hang
                        scans += 1
                        nearest = min(col_best if col_open else _FAR, row_best if row_open else _FAR)
                        for step in (1, 2, 4, 8, 16):
                            nearest = min(nearest, cuda.shfl_xor_sync(_EVERYONE, nearest, step))
                        at, distance = nearest & 127, nearest >> 7
                        if at >= m:  # a row: on through the columns that it does not keep
                            i = at - m
                            row_open = row_open and lane != i
                            reach = ((distance + u[i] + v[line] - q[i * stride + line]) << 7) + line
                            if mine and (kept[i] >> line) & 1 == 0 and reach < col_best:
                                col_best = reach
                                parent[lane] = i
                        elif (short >> at) & 1:
                            searching = False
                        else:  # a column: on through the rows that keep it
                            col_open = col_open and lane != at
                            reach = ((distance - v[at] + q[line * stride + at] - u[line]) << 7) + m + line
                            if mine and (own >> at) & 1 and reach < row_best:
                                row_best = reach
                                parent[m + lane] = at
                    if searching:
                        break
                    cuda.syncwarp()
                    if not col_open:
                        v[lane] += distance - (col_best >> 7)
                    if not row_open:
                        u[lane] -= distance - (row_best >> 7)
                    # Along the path, each row gives up one column for another.
                    if lane == at:
                        count += 1
                    i = np.int64(parent[at])
                    while i >= 0:
                        if lane == i:
                            own |= np.int64(1) << at
                        at = np.int64(parent[m + i])
                        if lane == i:
                            own &= ~(np.int64(1) << at)
                        i = np.int64(parent[at])
                    if lane == at:
                        count -= 1
                    kept[lane] = own
                    cuda.syncwarp()
                if mine:
                    for i in range(m):
                        mask[k, g, y, x, i, lane] = (kept[i] >> lane) & 1 == 1
                    if prices >= 1:
                        col_prices[place, lane] = math.ldexp(np.float64(v[lane]), -shift)
                    if prices == 2:
                        row_prices[place, lane] = math.ldexp(np.float64(u[lane]), -shift)
                if cuda.any_sync(_EVERYONE, rounded) and lane == 0:
                    cuda.atomic.add(slack, 0, math.ldexp(np.float64(n * m), -shift))
            elif mine:  # of equal entries, any mask is best
                for i in range(m):
                    mask[k, g, y, x, i, lane] = (lane + i * (m - n)) % m < n
                if prices >= 1:
                    col_prices[place, lane] = 0.0
                if prices == 2:
                    row_prices[place, lane] = high
            item += cuda.gridDim.x

    return solve_left
