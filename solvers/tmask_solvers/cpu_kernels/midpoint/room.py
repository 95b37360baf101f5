"""Scratch of the midpoint iteration: what the lanes hold, and what the blocks that wait for a proof hold.

L lanes, one block each: 16 of float32, 8 of float64. Entry (i, j) of the block in `lane` stands at
[(i*m + j)*L + lane], row or column k's price at [k*L + lane], and word k of a row's mask (`lanes`) likewise.
At m = 32 it is 0.3 MiB.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tmask_solvers.shared.parting import amounts

Array = npt.NDArray[Any]


class Lanes(NamedTuple):
    """The blocks at work; reals are of the scores' dtype, mask words int32, the rest int64 with one entry a lane."""

    weight: Array
    u: Array
    v: Array
    target: Array
    momentum: Array
    noise: Array  # (m * m,) what parts ties (`shared.parting`)
    kept: Array
    counts: Array
    block: Array  # the number of its tile
    at: Array  # where the tile begins in the weight,
    mask_at: Array  # and in the mask
    born: Array  # the round before its first
    parted: Array  # whether its ties were parted


class Pool(NamedTuple):
    """Masks found with parted ties, which need a proof on the true scores; reals are float64."""

    score: Array
    u: Array
    v: Array
    kept: Array
    block: Array  # as in Lanes
    at: Array
    mask_at: Array
    bound: Array  # sums of scores and prices up to this are not rounded
    used: Array  # (1,) how many places are taken


class Paths(NamedTuple):
    """One block for shortest augmenting paths (`cpu_kernels.augment`), int64."""

    q: Array
    u: Array
    v: Array
    key: Array
    top: Array
    counts: Array
    best: Array
    closed: Array
    parent: Array
    kept: Array  # (m, m) bool
    score: Array  # (m, m) float64
    start: Array  # (m,) float64
    tiles: Array  # (1,) how many tiles were solved so


class Room(NamedTuple):
    lanes: Lanes
    pool: Pool
    paths: Paths


def make_room(n: int, m: int, dtype: npt.DTypeLike) -> Room:
    """Scratch for one thread."""
    # Kernels that count no references can allocate nothing, so all their scratch is made here, once a thread.
    real = np.dtype(dtype)
    lanes = 64 // real.itemsize
    words = (m + 3) // 4

    def per_lane(count: int, kind: npt.DTypeLike) -> Array:
        return _aligned(count * lanes, kind)

    def integers(count: int = lanes) -> Array:
        return np.zeros(count, np.int64)

    return Room(
        Lanes(
            per_lane(m * m, real), per_lane(m, real), per_lane(m, real), per_lane(m, real), per_lane(1, real),
            amounts(n, m).ravel().astype(real), per_lane(m * words, np.int32), per_lane(words, np.int32),
            integers(), integers(), integers(), integers(), integers(),
        ),
        Pool(
            per_lane(m * m, np.float64), per_lane(m, np.float64), per_lane(m, np.float64),
            per_lane(m * words, np.int32), integers(), integers(), integers(), np.zeros(lanes), integers(1),
        ),
        Paths(
            np.zeros((m, m), np.int64), integers(m), integers(m), integers(m), integers(n + 1), integers(m),
            integers(2 * m), integers(2 * m), integers(2 * m),
            np.zeros((m, m), np.bool_), np.zeros((m, m)), np.zeros(m), integers(1),
        ),
    )  # fmt: skip


def _aligned(count: int, dtype: npt.DTypeLike) -> Array:
    """Zeros that start on a cache line: a vector that straddles two is two loads to the processor."""
    num_bytes = count * np.dtype(dtype).itemsize
    # numpy may align to less, so there is room to move the start.
    raw = np.zeros(num_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + num_bytes].view(dtype)
