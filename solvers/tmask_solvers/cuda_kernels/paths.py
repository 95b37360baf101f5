"""Shortest augmenting paths as a CUDA kernel, a warp a tile: solves what the rounds, or the closed forms, left over.

It finds its tiles in a list that the kernel before it has made on the device, so the host waits for nothing. From the
same prices it takes the same paths as `cpu_kernels.augment` (`search` has them).

Ties are not parted first, as they are on a CPU: a warp scans a node in one step, so paths cost no more here than the
rounds that would save them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tmask_solvers.cuda_kernels.lines import WARP, Real, inlined, make_lines
from tmask_solvers.cuda_kernels.search import EVERYONE, make_search
from tmask_solvers.shared.constants import GRID_BITS, PLACE_BITS, WILD_PRICE


def make_paths(cuda: Any, n: int, m: int, real: Real, widen: Any) -> Any:
    """The kernel for n:m; the arguments are those of `make_rounds`."""
    lines, steps = make_lines(cuda, n, m, real), make_search(cuda, n, m)
    find, load, extremes, quantise = lines.find, lines.load, lines.extremes, lines.quantise
    keys, largest, word = lines.keys, lines.largest, lines.word
    lowest, highest, balance = steps.lowest, steps.highest, steps.balance
    multiply = cuda.libdevice.dmul_rn
    stride, entries, nodes = m + 1, m * (m + 1), 2 * m

    def to_grid(column: Any, price: Any, shift: Any, lane: Any, line: Any, q: Any, v: Any) -> Any:
        """Scores and column prices in units of the grid; whether a score of this lane's column was rounded."""
        first = shift >> 1  # 2^shift itself may overflow
        s, t = math.ldexp(1.0, first), math.ldexp(1.0, shift - first)
        start = multiply(multiply(price, s), t)
        cuda.syncwarp()  # all have done with the tile before, whose numbers are overwritten now
        rounded = quantise(column, q, line, s, t)
        v[lane] = np.int64(start) if abs(start) < WILD_PRICE else np.int64(0)
        cuda.syncwarp()
        return rounded

    def take_rows(lane: Any, line: Any, q: Any, u: Any, v: Any, kept: Any) -> Any:
        """Rows keep their n best; ties in turn from column i * n mod m on. Returns what this lane's row keeps."""
        # Keys differ, so exactly n are at least the n-th largest, whatever ties.
        row = keys(q, line * stride, v, line * n % m)
        least = largest(row)
        own = word(row, least)
        u[lane] = least >> PLACE_BITS
        kept[lane] = own
        cuda.syncwarp()
        return own

    to_grid, take_rows = inlined(cuda, to_grid), inlined(cuda, take_rows)

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
        kept = cuda.shared.array(WARP, np.int64)
        parent = cuda.shared.array(nodes, np.int32)
        # The list's length is read where it was counted; the host does not know it.
        item = cuda.blockIdx.x
        while item < used[0]:
            place = left[item]
            k, g, y, x = find(place, across, down, groups)
            column = load(weight, k, g, y, x, line, widen)
            low, high, finite = extremes(column)
            low, high = lowest(low), highest(high)
            # The whole warp goes one way: votes and barriers inside wait for all of its threads.
            if cuda.all_sync(EVERYONE, finite) and low < high:
                shift = GRID_BITS - math.frexp(np.float64(high))[1]
                rounded = to_grid(column, col_prices[place, line] if warm else np.float64(0), shift, lane, line, q, v)
                own = take_rows(lane, line, q, u, v, kept)
                balance(lane, line, q, u, v, kept, parent, own)
                if mine:
                    for i in range(m):
                        mask[k, g, y, x, i, lane] = (kept[i] >> lane) & 1 == 1
                    if prices >= 1:
                        col_prices[place, lane] = math.ldexp(np.float64(v[lane]), -shift)
                    if prices == 2:
                        row_prices[place, lane] = math.ldexp(np.float64(u[lane]), -shift)
                if cuda.any_sync(EVERYONE, rounded) and lane == 0:
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
