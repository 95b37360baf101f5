"""Solve matrices where they lie: in parts that fit a cache, without a copy in blocks, on several threads.

Matrices (h, w) whose entries a solver can read as they are, float32 or float64 with rows of unit stride, are handed
over in bands of rows. All else (float16, bfloat16, the kernel positions of a convolution) is first copied into a small
buffer, part by part, and so are the masks on their way back. Which entries form a part does not depend on the number
of threads, and sums are added in the order of the parts: the result is the same for any number.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tmask.blocks import Mask
from tmask.compiled import judging
from tmask.errors import SolverFailedError
from tmask.solver import Solver

Values = npt.NDArray[Any]  # a float dtype, or uint16 for the bits of bfloat16
Worker = Callable[[Values, Mask], float]

_STAGED_BYTES = 1 << 19
_DIRECT_ENTRIES = 1 << 20  # 4 MiB of float32: little is lost at the ends of parts, and threads share evenly
_DIRECT_BLOCKS = 1 << 10  # enough to keep SIMD lanes busy that wait for a part's last blocks


class MatrixSolver(Solver):
    """A solver that also takes whole matrices, see `solve_matrices`.

    Class constants:
        threads: parts solved at once; a setting in most subclasses.
    """

    threads: int = 1
    exact: ClassVar[bool] = True

    @abstractmethod
    def _worker(self, n: int, m: int, dtype: npt.DTypeLike) -> Worker:
        """A function with scratch of its own that solves parts of matrices, for one thread.

        It is called with weights (h, w) of this dtype, float32 or float64, of any sign and perhaps not finite, rows of
        unit stride, m dividing h and w; and with a mask of that shape to write, n entries in each row and column of
        each tile. It returns a bound on what the mask loses against the optimum: 0 where it is optimal.
        """


@dataclass(frozen=True, slots=True)
class MatrixAnswer:
    """Sums over matrices.

    Args:
        objective: |entries| kept, in float64.
        total: all |entries|; not finite if one of them is not.
        slack: the optimum is at most objective + slack.
        seconds: wall-clock time, checks included.
    """

    objective: float
    total: float
    slack: float
    seconds: float


def solve_matrices(
    solver: MatrixSolver,
    weights: Values,
    n: int,
    m: int,
    masks: Mask,
    progress: Callable[[int], object] | None = None,
) -> MatrixAnswer:
    """Masks that keep the most |weight|, written to `masks`, and what they keep.

    Args:
        weights: (K, G, h, w), matrices (h, w) with m dividing both sides; uint16 is taken for bfloat16. Entries that
            are not finite show in `total`.
        masks: bool of that shape.
        progress: called with the number of blocks done since the last call.
    Raises:
        SolverFailedError: the solver returned what is no mask of this pattern.
    Cost: memory below 1 MiB a thread.
    """
    begin = time.perf_counter()
    real = np.float64 if weights.dtype.itemsize == 8 else np.float32  # whatever the byte order
    direct = _is_direct(weights, masks, m)
    scratch = threading.local()

    def solve_part(part: _Part) -> tuple[float, float, float, int]:
        if not hasattr(scratch, "worker"):
            scratch.worker = solver._worker(n, m, real)
            scratch.stage = None if direct else _Stage(real)
        if direct:
            (weight,), (mask,) = part.pieces(weights), part.pieces(masks)
        else:
            weight, mask = scratch.stage.fetch(part, weights)
        slack = scratch.worker(weight, mask)
        kept, total, regular = examine(weight, mask, n, m)
        if not regular:
            raise SolverFailedError(f"solver {solver.name!r} returned what is no {n}:{m} mask; please report this")
        if not direct:
            part.put(mask, masks)
        return kept, total, slack, weight.size // (m * m)

    objective = total = slack = 0.0
    parts = _direct_parts(weights, m) if direct else _staged_parts(weights, m)
    for kept, entries, lost, blocks in _in_threads(solve_part, parts, solver.threads):
        objective, total, slack = objective + kept, total + entries, slack + lost
        if progress is not None:
            progress(blocks)
    return MatrixAnswer(objective, total, slack, time.perf_counter() - begin)


def examine(weight: Values, mask: Mask, n: int, m: int) -> tuple[float, float, bool]:
    """Kept and total |weight| (h, w) in float64, and whether the mask keeps n in each row and column of each tile."""
    if (kernels := judging()) is not None:
        kept, total, regular = kernels.examine(weight, mask, n, m)
        return kept, total, regular
    scores = np.abs(weight)
    tiles = mask.reshape(len(mask) // m, m, -1, m)
    regular = bool((tiles.sum(1) == n).all() and (tiles.sum(3) == n).all())
    return float(scores.sum(where=mask, dtype=np.float64)), float(scores.sum(dtype=np.float64)), regular


@dataclass(frozen=True, slots=True)
class _Part:
    """What is solved together: of all matrices, one below the other, lines `first` to `last`, some columns of them."""

    first: int
    last: int
    across: slice

    def pieces(self, matrices: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Its part of each of the matrices (K, G, h, w) that it touches, in order: views."""
        groups, height = matrices.shape[1:3]
        line = self.first
        while line < self.last:
            matrix, row = divmod(line, height)
            stop = min(height, row + self.last - line)
            yield matrices[matrix // groups, matrix % groups, row:stop, self.across]
            line += stop - row

    def put(self, mask: Mask, masks: Mask) -> None:
        """Its mask to where the pieces came from."""
        row = 0
        for piece in self.pieces(masks):
            piece[...] = mask[row : row + len(piece)]
            row += len(piece)


def _is_direct(weights: Values, masks: Mask, m: int) -> bool:
    """Whether a solver can take the matrices as they are.

    Read-only arrays would be another type to numba, and compile again. Small matrices are gathered, so that each of
    them is not a part of its own.
    """
    matrices, groups, height, width = weights.shape
    plain = weights.dtype in (np.float32, np.float64) and weights.dtype.isnative
    down, across = weights.strides[2:]
    rows = across == weights.itemsize and down >= width * across and down % across == 0
    large = matrices * groups == 1 or height * width >= _DIRECT_BLOCKS * m * m
    return plain and rows and weights.flags.aligned and weights.flags.writeable and masks.strides[3] == 1 and large


def _direct_parts(weights: Values, m: int) -> Iterator[_Part]:
    """Bands of rows of each matrix."""
    matrices, groups, height, width = weights.shape
    step = max(1, max(_DIRECT_ENTRIES, _DIRECT_BLOCKS * m * m) // (width * m)) * m
    for top in range(0, matrices * groups * height, height):
        for line in range(top, top + height, step):
            yield _Part(line, min(line + step, top + height), slice(0, width))


def _staged_parts(weights: Values, m: int) -> Iterator[_Part]:
    """What fits the stage, cut at multiples of m."""
    matrices, groups, height, width = weights.shape
    room = _STAGED_BYTES // max(4, weights.dtype.itemsize)
    columns = min(width, room // m // (16 * m) * 16 * m)
    lines = matrices * groups * height
    for col in range(0, width, columns):
        across = slice(col, min(col + columns, width))
        step = room // (across.stop - across.start) // m * m
        for line in range(0, lines, step):
            yield _Part(line, min(line + step, lines), across)


class _Stage:
    """Room for a part that is copied."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        entries = _STAGED_BYTES // np.dtype(dtype).itemsize
        self.weight, self.mask = np.empty(entries, dtype), np.empty(entries, np.bool_)

    def fetch(self, part: _Part, weights: Values) -> tuple[Values, Mask]:
        """The part's pieces below one another, and a mask to write."""
        height, width = part.last - part.first, part.across.stop - part.across.start
        weight = self.weight[: height * width].reshape(height, width)
        row = 0
        for piece in part.pieces(weights):
            target = weight[row : row + len(piece)]
            if piece.dtype == np.uint16:  # bfloat16 is the upper half of float32
                np.left_shift(piece, np.uint32(16), out=target.view(np.uint32), dtype=np.uint32)
            else:
                target[...] = piece
            row += len(piece)
        return weight, self.mask[: height * width].reshape(height, width)


def _in_threads(
    solve_part: Callable[[_Part], tuple[float, float, float, int]], parts: Iterator[_Part], threads: int
) -> Iterator[tuple[float, float, float, int]]:
    """The results in the order of the parts. An interrupt drops what has not begun, and waits for what has."""
    first = list(islice(parts, threads))
    if len(first) == 1:
        parts = chain(first, parts)
        yield from map(solve_part, parts)
        return
    with ThreadPoolExecutor(len(first)) as pool:
        # Twice as many as threads are under way: enough to keep them busy, few enough to cost no memory.
        running = deque(pool.submit(solve_part, part) for part in chain(first, islice(parts, threads)))
        try:
            while running:
                result = running.popleft().result()
                running.extend(pool.submit(solve_part, part) for part in islice(parts, 1))
                yield result
        finally:
            for future in running:
                future.cancel()
