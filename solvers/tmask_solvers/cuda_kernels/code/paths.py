"""Augmenting paths as a CUDA kernel, a team of threads a tile: solves what the rounds, or the closed forms, left over.

It finds its tiles in a list that the kernel before it has made on the device, so the host waits for nothing. `search`
has the method. A warp takes as many of the listed tiles at once as it holds, and its teams search side by side.

Ties are not parted first, as they are on a CPU: what ties is reached by one vote here, so paths cost no more than the
rounds that would save them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tmask_solvers.cuda_kernels.code.lines import WARP, Real, inlined, lanes_per_tile, make_lines
from tmask_solvers.cuda_kernels.code.places import FIRST, make_places
from tmask_solvers.cuda_kernels.code.search import make_search
from tmask_solvers.shared.constants import GRID_BITS, PLACE_BITS, WILD_PRICE


def make_paths(cuda: Any, n: int, m: int, real: Real, widen: Any, many: bool) -> Any:
    """The kernel for n:m; the arguments are those of `make_rounds`."""
    lines, steps, places = make_lines(cuda, n, m, real), make_search(cuda, n, m), make_places(cuda, many)
    matrix_of, number, corner = places.matrix_of, places.number, places.corner
    load, extremes, quantise = lines.load, lines.extremes, lines.quantise
    keys, largest, word = lines.keys, lines.largest, lines.word
    lowest, highest, vote, balance = steps.lowest, steps.highest, steps.vote, steps.balance
    multiply = cuda.libdevice.dmul_rn
    lanes = lanes_per_tile(m)
    together, members, stride, entries = WARP // lanes, (1 << lanes) - 1, m + 1, WARP * (m + 1)

    def halves(shift: Any) -> Any:
        """Two factors that scale by 2^shift, which itself may overflow."""
        first = shift >> 1
        return math.ldexp(1.0, first), math.ldexp(1.0, shift - first)

    halves = inlined(cuda, halves)

    def take_rows(t: Any, line: Any, base: Any, q: Any, u: Any, v: Any) -> Any:
        """Rows keep their n best; ties in turn from column i * n mod m on. Returns what this lane's row keeps."""
        # Keys differ, so exactly n are at least the n-th largest, whatever ties.
        row = keys(q, (base + line) * stride, v, base, line * n % m)
        least = largest(row)
        u[base + t] = least >> PLACE_BITS
        cuda.syncwarp()
        return word(row, least) if t < m else np.int64(0)

    take_rows = inlined(cuda, take_rows)

    def solve_left(
        weight: Any,
        mask: Any,
        where: Any,
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
            weight, mask, where, left, used: see `rounds`.
            row_prices, col_prices: (tiles, m) float64; the search starts from the latter if `warm`. Column prices are
                written if prices >= 1, row prices if prices == 2.
            slack: (matrices,) float64, to which is added what masks may lose because scores were rounded.
        """
        lane = cuda.threadIdx.x & 31
        t = lane & (lanes - 1)
        base = lane & ~(lanes - 1)
        line = min(t, m - 1)
        q = cuda.shared.array(entries, np.int64)  # (32, m + 1)
        u = cuda.shared.array(WARP, np.int64)
        v = cuda.shared.array(WARP, np.int64)
        from_col = cuda.shared.array(WARP, np.int32)
        from_row = cuda.shared.array(WARP, np.int32)
        # The list's length is read where it was counted; the host does not know it.
        count = np.int64(used[0])
        first = cuda.blockIdx.x * together
        while first < count:
            item = first + lane // lanes
            mine = item < count and t < m
            place = np.int64(left[min(item, count - 1)])  # idle teams read a tile that exists, and write none
            r = matrix_of(where, place)
            at, down, across, spot, mask_down, mask_across = corner(where, r, place - number(where, r, FIRST))
            spot += np.uint64(line) * mask_across
            column = load(weight, at + np.uint64(line) * across, down, widen)
            low, high, finite = extremes(column)
            low, high = lowest(low), highest(high)
            proper = vote(finite, base) == members and low < high
            shift = GRID_BITS - math.frexp(np.float64(high))[1] if proper else 0
            rounded = False
            cuda.syncwarp()  # all have done with the tile before, whose numbers are overwritten now
            v[lane] = np.int64(0)
            if proper:
                s, e = halves(shift)
                rounded = quantise(column, q, base * stride + line, s, e)
                start = multiply(multiply(col_prices[place, line] if warm else np.float64(0), s), e)
                if abs(start) < WILD_PRICE:
                    v[lane] = np.int64(start)
            cuda.syncwarp()
            own = take_rows(t, line, base, q, u, v)
            held = balance(t, line, base, q, u, v, own, from_col, from_row, proper and item < count)
            inexact = vote(rounded, base) != 0
            if mine:
                for i in range(m):
                    # Of equal entries, any mask is best.
                    keep = (held >> i) & 1 == 1 if proper else (t + i * (m - n)) % m < n
                    mask[spot + np.uint64(i) * mask_down] = keep
                if prices >= 1:
                    col_prices[place, t] = math.ldexp(np.float64(v[lane]), -shift) if proper else 0.0
                if prices == 2:
                    row_prices[place, t] = math.ldexp(np.float64(u[lane]), -shift) if proper else np.float64(high)
                if t == 0 and inexact:
                    cuda.atomic.add(slack, r, math.ldexp(np.float64(n * m), -shift))
            first += cuda.gridDim.x * together

    return solve_left
