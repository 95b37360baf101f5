"""A tile solved by shortest augmenting paths: the exact way out of the midpoint iteration, for every finite input."""

from __future__ import annotations

import math

import numpy as np

from tmask_solvers.cpu_kernels.augment import augment, grid_exponent, quantise, take_rows
from tmask_solvers.cpu_kernels.late import late_kernel
from tmask_solvers.cpu_kernels.midpoint.room import Paths
from tmask_solvers.cpu_kernels.tiles import Window
from tmask_solvers.shared.constants import WILD_PRICE


@late_kernel
def fall_back(window: Window, at: int, mask_at: int, ns: tuple[int, ...], ms: tuple[int, ...], paths: Paths) -> float:
    """Solve the tile at these places from the column prices in `paths.start`, which receives the final ones.

    Returns what the mask may lose against the optimum: 0 unless scores were rounded to the grid.
    """
    paths.tiles[0] += 1  # for tests, which count how many blocks come this way
    n, m = np.int64(len(ns)), len(ms)  # not a constant: it would compile what is called once for each n
    score, start, q, v = paths.score, paths.start, paths.q, paths.v
    for i in range(m):
        for j in range(m):
            # The true scores again: those in the lane may have had their ties parted.
            score[i, j] = abs(np.float64(window.weight[at + i * window.stride + j]))
    shift = grid_exponent(score)
    half = shift // 2  # 2^shift itself may overflow
    rounded = quantise(score, shift, q)
    for j in range(m):
        # Any start will do, so a wild one is dropped: prices that overflowed, or became NaN.
        price = start[j] * 2.0**half * 2.0 ** (shift - half)
        v[j] = np.int64(price) if abs(price) < WILD_PRICE else np.int64(0)
    take_rows(q, n, paths.u, v, paths.top, paths.key, paths.kept, paths.counts)
    augment(q, n, paths.u, v, paths.best, paths.closed, paths.parent, paths.kept, paths.counts)
    for i in range(m):
        for j in range(m):
            window.mask[mask_at + i * window.mask_stride + j] = paths.kept[i, j]
    # They are the proof, for whoever asked for prices.
    for j in range(m):
        start[j] = v[j] * 2.0**-half * 2.0 ** (half - shift)
    # n * m entries are kept, and as many in the optimum, each off by half a unit of the grid at most.
    return math.ldexp(np.float64(n * m), -shift) if rounded else 0.0
