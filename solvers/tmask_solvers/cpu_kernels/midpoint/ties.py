"""Exact ties, which midpoints cannot part: parted by small distinct amounts, the mask then proven on the true scores.

A block that ties gets distinct amounts added to its entries (`shared.parting`), and goes on. What it then finds waits
in a pool with others until their lanes are full, and `proof` decides, from the prices at hand. Without a proof the
block takes the fallback.
"""

from __future__ import annotations

import math

import numpy as np

from tmask_solvers.cpu_kernels.compiling import inlined, lean_kernel
from tmask_solvers.cpu_kernels.late import late_kernel
from tmask_solvers.cpu_kernels.midpoint.fallback import fall_back
from tmask_solvers.cpu_kernels.midpoint.proof import row_proof
from tmask_solvers.cpu_kernels.midpoint.room import Array, Lanes, Pool, Room
from tmask_solvers.cpu_kernels.tiles import Window, store
from tmask_solvers.shared.constants import GRID_BITS, PRICE_BITS
from tmask_solvers.shared.parting import OF_LARGEST, OF_LEAST


@inlined
def tied(counts: Array, lane: int, width: int, n: int, ms: tuple[int, ...]) -> bool:
    """Whether some row has fewer than n entries above its (n+1)-th largest: none has more, so all together do."""
    m = len(ms)
    total = 0
    for k in range((m + 3) // 4):
        word = np.int64(counts[np.uint64(k * width + lane)])
        total += ((word * 0x01010101) >> 24) & 0xFF  # the sum of its bytes
    return total < n * m


@lean_kernel
def part(lanes: Lanes, lane: int, ms: tuple[int, ...]) -> None:
    """Break the ties of the block in a lane."""
    m = len(ms)
    weight, noise, width = lanes.weight, lanes.noise, len(lanes.block)
    high = weight[lane]
    low = high - high  # a zero of the scores' dtype; the literal would make all that follows float64
    for k in range(m * m):
        x = weight[np.uint64(k * width + lane)]
        high = max(high, x)
        low = x if x > 0 and (x < low or low == 0) else low
    scale = max(low * weight.dtype.type(OF_LEAST), high * weight.dtype.type(OF_LARGEST))
    for k in range(m * m):
        weight[np.uint64(k * width + lane)] += scale * noise[k]
    lanes.parted[lane] = 1


@late_kernel
def enter(window: Window, lanes: Lanes, lane: int, pool: Pool, ms: tuple[int, ...]) -> bool:
    """Copy a lane's mask and prices, and the true scores, into the pool; False if they stay out, off the grid."""
    m = len(ms)
    place = pool.used[0]
    words = (m + 3) // 4
    width = len(lanes.block)
    at = lanes.at[lane]
    high = 0.0
    for i in range(m):
        for j in range(m):
            score = abs(np.float64(window.weight[np.uint64(at + i * window.stride + j)]))
            pool.score[np.uint64((i * m + j) * width + place)] = score
            high = max(high, score)
    # docs/explanation/exactness.md, section 2: the grid, its bound, and what both are for.
    bound = math.ldexp(1.0, math.frexp(high)[1] + PRICE_BITS - GRID_BITS)
    magic = 1.5 * bound  # adding and subtracting it rounds numbers below bound / 2 to the grid of `proof`
    good = True
    for k in range(m * m):
        score = pool.score[np.uint64(k * width + place)]
        good &= (score + magic) - magic == score
    for j in range(m):
        price = np.float64(lanes.v[np.uint64(j * width + lane)])
        good &= abs(price) < 0.5 * bound
        pool.v[np.uint64(j * width + place)] = (price + magic) - magic
    for k in range(m * words):
        pool.kept[np.uint64(k * width + place)] = lanes.kept[np.uint64(k * width + lane)]
    pool.block[place], pool.at[place], pool.mask_at[place] = lanes.block[lane], at, lanes.mask_at[lane]
    pool.bound[place] = bound
    pool.used[0] += good  # else the next one overwrites it
    return good


@late_kernel
def settle(
    window: Window,
    room: Room,
    prices: Array,
    start: Array,
    ns: tuple[int, ...],
    ms: tuple[int, ...],
) -> float:
    """Prove and store the masks in the pool, which is empty then; returns what may be lost (`fall_back`)."""
    m = len(ms)
    pool, column_prices = room.pool, room.paths.start
    width, used = len(pool.block), pool.used[0]
    pool.used[0] = 0
    unproven = _unproven(room, used, ms)
    slack = 0.0
    for place in range(used):
        good = (unproven >> place) & 1 == 0
        for j in range(m):
            column_prices[j] = pool.v[np.uint64(j * width + place)]
            row_price = pool.u[np.uint64(j * width + place)]
            # Prices only fall, so these bounds held all the way, and nothing was rounded.
            good &= abs(column_prices[j]) < pool.bound[place] and abs(row_price) < pool.bound[place]
        if good:
            store(pool.kept, place, width, window, pool.mask_at[place], ms)
        else:
            slack += fall_back(window, pool.at[place], pool.mask_at[place], ns, ms, room.paths)
        if len(prices):
            for j in range(m):
                prices[pool.block[place], j] = column_prices[j]
        if len(start):
            for i in range(m):
                start[pool.block[place], i] = pool.u[np.uint64(i * width + place)]
    return slack


@lean_kernel
def _unproven(room: Room, used: int, ms: tuple[int, ...]) -> int:
    """Bits of the places whose prices do not come to rest in 2m rounds, forwards and backwards in turn."""
    m = len(ms)
    pool = room.pool
    moved = 0
    for step in range(2 * m):  # a mask that is not optimal has prices that fall for ever
        moved = 0
        for k in range(m):
            # One way, a price that falls is felt by later rows alone in the same round; back, by the earlier ones.
            i = k if step % 2 == 0 else m - 1 - k
            moved |= row_proof(room.lanes.weight, pool.score, pool.v, pool.u, pool.kept, i, ms)
        moved &= (1 << used) - 1  # places beyond hold what was proven before
        if moved == 0:
            break
    return moved
