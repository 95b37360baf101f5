"""Scratch of the midpoint iteration: what the lanes hold, and what a block on its way out holds.

L lanes, one block each: 16 of float32, 8 of float64. Entry (i, j) of the block in `lane` stands at
[(i*m + j)*L + lane], row or column k's price at [k*L + lane], and word k of a row's mask (`lanes`) likewise.
At m = 32 it is 0.3 MiB.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Lanes(NamedTuple):
    """The blocks at work; reals are of the scores' dtype, mask words int32, the rest int64 with one entry a lane."""

    weight: Array
    u: Array
    v: Array
    target: Array
    momentum: Array
    base: Array  # what was subtracted from all entries
    kept: Array
    counts: Array
    block: Array  # the number of its tile
    at: Array  # where the tile begins in the weight,
    mask_at: Array  # and in the mask
    born: Array  # the round before its first


class Paths(NamedTuple):
    """One block on its way out (`fallback`): reals are float64, sets of lines int64 (`bits`)."""

    q: Array  # scores in units of the grid, rows padded with -inf
    u: Array
    v: Array
    to_row: Array  # distances
    to_column: Array
    above: Array  # of each row, the entries above its price,
    level: Array  # those at it,
    kept: Array  # and those that are kept
    planes: Array
    row_of: Array
    into: Array
    top: Array
    start: Array  # (m,) column prices to start from, then the final ones
    rows: Array  # (m,) row prices likewise
    tiles: Array  # (1,) how many tiles were solved so


class Room(NamedTuple):
    lanes: Lanes
    paths: Paths


def make_room(n: int, m: int, dtype: npt.DTypeLike) -> Room:
    """Scratch for one thread."""
    # Kernels that count no references can allocate nothing, so all their scratch is made here, once a thread.
    real = np.dtype(dtype)
    lanes = 64 // real.itemsize
    words, width = (m + 3) // 4, padded(m)

    def per_lane(count: int, kind: npt.DTypeLike) -> Array:
        return _aligned(count * lanes, kind)

    def integers(count: int = lanes) -> Array:
        return np.zeros(count, np.int64)

    def reals() -> Array:
        return np.zeros(width)

    return Room(
        Lanes(
            per_lane(m * m, real), per_lane(m, real), per_lane(m, real), per_lane(m, real), per_lane(1, real),
            per_lane(1, real), per_lane(m * words, np.int32), per_lane(words, np.int32),
            integers(), integers(), integers(), integers(),
        ),
        Paths(
            np.full(m * width, -np.inf), reals(), reals(), reals(), reals(),
            integers(m), integers(m), integers(m), integers(8), integers(m), integers(m),
            np.zeros(n + 1), np.zeros(m), np.zeros(m), integers(1),
        ),
    )  # fmt: skip


def padded(m: int) -> int:
    """m raised to a multiple of 8, the entries of a register of float64."""
    return (m + 7) // 8 * 8


def _aligned(count: int, dtype: npt.DTypeLike) -> Array:
    """Zeros that start on a cache line: a vector that straddles two is two loads to the processor."""
    num_bytes = count * np.dtype(dtype).itemsize
    # numpy may align to less, so there is room to move the start.
    raw = np.zeros(num_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + num_bytes].view(dtype)
