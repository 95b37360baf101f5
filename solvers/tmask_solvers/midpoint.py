"""The midpoint iteration: alternate row and column prices, half way between kept and pruned, until the columns balance.

The best mask at given column prices keeps each row's n largest of score - price; at the right prices every column
counts n too, and then it is optimal (`cpu_kernels.midpoint.window` has the argument). Setting every price half way
between the n-th and the (n+1)-th largest of its line, rows and columns in turn, with a little momentum, finds such
prices in a few rounds for nearly all blocks. The order statistics come from branch-free min-max networks
(`shared.selection`) whose SIMD lanes are 16 blocks (`midpoint.lanes`). Blocks that tie, or
do not balance, are finished one by one: ties are filled and exchanged, and prices moved where that does not suffice
(`midpoint.fallback`). Blocks of side 4 in float32 have closed forms instead (`cpu_kernels.closed.solve`).

Compiled once for each n and m, which takes some seconds, and cached on disk from then on.

Cost: O(m^2 log^2 m) a round and block, 2 rounds at m = 4 to 10 at m = 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import Scores
from tmask.blocks.parts import RowPrices, Values
from tmask.blocks.tiling import Mask
from tmask.errors import InvalidProblemError
from tmask.judging.answers import Answer
from tmask.solving.matrices import Examined, ExaminingWorker, MatrixSolver, Worker, examine
from tmask_solvers.cpu_kernels.bands import bands_that_pay, in_bands
from tmask_solvers.cpu_kernels.closed.solve import LANES, solve_closed
from tmask_solvers.cpu_kernels.midpoint.room import make_room
from tmask_solvers.cpu_kernels.midpoint.window import solve_window
from tmask_solvers.cpu_kernels.sums import ROOM
from tmask_solvers.cpu_kernels.tiles import make_window
from tmask_solvers.shared.announce import announced

_NARROW_ENTRIES = 1 << 14  # laid out at once, which bounds the copy
# Entries in a thread: about half a millisecond of work.
_LEAST_BAND = 2**19

_preparing = Lock()
_prepared: set[tuple[int, int, np.dtype[Any], bool]] = set()


@dataclass(frozen=True)
class Midpoint(MatrixSolver):
    """Exact; up to n * m * 2^-45 of the largest score in fallback blocks with scores off their grid.

    docs/explanation/exactness.md has the proof, and the grid in section 3.

    Args:
        threads: parts of a weight solved at once, None for as many as there are usable cores, fewer where it is small;
            the masks do not depend on it.
    """

    threads: int | None = None

    name: ClassVar[str] = "midpoint"
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    max_side: ClassVar[int] = 32

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InvalidProblemError(f"threads must be at least 1, got {self.threads}")

    def _solve(self, scores: Scores, n: int) -> Answer:
        num_blocks, side = scores.shape[:2]
        masks = np.empty(scores.shape, np.bool_)
        prices = np.empty((num_blocks, side))

        # Before there are threads, which would all wait for the first of them to compile.
        _prepare(n, side, scores.dtype)

        # Not in closed form, at side 4 either: blocks are judged by their prices, and it has none.
        def solve_band(band: slice) -> None:
            window = make_window(scores[band].reshape(-1, side), masks[band].reshape(-1, side))
            nowhere = np.empty((0, side), scores.dtype)
            solve_window(window, (0,) * n, (0,) * side, make_room(n, side, scores.dtype), prices[band], nowhere)

        threads = self.threads or bands_that_pay(self.num_threads(), scores.size, _LEAST_BAND)
        in_bands(solve_band, num_blocks, threads)
        return Answer(masks, prices)

    def has_warm_start(self, m: int, dtype: np.dtype[Any]) -> bool:
        """All patterns but those in closed form."""
        return m != 4 or dtype.itemsize == 8

    def _worker(self, n: int, m: int, dtype: npt.DTypeLike) -> Worker:
        if (closed := self._examining_worker(n, m, dtype)) is not None:
            return lambda weight, mask, start: closed(weight, mask, start)[0]
        _prepare(n, m, np.dtype(dtype))
        room = make_room(n, m, dtype)
        no_prices, nowhere = np.empty((0, m)), np.empty((0, m), dtype)

        def solve(weight: Values, mask: Mask, start: RowPrices | None) -> float:
            start = nowhere if start is None else start
            return solve_window(make_window(weight, mask), (0,) * n, (0,) * m, room, no_prices, start)

        return solve

    def _examining_worker(self, n: int, m: int, dtype: npt.DTypeLike) -> ExaminingWorker | None:
        if m != 4 or dtype != np.float32:
            return None
        _prepare(n, m, np.dtype(dtype), closed=True)
        return partial(_solve_closed, n)


def _prepare(n: int, m: int, dtype: np.dtype[Any], closed: bool = False) -> None:
    """Have the kernels compiled or loaded, on a tile of ones; nothing the second time."""
    # One after the other, else several threads would each say that they compile.
    with _preparing:
        if (n, m, dtype, closed) not in _prepared:
            tile, kept = np.ones((m, m), dtype), np.empty((m, m), np.bool_)
            with announced(f"the midpoint kernels for {n}:{m}, {dtype}"):
                if closed:
                    _solve_closed(n, np.ones((4, 4 * LANES), dtype), np.empty((4, 4 * LANES), np.bool_), None)
                else:
                    _solve_one(n, m, tile, kept)
            _prepared.add((n, m, dtype, closed))


def _solve_one(n: int, m: int, tile: Values, kept: Mask) -> None:
    """One tile by the kernels that `Midpoint` uses, so that they are compiled for its type."""
    nothing = np.empty((0, m))
    room = make_room(n, m, tile.dtype)
    solve_window(make_window(tile, kept), (0,) * n, (0,) * m, room, nothing, nothing.astype(tile.dtype))


def _solve_closed(n: int, weight: Values, mask: Mask, start: RowPrices | None) -> tuple[float, Examined]:
    """Masks of 4-by-4 tiles in closed form, which has no use for prices.

    It needs 16 tiles in a row, so narrow weights are laid out anew.
    """
    rows, cols = weight.shape
    least = 4 * LANES
    room = np.empty(ROOM)
    if cols >= least:
        slack, kept, total, regular = solve_closed(*make_window(weight, mask), (0,) * n, room)
        return slack, (kept, total, regular)
    slack = 0.0
    step = _NARROW_ENTRIES // (4 * cols) * 4
    for row in range(0, rows, step):
        part = weight[row : row + step].reshape(-1, 4, cols).transpose(1, 0, 2).reshape(4, -1)
        # What is left of the least width is zeros, whose sums round nothing and lose nothing.
        strip = np.zeros((4, max(least, part.shape[1])), np.float32)
        strip_mask = np.empty(strip.shape, np.bool_)
        strip[:, : part.shape[1]] = part
        slack += solve_closed(*make_window(strip, strip_mask), (0,) * n, room)[0]
        tiles = strip_mask[:, : part.shape[1]].reshape(4, -1, cols).transpose(1, 0, 2)
        mask[row : row + step] = tiles.reshape(-1, cols)
    return slack, examine(weight, mask, n, 4)
