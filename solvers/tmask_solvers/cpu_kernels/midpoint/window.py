"""The midpoint iteration over the tiles of a matrix, a SIMD lane each: load, |.|, solve and mask store in one pass.

In each round a row keeps what is above its (n+1)-th largest of s - v. If every column counts n then, the mask is proven
optimal (docs/explanation/exactness.md, section 1).

A lane that is done is stored and refilled at once, so lanes do not wait for one another. Every second round a block
that is not done is looked at: where rows tie exactly, with fewer than n entries above b, or where it does not balance
within the limit, it takes the fallback (`leaving`). What becomes of a block does not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np

from tmask_solvers.cpu_kernels.compiling import inlined, lean_entry, lean_kernel
from tmask_solvers.cpu_kernels.midpoint.lanes import balanced, column_step, lowest_bit, row_step
from tmask_solvers.cpu_kernels.midpoint.leaving import SEARCHING, leave, outcome_of, solve_apart
from tmask_solvers.cpu_kernels.midpoint.room import Array, Lanes, Room
from tmask_solvers.cpu_kernels.tiles import Window, extremes, load
from tmask_solvers.shared.constants import momentum

_momentum = inlined(momentum)


@lean_entry
def solve_window(
    window: Window, ns: tuple[int, ...], ms: tuple[int, ...], room: Room, prices: Array, start: Array
) -> float:
    """Masks of all tiles of a window; returns a bound on what they lose against the optimum, mostly 0.

    A tile that holds NaN or infinity gets a mask all the same; it is for the caller to refuse.

    Args:
        ns, ms: tuples of length n and m, 0 < n < m <= 32; their lengths are what counts.
        room: scratch.
        prices: (tiles, m) float64, row by row of tiles, for the column prices; or (0, m) if nobody wants them.
        start: (tiles, m) of the weight's dtype, row prices to start from, any at all; the last ones replace them where
            the lanes found them. (0, m) to start from zeros.
    """
    m = len(ms)
    lanes = room.lanes
    everyone = (1 << len(lanes.block)) - 1
    tiles = (window.rows // m) * (window.cols // m)
    _reset(room)
    following, row, col = np.int64(0), np.int64(0), np.int64(0)  # the tile that follows, and where it begins
    # A bit for each lane: whether it is at work, and whether it was filled after an odd round.
    busy, odd, now = np.int64(0), np.int64(0), np.int64(0)
    slack = 0.0
    while True:
        while following < tiles and busy != everyone:
            lane = lowest_bit(~busy)
            at, mask_at = row * window.stride + col, row * window.mask_stride + col
            # Constant tiles, whose rows keep the same columns at any prices, and wild ones never enter.
            if not _constant(window, at, ms) and load(window, at, lane, lanes.weight, ms):
                _enlist(lanes, lane, following, at, mask_at, now, start, ms)
                busy |= 1 << lane
                odd = _noted(odd, lane, now)
            else:
                slack += solve_apart(window, following, at, mask_at, room.paths, prices, ns, ms)
            following += 1
            row, col = _after(row, col, window.cols, m)
        if busy == 0:
            break
        good = _round(lanes, ns, ms)
        now += 1
        # Every second round for a lane: a look is branches for it alone, where a round is none for all of them.
        due = busy & (good | (odd if now & 1 else ~odd))
        while due:
            lane = lowest_bit(due)
            due ^= 1 << lane
            outcome = outcome_of(lanes, lane, (good >> lane) & 1 != 0, now, ns, ms)
            if outcome != SEARCHING:
                busy ^= 1 << lane
                slack += leave(outcome, window, lane, room, prices, start, ns, ms)
    return slack


@inlined
def _round(lanes: Lanes, ns: tuple[int, ...], ms: tuple[int, ...]) -> int:
    """All column prices, then all row prices and masks; bits of the lanes whose columns balance."""
    m = len(ms)
    # Columns first, since a start is given by row prices.
    for j in range(m):
        column_step(lanes.weight, lanes.u, lanes.v, lanes.target, lanes.momentum, j, ns, ms)
    lanes.momentum[:] = _momentum(m)  # but in the first round of a block, which has no last change to go on with
    lanes.counts[:] = 0
    for i in range(m):
        row_step(lanes.weight, lanes.v, lanes.u, lanes.kept, lanes.counts, i, ns, ms)
    return balanced(lanes.weight, lanes.counts, ns, ms)


@inlined
def _noted(odd: int, lane: int, round_number: int) -> int:
    """`odd` with the lane's bit as that of the round."""
    return odd & ~(1 << lane) | (round_number & 1) << lane


@inlined
def _after(row: int, col: int, cols: int, m: int) -> tuple[int, int]:
    """Where the next tile begins; by counting, since a division for each tile would be felt."""
    return (row, col + m) if col + m < cols else (row + m, np.int64(0))


@inlined
def _constant(window: Window, at: int, ms: tuple[int, ...]) -> bool:
    """Whether all entries of a tile are equal."""
    m = len(ms)
    weight, stride = window.weight, window.stride
    first = abs(weight[at])
    # Three on different lines are equal in few tiles, which spares the others the look at all.
    if first != abs(weight[at + stride + m - 1]) or first != abs(weight[at + (m - 1) * stride + 1]):
        return False
    low, high, _ = extremes(window, at, ms)
    return bool(low == high)


@lean_kernel
def _reset(room: Room) -> None:
    """Idle lanes compute on zeros."""
    lanes = room.lanes
    lanes.weight[:] = 0
    lanes.u[:] = 0
    lanes.v[:] = 0
    lanes.target[:] = 0
    lanes.momentum[:] = 0


@inlined
def _enlist(
    lanes: Lanes, lane: int, tile: int, at: int, mask_at: int, now: int, start: Array, ms: tuple[int, ...]
) -> None:
    """Start a tile in a lane: row prices as given or 0, no momentum yet."""
    width = len(lanes.block)
    lanes.block[lane], lanes.at[lane], lanes.mask_at[lane] = tile, at, mask_at
    lanes.born[lane] = now
    lanes.momentum[lane] = 0
    for i in range(len(ms)):
        lanes.u[np.uint64(i * width + lane)] = start[tile, i] if len(start) else 0
