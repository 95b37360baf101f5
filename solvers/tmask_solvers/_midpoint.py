"""The midpoint iteration over the tiles of a matrix, a SIMD lane each: load, |.|, solve and mask store in one pass.

For column prices v let b_i be the (n+1)-th largest of x_ij = fl(s_ij - v_j) in row i. The mask S = [x_ij > b_i] has at
most n entries a row. If every column counts n, so does every row, and S is optimal: rounding is monotone, so x_p > x_q
proves s_p - v_p > s_q - v_q for the very vector v that was used, and complementary slackness holds. No tolerance is
needed, only a subtraction and a strict comparison; and finite prices, so blocks with scores above 2^90 take the
fallback (docs/exactness.md).

A lane that is done is stored and refilled at once, so lanes do not wait for one another. Every second round a block
that is not done is looked at: rows that tie exactly, with fewer than n entries above b, are parted (`_ties`), and so is
one that does not balance within the limit; if it has been parted before, it takes the fallback (`_fallback`). What
becomes of a block does not depend on its neighbours.
"""

from __future__ import annotations

import numpy as np

from tmask_solvers._fallback import fall_back
from tmask_solvers._lanes import balanced, column_step, row_step
from tmask_solvers._numba import inlined, lean_kernel
from tmask_solvers._room import Array, Lanes, Paths, Room
from tmask_solvers._ties import enter, part, settle, tied
from tmask_solvers._tiles import LARGEST, Window, all_tame, extremes, load, locate, store, store_circulant

_EARLY = 2  # rounds before a tie is believed
# np.int64, because numba compiles a function anew for each plain constant that it is called with.
_IN_LANES, _BY_PATHS, _CIRCULANT = np.int64(0), np.int64(1), np.int64(2)  # ways to solve a tile
_SEARCHING, _STORED, _POOLED, _LOST = np.int64(0), np.int64(1), np.int64(2), np.int64(3)  # what a round made of a lane


@lean_kernel
def solve_window(window: Window, ns: tuple[int, ...], ms: tuple[int, ...], room: Room, prices: Array) -> float:
    """Masks of all tiles of a window; returns a bound on what they lose against the optimum, mostly 0.

    A tile that holds NaN or infinity gets a mask all the same; it is for the caller to refuse.

    Args:
        ns, ms: tuples of length n and m, 0 < n < m <= 32; their lengths are what counts.
        room: scratch.
        prices: (tiles, m) float64, row by row of tiles, for the column prices; or (0, m) if nobody wants them.
    """
    m = len(ms)
    lanes = room.lanes
    width = len(lanes.block)
    tiles = (window.rows // m) * (window.cols // m)
    tame = all_tame(window)
    _reset(lanes)
    following, now, waiting = np.int64(0), np.int64(0), np.int64(0)
    active, free = 0, (1 << width) - 1
    slack = 0.0
    while True:
        lane = 0
        while free and following < tiles:
            while not (free >> lane) & 1:
                lane += 1
            way = _way(window, following, tame, ms)
            if way == _IN_LANES:
                at, _ = locate(window, following, ms)
                load(window, at, lane, lanes.weight, ms)
                _enlist(lanes, lane, following, now, ms)
                active += 1
                free &= free - 1
            else:
                room.paths.start[:] = 0  # not where the last tile left them
                slack += _solve_apart(window, following, way, room.paths, prices, ns, ms)
            following += 1
        if active == 0:
            break
        for j in range(m):
            column_step(lanes.weight, lanes.u, lanes.v, lanes.target, lanes.momentum, j, ns, ms)
        lanes.momentum[:] = 0.3 if m <= 8 else 0.4 if m <= 16 else 0.5
        lanes.counts[:] = 0
        for i in range(m):
            row_step(lanes.weight, lanes.v, lanes.u, lanes.kept, lanes.counts, i, ns, ms)
        now += 1
        good = balanced(lanes.weight, lanes.counts, ns, ms)
        for lane in range(width):
            success = (good >> lane) & 1 != 0
            if lanes.block[lane] < 0 or not (success or (now - lanes.born[lane]) % 2 == 0):
                continue
            outcome = _outcome(window, lane, success, now, waiting, room, ns, ms)
            if outcome == _SEARCHING:
                continue
            if outcome == _STORED:
                _store(window, lane, lanes, prices, ms)
            elif outcome == _POOLED:
                waiting += 1
                if waiting == width:
                    slack += settle(window, waiting, room, prices, ns, ms)
                    waiting = 0
            else:
                for j in range(m):
                    room.paths.start[j] = lanes.v[j * width + lane]
                slack += _solve_apart(window, lanes.block[lane], _BY_PATHS, room.paths, prices, ns, ms)
            lanes.block[lane] = -1
            free |= 1 << lane
            active -= 1
    if waiting:
        slack += settle(window, waiting, room, prices, ns, ms)
    return slack


@inlined
def _way(window: Window, tile: int, tame: bool, ms: tuple[int, ...]) -> int:
    """How a tile is solved: constant or not finite it needs no search; a huge one cannot be priced in float32."""
    m = len(ms)
    at, _ = locate(window, tile, ms)
    weight, stride = window.weight, window.stride
    first = abs(weight[at])
    # Three entries on different lines are equal in few blocks, but in all that are constant.
    alike = first == abs(weight[at + stride + m - 1]) and first == abs(weight[at + (m - 1) * stride + 1])
    if tame and not alike:
        return _IN_LANES
    low, high, finite = extremes(window, at, ms)
    if low == high or not finite:
        return _CIRCULANT
    return _IN_LANES if high <= LARGEST else _BY_PATHS


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
    if age < limit and (age < _EARLY or not tied(lanes.kept, lane, len(lanes.block), n, ms)):
        return _SEARCHING
    if parted:
        return _LOST
    part(lanes, lane, ms)
    lanes.born[lane] = now
    return _SEARCHING


@inlined
def _store(window: Window, lane: int, lanes: Lanes, prices: Array, ms: tuple[int, ...]) -> None:
    """The mask, and the prices if wanted, of a lane that is done."""
    m, width, tile = len(ms), len(lanes.block), lanes.block[lane]
    _, mask_at = locate(window, tile, ms)
    store(lanes.kept, lane, width, window, mask_at, ms)
    if len(prices):
        for j in range(m):
            prices[tile, j] = lanes.v[j * width + lane]


@lean_kernel
def _solve_apart(
    window: Window, tile: int, way: int, paths: Paths, prices: Array, ns: tuple[int, ...], ms: tuple[int, ...]
) -> float:
    """A tile without the lanes, from the prices in `paths.start`: 0 if it is constant. Returns what may be lost."""
    slack = 0.0
    if way == _BY_PATHS:
        slack = fall_back(window, tile, ns, ms, paths)
    else:
        _, mask_at = locate(window, tile, ms)
        store_circulant(window, mask_at, ns, ms)
    if len(prices):
        for j in range(len(ms)):
            prices[tile, j] = paths.start[j]
    return slack


@lean_kernel
def _reset(lanes: Lanes) -> None:
    """No block in any lane; idle lanes compute on zeros."""
    lanes.weight[:] = 0
    lanes.u[:] = 0
    lanes.v[:] = 0
    lanes.target[:] = 0
    lanes.momentum[:] = 0
    lanes.block[:] = -1


@inlined
def _enlist(lanes: Lanes, lane: int, tile: int, now: int, ms: tuple[int, ...]) -> None:
    """Start a tile in a lane: no row prices, no momentum yet."""
    width = len(lanes.block)
    lanes.block[lane] = tile
    lanes.born[lane] = now
    lanes.parted[lane] = 0
    lanes.momentum[lane] = 0
    for i in range(len(ms)):
        lanes.u[np.uint64(i * width + lane)] = 0
