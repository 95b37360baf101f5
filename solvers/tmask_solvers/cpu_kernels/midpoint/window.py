"""The midpoint iteration over the tiles of a matrix, a SIMD lane each: load, |.|, solve and mask store in one pass.

For column prices v let b_i be the (n+1)-th largest of x_ij = fl(s_ij - v_j) in row i. The mask S = [x_ij > b_i] has at
most n entries a row. If every column counts n, so does every row, and S is optimal: rounding is monotone, so x_p > x_q
proves s_p - v_p > s_q - v_q for the very vector v that was used, and complementary slackness holds. No tolerance is
needed, only a subtraction and a strict comparison; and finite prices, so blocks with scores above 2^90 take the
fallback (docs/exactness.md).

A lane that is done is stored and refilled at once, so lanes do not wait for one another. Every second round a block
that is not done is looked at: rows that tie exactly, with fewer than n entries above b, are parted (`ties`), and so is
one that does not balance within the limit; if it has been parted before, it takes the fallback (`fallback`). What
becomes of a block does not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np

from tmask_solvers.cpu_kernels.compiling import inlined, lean_kernel
from tmask_solvers.cpu_kernels.midpoint.fallback import fall_back
from tmask_solvers.cpu_kernels.midpoint.lanes import balanced, column_step, lowest_bit, row_step
from tmask_solvers.cpu_kernels.midpoint.room import Array, Lanes, Paths, Room
from tmask_solvers.cpu_kernels.midpoint.ties import enter, part, settle, tied
from tmask_solvers.cpu_kernels.tiles import Window, extremes, load, store, store_circulant

_EARLY = 2  # rounds before a tie is believed
# np.int64, because numba compiles a function anew for each plain constant that it is called with.
_SEARCHING, _STORED, _POOLED, _LOST = np.int64(0), np.int64(1), np.int64(2), np.int64(3)  # what a round made of a lane


@lean_kernel
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
    width = len(lanes.block)
    tiles = (window.rows // m) * (window.cols // m)
    _reset(lanes)
    following, now, waiting = np.int64(0), np.int64(0), np.int64(0)
    row, col = np.int64(0), np.int64(0)  # where the following tile begins
    # A bit for each lane: whether it is at work, and whether it was filled (or parted) after an odd round.
    busy, odd = np.int64(0), np.int64(0)
    slack = 0.0
    while True:
        while following < tiles and busy != (1 << width) - 1:
            lane = lowest_bit(~busy)
            at, mask_at = row * window.stride + col, row * window.mask_stride + col
            if not _constant(window, at, ms) and load(window, at, lane, lanes.weight, ms):
                _enlist(lanes, lane, following, at, mask_at, now, start, ms)
                busy |= 1 << lane
                odd = odd & ~(1 << lane) | (now & 1) << lane
            else:
                room.paths.start[:] = 0  # not where the last tile left them
                slack += _solve_apart(window, following, at, mask_at, room.paths, prices, ns, ms)
            following += 1
            col += m
            if col == window.cols:
                row, col = row + m, np.int64(0)
        if busy == 0:
            break
        for j in range(m):
            column_step(lanes.weight, lanes.u, lanes.v, lanes.target, lanes.momentum, j, ns, ms)
        lanes.momentum[:] = 0.3 if m <= 8 else 0.4 if m <= 16 else 0.5
        lanes.counts[:] = 0
        for i in range(m):
            row_step(lanes.weight, lanes.v, lanes.u, lanes.kept, lanes.counts, i, ns, ms)
        now += 1
        good = balanced(lanes.weight, lanes.counts, ns, ms)
        due = busy & (good | (odd if now & 1 else ~odd))
        while due:
            lane = lowest_bit(due)
            bit = 1 << lane
            due ^= bit
            outcome = _outcome(window, lane, good & bit != 0, now, waiting, room, ns, ms)
            if outcome == _STORED:
                _store(window, lane, lanes, prices, start, ms)
            elif outcome == _POOLED:
                waiting += 1
                if waiting == width:
                    slack += settle(window, waiting, room, prices, start, ns, ms)
                    waiting = 0
            elif outcome == _LOST:
                for j in range(m):
                    room.paths.start[j] = lanes.v[j * width + lane]
                block, at, mask_at = lanes.block[lane], lanes.at[lane], lanes.mask_at[lane]
                slack += _solve_apart(window, block, at, mask_at, room.paths, prices, ns, ms)
            else:
                odd = odd & ~bit | (lanes.born[lane] & 1) << lane
                bit = 0
            busy &= ~bit
    if waiting:
        slack += settle(window, waiting, room, prices, start, ns, ms)
    return slack


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


@inlined
def _outcome(
    window: Window,
    lane: int,
    success: bool,
    now: int,
    waiting: int,
    room: Room,
    ns: tuple[int, ...],
    ms: tuple[int, ...],
) -> int:
    """What becomes of a lane after round `now`, in which its columns balanced or not."""
    n, m = len(ns), len(ms)
    lanes = room.lanes
    parted = lanes.parted[lane] != 0
    if success:
        if not parted:
            return _STORED
        return _POOLED if enter(window, lanes, lane, room.pool, waiting, ms) else _LOST
    age = now - lanes.born[lane]
    limit = 16 if m <= 16 else 24
    if parted:
        limit *= 2
    if age < limit and (age < _EARLY or not tied(lanes.counts, lane, len(lanes.block), n, ms)):
        return _SEARCHING
    if parted:
        return _LOST
    part(lanes, lane, ms)
    lanes.born[lane] = now
    return _SEARCHING


@inlined
def _store(window: Window, lane: int, lanes: Lanes, prices: Array, start: Array, ms: tuple[int, ...]) -> None:
    """The mask, and the prices if wanted, of a lane that is done."""
    width = len(lanes.block)
    store(lanes.kept, lane, width, window, lanes.mask_at[lane], ms)
    if len(prices):
        for j in range(len(ms)):
            prices[lanes.block[lane], j] = lanes.v[j * width + lane]
    if len(start):
        for i in range(len(ms)):
            start[lanes.block[lane], i] = lanes.u[i * width + lane]


@lean_kernel
def _solve_apart(
    window: Window,
    tile: int,
    at: int,
    mask_at: int,
    paths: Paths,
    prices: Array,
    ns: tuple[int, ...],
    ms: tuple[int, ...],
) -> float:
    """A tile without the lanes, from the prices in `paths.start`: 0 if it is constant. Returns what may be lost."""
    slack = 0.0
    low, high, finite = extremes(window, at, ms)
    if low < high and finite:
        slack = fall_back(window, at, mask_at, ns, ms, paths)
    else:
        store_circulant(window, mask_at, ns, ms)  # of equal entries, any mask is best
    if len(prices):
        for j in range(len(ms)):
            prices[tile, j] = paths.start[j]
    return slack


@lean_kernel
def _reset(lanes: Lanes) -> None:
    """Idle lanes compute on zeros."""
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
    lanes.parted[lane] = 0
    lanes.momentum[lane] = 0
    for i in range(len(ms)):
        lanes.u[np.uint64(i * width + lane)] = start[tile, i] if len(start) else 0
