"""Scratch of the midpoint iteration: what the lanes hold, and what a block on its way out holds.

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
    base: Array  # what was subtracted from all entries
    kept: Array
    counts: Array
    block: Array  # the number of its tile
    at: Array  # where the tile begins in the weight,
    mask_at: Array  # and in the mask
    born: Array  # the round before its first


class Paths(Protocol):
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


class Room(Protocol):
    """The record."""

    lanes: Lanes
    paths: Paths


def make_room(n: int, m: int, dtype: npt.DTypeLike) -> Room:
    """Scratch for one thread."""
    # Kernels that count no references can allocate nothing, so all their scratch is made here, once a thread.
    kind = _room_kind(n, m, np.dtype(dtype))
    raw = np.zeros(kind.itemsize + _LINE, np.uint8)
    # numpy may align to less, so there is room to move the start: a vector that straddles two lines is two loads.
    start = -raw.ctypes.data % _LINE
    room: Any = raw[start : start + kind.itemsize].view(kind)[0]
    room.paths.q[:] = -np.inf  # what pads its rows
    return cast("Room", room)


@cache
def _room_kind(n: int, m: int, real: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of `Room`."""
    width = _LINE // real.itemsize
    words = (m + 3) // 4
    integer, word, double = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.float64)
    a_lane = (integer, width)
    lanes: Fields = {
        "weight": (real, m * m * width), "u": (real, m * width), "v": (real, m * width),
        "target": (real, m * width), "momentum": (real, width), "base": (real, width),
        "kept": (word, m * words * width), "counts": (word, words * width),
        "block": a_lane, "at": a_lane, "mask_at": a_lane, "born": a_lane,
    }  # fmt: skip
    sets, line = (integer, m), (double, padded(m))
    paths: Fields = {
        "q": (double, m * padded(m)), "u": line, "v": line, "to_row": line, "to_column": line,
        "above": sets, "level": sets, "kept": sets, "planes": (integer, 8), "row_of": sets, "into": sets,
        "top": (double, n + 1), "start": (double, m), "rows": (double, m), "tiles": (integer, 1),
    }  # fmt: skip
    return _record({"lanes": (_record(lanes), ()), "paths": (_record(paths), ())})


def padded(m: int) -> int:
    """m raised to a multiple of 8, the entries of a register of float64."""
    return (m + 7) // 8 * 8


def _record(fields: Fields) -> np.dtype[Any]:
    """A record of these fields, each at the start of a cache line."""
    kinds = [np.dtype((kind, shape)) for kind, shape in fields.values()]
    offsets, end = [], 0
    for kind in kinds:
        offsets.append(end)
        end += -(-kind.itemsize // _LINE) * _LINE
    layout = {"names": [*fields], "formats": kinds, "offsets": offsets, "itemsize": end}
    return np.dtype((np.record, layout))
