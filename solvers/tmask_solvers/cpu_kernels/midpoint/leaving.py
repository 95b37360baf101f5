"""How blocks leave their lanes: stored as they are, or by the fallback."""

from __future__ import annotations

import numpy as np

from tmask_solvers.cpu_kernels.compiling import inlined, lean_kernel
from tmask_solvers.cpu_kernels.midpoint.fallback import fall_back
from tmask_solvers.cpu_kernels.midpoint.room import Array, Lanes, Paths, Room
from tmask_solvers.cpu_kernels.tiles import Window, extremes, store, store_circulant
from tmask_solvers.shared.constants import EARLY_ROUNDS, most_rounds

# What a round made of a lane. np.int64, because numba compiles a function anew for each plain constant that it is
# called with.
SEARCHING, STORED, LOST = np.int64(0), np.int64(1), np.int64(2)

# 2^-4 over half a unit in the last place of float32; float64 has more places, and then few blocks are coarse.
_STEPS = 1.5 * 2.0**19

_most_rounds = inlined(most_rounds)


@inlined
def outcome_of(lanes: Lanes, lane: int, success: bool, now: int, ns: tuple[int, ...], ms: tuple[int, ...]) -> np.int64:
    """What becomes of a lane after round `now`, in which its columns balanced or not."""
    if success:
        return STORED
    age = now - lanes.born[lane]
    # Half as many again as where the rounds are run together: who is late here keeps nobody waiting.
    if age >= _most_rounds(len(ms)) * 3 // 2:
        return LOST
    if age == EARLY_ROUNDS and _coarse(lanes, lane, ms):
        return LOST
    # Where a round is cheap beside what it saves the fallback, ties wait for better prices.
    patience = EARLY_ROUNDS if len(ms) <= 8 else 2 * EARLY_ROUNDS
    if age >= patience and tied(lanes.counts, lane, len(lanes.block), len(ns), ms):
        return LOST
    return SEARCHING


@inlined
def tied(counts: Array, lane: int, width: int, n: int, ms: tuple[int, ...]) -> bool:
    """Whether some row has fewer than n entries above its (n+1)-th largest: none has more, so all together do."""
    m = len(ms)
    total = 0
    for k in range((m + 3) // 4):
        word = np.int64(counts[np.uint64(k * width + lane)])
        total += ((word * 0x01010101) >> 24) & 0xFF  # the sum of its bytes
    return total < n * m


@inlined
def _coarse(lanes: Lanes, lane: int, ms: tuple[int, ...]) -> bool:
    """Whether the entries of the diagonal are whole steps, of about a sixteenth of the largest of them.

    Such a block will hardly balance without ties, though its prices, which have finer steps, may hide them for long. A
    wrong answer costs time alone.
    """
    m = len(ms)
    weight, width = lanes.weight, len(lanes.block)
    high = weight[lane]
    for k in range(m):
        high = max(high, weight[np.uint64(k * (m + 1) * width + lane)])
    # Adding and subtracting it rounds to such steps.
    large = high * weight.dtype.type(_STEPS)
    whole = True
    for k in range(m):
        x = weight[np.uint64(k * (m + 1) * width + lane)]
        whole &= (x + large) - large == x
    return whole


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
    """See a block out of its lane; returns what its mask may lose."""
    lanes, paths = room.lanes, room.paths
    width = len(lanes.block)
    slack = 0.0
    if outcome == STORED:
        store(lanes.kept, lane, width, window, lanes.mask_at[lane], ms)
        if len(prices):
            for j in range(len(ms)):
                prices[lanes.block[lane], j] = lanes.v[j * width + lane]
        if len(start):
            for i in range(len(ms)):
                start[lanes.block[lane], i] = lanes.u[i * width + lane]
    else:
        for j in range(len(ms)):
            paths.start[j] = lanes.v[j * width + lane]
            paths.rows[j] = lanes.u[j * width + lane]
        slack = fall_back(window, lanes.at[lane], lanes.mask_at[lane], np.int64(len(ns)), np.int64(len(ms)), paths)
        if len(prices):
            for j in range(len(ms)):
                prices[lanes.block[lane], j] = paths.start[j]
        if len(start):
            for i in range(len(ms)):
                start[lanes.block[lane], i] = paths.rows[i]
    return slack


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
    """A tile that never enters the lanes, since it is constant or wild. Returns what may be lost."""
    paths.start[:] = 0  # not where the last tile left them
    paths.rows[:] = 0
    slack = 0.0
    low, high, finite = extremes(window, at, ms)
    if low < high and finite:
        slack = fall_back(window, at, mask_at, np.int64(len(ns)), np.int64(len(ms)), paths)
    else:
        # Of equal entries, any mask is best; of NaN and infinity none is, and the caller refuses them by their sum.
        store_circulant(window, mask_at, ns, ms)
    if len(prices):
        for j in range(len(ms)):
            prices[tile, j] = paths.start[j]
    return slack
