"""The midpoint iteration as a CUDA kernel: a thread holds the row and the column of the same number of a tile.

`cpu_kernels.midpoint.window` has the method and docs: exactness the proof; both hold here as they are, since all that
decides is the same two operations, fl(s - v) and a strict comparison. A row's threshold b_i and a column's price v_j
pass through shared memory, so that all threads use one and the same number; row and column hold the same bits of an
entry, so that the thread of a column finds which of its entries are kept by the operation that the row's thread would
use.

A warp holds one tile of side 17 to 32, two of 9 to 16, four of 5 to 8, eight of less. It is done when all of them are:
either a tile's columns have balanced, or it goes to the list of tiles left over, because rows tie or the limit is
reached. What is done stays as it is while the others go on. A thread beyond the last line repeats that line.

Registers, for float32 on sm_90: 62 (4:8) to 113 (16:32), nothing in local memory (docs/explanation/gpu-kernel.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tmask_solvers.cuda_kernels.code.lines import WARP, Real, lanes_per_tile, make_lines
from tmask_solvers.cuda_kernels.code.listing import make_list
from tmask_solvers.cuda_kernels.code.places import FIRST, make_places
from tmask_solvers.shared.constants import EARLY_ROUNDS, LARGEST_TAME, momentum, most_rounds

_EVERYONE = 0xFFFFFFFF


def make_rounds(cuda: Any, n: int, m: int, real: Real, widen: Any, many: bool) -> Any:
    """The kernel for n:m.

    Args:
        cuda: numba.cuda.
        real: float32 or float64, in which it computes.
        widen: device function from an entry of the weight to its magnitude as `real`.
        many: whether `where` tells of many matrices.
    """
    lines, places = make_lines(cuda, n, m, real), make_places(cuda, many)
    matrix_of, number, corner, take_place = places.matrix_of, places.number, places.corner, make_list(cuda)
    load, spread, gather, total = lines.load, lines.spread, lines.gather, lines.total
    pair, above, keep = lines.pair, lines.above, lines.keep
    multiply = cuda.libdevice.fmul_rn if real is np.float32 else cuda.libdevice.dmul_rn
    lanes = lanes_per_tile(m)
    together, members = WARP // lanes, (1 << lanes) - 1
    stride, staged = m + 1, WARP * (m + 1)  # rows one entry apart in their banks
    limit = most_rounds(m)
    # Ties are not parted here but go to the paths; of these, more rounds leave fewer and shorter ones.
    early = EARLY_ROUNDS if m <= 8 else 2 * EARLY_ROUNDS
    gain = real(momentum(m))
    zero, half, wanted, largest = real(0), real(0.5), real(n), real(LARGEST_TAME)

    def solve_tiles(
        weight: Any,
        mask: Any,
        where: Any,
        tiles: Any,
        row_prices: Any,
        col_prices: Any,
        prices: Any,
        left: Any,
        used: Any,
    ) -> None:
        """Masks of the tiles that balance, and the list of the others.

        Args:
            weight, mask, where: see `places`; `tiles` of all matrices.
            row_prices, col_prices: (tiles, m) float64. Column prices are written for tiles left over; for all of them
                if prices >= 1, row prices too if prices == 2.
            left, used: (tiles,) and (1,) int32; the tiles left over, in any order, and how many (0 at first).
        """
        lane = cuda.threadIdx.x & 31
        t = lane & (lanes - 1)
        base = lane & ~(lanes - 1)
        team = members << base
        line = min(t, m - 1)
        stage = cuda.shared.array(staged, real)
        u = cuda.shared.array(WARP, real)
        v = cuda.shared.array(WARP, real)
        bounds = cuda.shared.array(WARP, real)
        first = cuda.blockIdx.x * together
        while first < tiles:
            place = first + lane // lanes
            real_tile = place < tiles
            place = min(place, tiles - 1)  # idle teams read a tile that exists, and write none
            r = matrix_of(where, place)
            at, down, across, spot, mask_down, mask_across = corner(where, r, place - number(where, r, FIRST))
            column = load(weight, at + np.uint64(line) * across, down, widen)
            cuda.syncwarp()  # all have read the tile before; votes alone would not order that
            if t < m:
                spread(column, stage, base * stride + t)
            u[lane] = zero
            v[lane] = zero
            cuda.syncwarp()
            row = gather(stage, (base + line) * stride)
            # The sum stands for the largest, and NaN fails it too.
            tame = cuda.ballot_sync(_EVERYONE, total(column) <= largest)  # which NaN is not
            searching = real_tile and tame & team == team
            solved = False
            target, share = zero, zero
            age = 0
            # All threads stay to the end, since votes need them; what is done writes nothing any more.
            while cuda.any_sync(_EVERYONE, searching):
                a, b = pair(column, u, base)
                middle = multiply(a, half) + multiply(b, half)
                price = middle + multiply(share, middle - target)
                target, share = middle, gain
                if searching:
                    v[lane] = price
                cuda.syncwarp()
                a, b = pair(row, v, base)
                if searching:
                    u[lane] = multiply(a, half) + multiply(b, half)
                    bounds[lane] = b
                cuda.syncwarp()
                age += 1
                # Two votes for the whole warp tell of all its tiles; each looks at its own team's bits.
                good = cuda.ballot_sync(_EVERYONE, above(column, v[lane], bounds, base) == wanted)
                apart = cuda.ballot_sync(_EVERYONE, a > b)
                if searching:
                    solved = good & team == team
                    tied = apart & team != team
                    searching = not (solved or age == limit or (tied and age >= early))
            # The mask is made again from prices and bounds: to keep it through the rounds would take registers.
            if real_tile and t < m:
                if solved:
                    keep(mask, spot + np.uint64(line) * mask_across, mask_down, column, v[lane], bounds, base)
                if prices >= 1 or not solved:
                    col_prices[place, t] = v[lane]
                if prices == 2:
                    row_prices[place, t] = u[lane]
            take_place(lane, place, real_tile and t == 0 and not solved, left, used)
            first += cuda.gridDim.x * together

    return solve_tiles
