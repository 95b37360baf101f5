"""Scratch of the midpoint iteration: what the lanes hold, and what the blocks that wait for a proof hold.

L lanes, one block each: 16 of float32, 8 of float64. Entry (i, j) of the block in `lane` stands at
[(i*m + j)*L + lane], row or column k's price at [k*L + lane], and word k of a row's mask (`lanes`) likewise.
At m = 32 it is 0.3 MiB.

All of it is one numpy record, whose fields the classes here name: to the compiler it is one pointer, and where a field
lies is a constant, while a tuple of 35 arrays is 245 words that each function hands on and takes apart.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from tmask_solvers.shared.parting import amounts

Array = npt.NDArray[Any]
Fields = dict[str, tuple[np.dtype[Any], Any]]  # by name, the dtype and the shape

_LINE = 64  # bytes of a cache line


class Lanes(Protocol):
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


class Pool(Protocol):
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


class Paths(Protocol):
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


class Room(Protocol):
    """The record."""

    lanes: Lanes
    pool: Pool
    paths: Paths


def make_room(n: int, m: int, dtype: npt.DTypeLike) -> Room:
    """Scratch for one thread."""
    # Kernels that count no references can allocate nothing, so all their scratch is made here, once a thread.
    kind = _room_kind(n, m, np.dtype(dtype))
    raw = np.zeros(kind.itemsize + _LINE, np.uint8)
    # numpy may align to less, so there is room to move the start: a vector that straddles two lines is two loads.
    start = -raw.ctypes.data % _LINE
    room: Any = raw[start : start + kind.itemsize].view(kind)[0]
    room.lanes.noise[:] = amounts(n, m).ravel()
    return cast("Room", room)


@cache
def _room_kind(n: int, m: int, real: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of `Room`."""
    width = _LINE // real.itemsize
    words = (m + 3) // 4
    integer, word, double = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.float64)
    a_lane = (integer, width)
    lanes: Fields = {
        "weight": (real, m * m * width),
        "u": (real, m * width),
        "v": (real, m * width),
        "target": (real, m * width),
        "momentum": (real, width),
        "noise": (real, m * m),
        "kept": (word, m * words * width),
        "counts": (word, words * width),
        "block": a_lane,
        "at": a_lane,
        "mask_at": a_lane,
        "born": a_lane,
        "parted": a_lane,
    }
    pool: Fields = {
        "score": (double, m * m * width),
        "u": (double, m * width),
        "v": (double, m * width),
        "kept": (word, m * words * width),
        "block": a_lane,
        "at": a_lane,
        "mask_at": a_lane,
        "bound": (double, width),
        "used": (integer, 1),
    }
    paths: Fields = {
        "q": (integer, (m, m)), "u": (integer, m), "v": (integer, m), "key": (integer, m), "top": (integer, n + 1),
        "counts": (integer, m), "best": (integer, 2 * m), "closed": (integer, 2 * m), "parent": (integer, 2 * m),
        "kept": (np.dtype(np.uint8), (m, m)), "score": (double, (m, m)), "start": (double, m), "tiles": (integer, 1),
    }  # fmt: skip
    return _record({"lanes": (_record(lanes), ()), "pool": (_record(pool), ()), "paths": (_record(paths), ())})


def _record(fields: Fields) -> np.dtype[Any]:
    """A record of these fields, each at the start of a cache line."""
    kinds = [np.dtype((kind, shape)) for kind, shape in fields.values()]
    offsets, end = [], 0
    for kind in kinds:
        offsets.append(end)
        end += -(-kind.itemsize // _LINE) * _LINE
    layout = {"names": [*fields], "formats": kinds, "offsets": offsets, "itemsize": end}
    return np.dtype((np.record, layout))
