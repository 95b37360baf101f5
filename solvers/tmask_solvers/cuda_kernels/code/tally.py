"""What `judge` counts, of 4 x 4 tiles whose masks no prices have to prove: a tile a thread.

`judge` spreads a tile over lanes, which then have to vote; so small a tile fits into the registers of one thread, and
is done in a third of the instructions. Its arguments and records are those of `judge`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tmask_solvers.cuda_kernels.code.judge import FIGURES, IRREGULAR, KEPT, OVER, TOTAL, UNPROVEN, make_whole
from tmask_solvers.cuda_kernels.code.kernels import SIDE
from tmask_solvers.cuda_kernels.code.lines import WARP, Real
from tmask_solvers.cuda_kernels.code.places import COUNT, make_places


def make_tally(cuda: Any, n: int, m: int, real: Real, widen: Any, many: bool) -> Any:
    """The kernel for n:4; the arguments are those of `make_judge`."""
    places, whole = make_places(cuda, many), make_whole(cuda)
    number, corner = places.number, places.corner

    def tally(weight: Any, mask: Any, where: Any, prices: Any, priced: Any, shares: Any, records: Any) -> None:
        lane = cuda.threadIdx.x & 31
        r, share = cuda.blockIdx.x // shares, cuda.blockIdx.x % shares
        count = number(where, r, COUNT)
        step = -(-count // (shares * WARP)) * WARP
        tile, last = share * step + lane, min(share * step + step, count)
        kept: Any = np.float64(0)
        total: Any = np.float64(0)
        over, irregular = np.int64(0), np.int64(0)
        while tile < last:
            at, down, across, spot, mask_down, mask_across = corner(where, r, tile)
            regular = True
            columns = np.int64(0)  # how many each keeps, a byte each
            for i in range(SIDE):
                in_row = 0
                for j in range(SIDE):
                    y, x = np.uint64(i), np.uint64(j)
                    score = np.float64(widen(weight[at + y * down + x * across]))
                    on = mask[spot + y * mask_down + x * mask_across]
                    total += score
                    kept += score if on else np.float64(0)
                    in_row += 1 if on else 0
                    columns += np.int64(1) << 8 * j if on else np.int64(0)
                over += 1 if in_row > n else 0
                regular &= in_row == n
            for j in range(SIDE):
                in_column = (columns >> 8 * j) & 255
                over += 1 if in_column > n else 0
                regular &= in_column == n
            irregular += 0 if regular else 1
            tile += WARP
        kept, total, over, irregular = whole(kept), whole(total), whole(over), whole(irregular)
        if lane == 0:
            record = cuda.blockIdx.x * FIGURES
            records[record + KEPT], records[record + TOTAL] = kept, total
            records[record + OVER], records[record + IRREGULAR] = np.float64(over), np.float64(irregular)
            records[record + UNPROVEN] = np.float64(0)

    return tally
