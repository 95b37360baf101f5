"""The checks of a mask as a CUDA kernel: what it keeps, whether it is one, and whether column prices prove it optimal.

One pass reads the weight and the mask as they lie in memory, whoever wrote them. Each block of threads sums its share
of a matrix in float64, in one order, and writes one small record; shares depend on the matrix alone. What each number
means, `tmask.judging.tensor_judging.examine` says.

Prices prove a mask if in each row no pruned s - v exceeds a kept one. Rounded differences decide it where they differ,
since rounding is monotone; what ties is looked at again in float64, as pairs of a difference and its rounding error,
by the operations of `cpu_kernels.judging`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tmask_solvers.cuda_kernels.code.lines import WARP, Real, inlined, lanes_per_tile
from tmask_solvers.cuda_kernels.code.places import COUNT, PRICES, make_places

KEPT, TOTAL, OVER, IRREGULAR, UNPROVEN, FIGURES = 0, 1, 2, 3, 4, 5

_EVERYONE = 0xFFFFFFFF


def make_judge(cuda: Any, n: int, m: int, real: Real, widen: Any, many: bool) -> Any:
    """The kernel for n:m; the arguments are those of `make_rounds`."""
    places = make_places(cuda, many)
    number, corner = places.number, places.corner
    lanes = lanes_per_tile(m)
    together, members, stride = WARP // lanes, (1 << lanes) - 1, m + 1
    staged = WARP * stride
    infinity: Any = real(np.inf)

    def vote(x: Any, base: Any) -> Any:
        return (np.int64(cuda.ballot_sync(_EVERYONE, x)) >> base) & members

    vote = inlined(cuda, vote)

    def clearly_ordered(base: Any, line: Any, row: Any, stage: Any, v: Any) -> Any:
        """Whether in this row every kept s - v, rounded, is above every pruned one; prices are finite."""
        least, most = infinity, -infinity
        for j in range(m):
            x = stage[(base + line) * stride + j] - real(v[base + j])
            kept = (row >> j) & 1 != 0
            least = x if kept and x < least else least
            most = x if not kept and x > most else most
        return least > most

    def ordered(base: Any, line: Any, row: Any, stage: Any, v: Any) -> Any:
        """Whether no kept s - v of this row is below a pruned one, in real numbers; prices are finite."""
        least, least_error = np.float64(np.inf), np.float64(0)
        most, most_error = np.float64(-np.inf), np.float64(0)
        for j in range(m):
            # The difference and its rounding error [Knuth1997, 4.2.2, theorem B]; plain sums, so nothing is fused.
            s = np.float64(stage[(base + line) * stride + j])
            x = s - v[base + j]
            back = x - s
            error = (s - (x - back)) - (v[base + j] + back)
            if (row >> j) & 1 != 0:
                if x < least or (x == least and error < least_error):
                    least, least_error = x, error
            elif x > most or (x == most and error > most_error):
                most, most_error = x, error
        return least > most or (least == most and least_error >= most_error)

    clearly_ordered, ordered = inlined(cuda, clearly_ordered), inlined(cuda, ordered)

    whole = make_whole(cuda)

    def examine(weight: Any, mask: Any, where: Any, prices: Any, priced: Any, shares: Any, records: Any) -> None:
        """Records of all matrices.

        Args:
            weight, mask, where: see `places`; of whole tiles, and a mask of bool.
            prices: the memory of column prices (tiles, m) float64 of all matrices, if `priced` (1, else 0).
            shares: records of each matrix, one a block of threads.
            records: (matrices * shares * FIGURES,) float64; where there are no prices, nothing counts as unproven.
        """
        lane = cuda.threadIdx.x & 31
        t = lane & (lanes - 1)
        base = lane & ~(lanes - 1)
        line = min(t, m - 1)
        stage = cuda.shared.array(staged, real)
        v = cuda.shared.array(WARP, np.float64)
        r, share = cuda.blockIdx.x // shares, cuda.blockIdx.x % shares
        count = number(where, r, COUNT)
        # Whole warps of tiles, so that a share begins where one ends.
        step = -(-count // (shares * together)) * together
        first, last = share * step, min(share * step + step, count)
        kept: Any = np.float64(0)
        total: Any = np.float64(0)
        over, irregular, unproven = np.int64(0), np.int64(0), np.int64(0)
        while first < last:
            local = first + lane // lanes
            real_tile = local < last
            local = min(local, last - 1)  # idle teams read a tile that exists, and count nothing
            mine = real_tile and t < m
            at, down, across, spot, mask_down, mask_across = corner(where, r, local)
            at += np.uint64(line) * across
            spot += np.uint64(line) * mask_across
            cuda.syncwarp()  # all have done with the tile before, and its prices; votes alone would not order that
            if priced != 0:
                v[lane] = prices[np.uint64(number(where, r, PRICES) + local * m + line)]
            row: Any = np.int64(0)
            in_column: Any = np.int64(0)
            for i in range(m):
                score = widen(weight[at + np.uint64(i) * down])
                stage[(base + i) * stride + line] = score
                on = mask[spot + np.uint64(i) * mask_down] and t < m
                votes = vote(on, base)
                row = votes if line == i else row
                in_column += 1 if on else 0
                if mine:
                    total += np.float64(score)
                    kept += np.float64(score) if on else np.float64(0)
            cuda.syncwarp()
            in_row = cuda.popc(row)
            if mine:
                over += (1 if in_row > n else 0) + (1 if in_column > n else 0)
            regular = vote((in_row == n and in_column == n) or t >= m, base) == members
            if real_tile and t == 0 and not regular:
                irregular += 1
            if priced != 0:
                price = v[lane]
                clearly = clearly_ordered(base, line, row, stage, v) and abs(real(price)) < infinity
                proven = vote(clearly, base) == members
                if cuda.any_sync(_EVERYONE, real_tile and not proven):
                    exactly = ordered(base, line, row, stage, v) and price - price == 0
                    proven = vote(exactly, base) == members
                if real_tile and t == 0 and not (regular and proven):
                    unproven += 1
            first += together
        kept, total = whole(kept), whole(total)
        over, irregular, unproven = whole(over), whole(irregular), whole(unproven)
        if lane == 0:
            record = cuda.blockIdx.x * FIGURES
            records[record + KEPT], records[record + TOTAL] = kept, total
            # As float64, which counts exactly up to 2^53: one array is one transfer.
            records[record + OVER], records[record + IRREGULAR] = np.float64(over), np.float64(irregular)
            records[record + UNPROVEN] = np.float64(unproven)

    return examine


def make_whole(cuda: Any) -> Any:
    """whole(x): the sum over the warp, in one order."""

    def whole(x: Any) -> Any:
        for step in (1, 2, 4, 8, 16):
            x += cuda.shfl_xor_sync(_EVERYONE, x, step)
        return x

    return inlined(cuda, whole)
