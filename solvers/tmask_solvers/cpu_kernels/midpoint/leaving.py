"""How blocks leave their lanes: stored as they are, by way of the pool that waits for a proof, or by the fallback."""

from __future__ import annotations

import numpy as np

from tmask_solvers.cpu_kernels.compiling import inlined, lean_kernel
from tmask_solvers.cpu_kernels.midpoint.fallback import fall_back
from tmask_solvers.cpu_kernels.midpoint.room import Array, Lanes, Paths, Room
from tmask_solvers.cpu_kernels.midpoint.ties import enter, part, settle, tied
from tmask_solvers.cpu_kernels.tiles import Window, extremes, store, store_circulant
from tmask_solvers.shared.constants import EARLY_ROUNDS, most_rounds

# What a round made of a lane. np.int64, because numba compiles a function anew for each plain constant that it is
# called with.
SEARCHING, STORED, POOLED, LOST = np.int64(0), np.int64(1), np.int64(2), np.int64(3)

_most_rounds = inlined(most_rounds)


@inlined
def outcome_of(
    window: Window,
    lane: int,
    success: bool,
    now: int,
    room: Room,
    ns: tuple[int, ...],
    ms: tuple[int, ...],
) -> np.int64:
    """What becomes of a lane after round `now`, in which its columns balanced or not."""
    n, m = len(ns), len(ms)
    lanes = room.lanes
    parted = lanes.parted[lane] != 0
    if success:
        if not parted:
            return STORED
        # What balances with its ties parted is optimal for other scores; off the grid, nothing could be proven of it.
        return POOLED if enter(window, lanes, lane, room.pool, ms) else LOST
    age = now - lanes.born[lane]
    limit = _most_rounds(m)
    if parted:
        limit *= 2
    if age < limit and (age < EARLY_ROUNDS or not tied(lanes.counts, lane, len(lanes.block), n, ms)):
        return SEARCHING
    # The same amounts again would part no more than they did the first time.
    if parted:
        return LOST
    part(lanes, lane, ms)
    lanes.born[lane] = now
    return SEARCHING


@inlined
def leave(
    outcome: np.int64,
    window: Window,
    lane: int,
    room: Room,
    prices: Array,
    start: Array,
    ns: tuple[int, ...],
    ms: tuple[int, ...],
) -> float:
    """See a block out of its lane; returns what masks that are stored by it may lose."""
    lanes, pool, paths = room.lanes, room.pool, room.paths
    width = len(lanes.block)
    if outcome == STORED:
        _store(window, lane, lanes, prices, start, ms)
    elif outcome == LOST:
        for j in range(len(ms)):
            paths.start[j] = lanes.v[j * width + lane]
        return solve_apart(window, lanes.block[lane], lanes.at[lane], lanes.mask_at[lane], paths, prices, ns, ms)
    # Proofs are made for a full register of blocks, since one costs as much as all of them.
    elif pool.used[0] == width:
        return settle(window, room, prices, start, ns, ms)
    return 0.0


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
def solve_apart(
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
        # Of equal entries, any mask is best; of NaN and infinity none is, and the caller refuses them by their sum.
        store_circulant(window, mask_at, ns, ms)
    if len(prices):
        for j in range(len(ms)):
            prices[tile, j] = paths.start[j]
    return slack
