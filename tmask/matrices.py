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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
    weights: Sequence[Values],
    n: int,
    m: int,
    masks: Sequence[Mask],
    progress: Callable[[int], object] | None = None,
) -> MatrixAnswer:
    """Masks that keep the most |weight|, written to `masks`, and what they keep.

    Args:
        weights: 2-D arrays of one shape and dtype, m dividing both sides; uint16 is taken for bfloat16. Entries that
            are not finite show in `total`.
        masks: bool arrays of that shape.
        progress: called with the number of blocks done since the last call.
    Raises:
        SolverFailedError: the solver returned what is no mask of this pattern.
    Cost: memory below 1 MiB a thread.
    """
    begin = time.perf_counter()
    real = np.float64 if weights[0].dtype == np.float64 else np.float32
    parts = list(_parts(weights, masks, m))
    scratch = threading.local()

    def solve_part(part: _Part) -> tuple[float, float, float, int]:
        if not hasattr(scratch, "worker"):
            scratch.worker = solver._worker(n, m, real)
            scratch.stage = _Stage(real)
        weight, mask = scratch.stage.fetch(part) if part.staged else (part.weights[0], part.masks[0])
        slack = scratch.worker(weight, mask)
        kept, total, regular = examine(weight, mask, n, m)
        if not regular:
            raise SolverFailedError(f"solver {solver.name!r} returned what is no {n}:{m} mask; please report this")
        if part.staged:
            scratch.stage.put_back(part, mask)
        return kept, total, slack, weight.size // (m * m)

    objective = total = slack = 0.0
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
    """Pieces of matrices that are solved together; of one width, and just one unless staged."""

    weights: list[Values]
    masks: list[Mask]
    staged: bool


def _parts(weights: Sequence[Values], masks: Sequence[Mask], m: int) -> Iterator[_Part]:
    """Cut matrices at multiples of m; where they cannot be read in place, into what fits the stage."""
    height, width = weights[0].shape
    direct = all(_readable(weight) for weight in weights) and all(mask.strides[1] == 1 for mask in masks)
    # Small matrices are gathered, so that each of them is not a part of its own.
    if direct and (len(weights) == 1 or height * width >= _DIRECT_BLOCKS * m * m):
        step = max(1, max(_DIRECT_ENTRIES, _DIRECT_BLOCKS * m * m) // (width * m)) * m
        for weight, mask in zip(weights, masks, strict=True):
            for row in range(0, height, step):
                yield _Part([weight[row : row + step]], [mask[row : row + step]], staged=False)
        return
    room = _STAGED_BYTES // (8 if weights[0].dtype == np.float64 else 4)
    columns = min(width, room // m // (16 * m) * 16 * m)
    for col in range(0, width, columns):
        across = slice(col, min(col + columns, width))
        left = lines = room // (across.stop - across.start) // m * m
        part = _Part([], [], staged=True)
        for weight, mask in zip(weights, masks, strict=True):
            row = 0
            while row < height:
                taken = min(left, height - row)
                part.weights.append(weight[row : row + taken, across])
                part.masks.append(mask[row : row + taken, across])
                row += taken
                left -= taken
                if not left:
                    yield part
                    part, left = _Part([], [], staged=True), lines
        if part.weights:
            yield part


def _readable(weight: Values) -> bool:
    """Whether a solver can take it as it is. Read-only arrays would be another type to numba, and compile again."""
    plain = weight.dtype in (np.float32, np.float64) and weight.dtype.isnative
    down, across = weight.strides
    rows = across == weight.itemsize and down >= weight.shape[1] * across and down % across == 0
    return plain and rows and weight.flags.aligned and weight.flags.writeable


class _Stage:
    """Room for a part that is copied."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        entries = _STAGED_BYTES // np.dtype(dtype).itemsize
        self.weight, self.mask = np.empty(entries, dtype), np.empty(entries, np.bool_)

    def fetch(self, part: _Part) -> tuple[Values, Mask]:
        """The part's pieces below one another, and a mask to write."""
        width = part.weights[0].shape[1]
        height = sum(len(piece) for piece in part.weights)
        weight = self.weight[: height * width].reshape(height, width)
        row = 0
        for piece in part.weights:
            target = weight[row : row + len(piece)]
            if piece.dtype == np.uint16:  # bfloat16 is the upper half of float32
                np.left_shift(piece, np.uint32(16), out=target.view(np.uint32), dtype=np.uint32)
            else:
                target[...] = piece
            row += len(piece)
        return weight, self.mask[: height * width].reshape(height, width)

    def put_back(self, part: _Part, mask: Mask) -> None:
        """The rows of a mask to where the pieces came from."""
        row = 0
        for piece in part.masks:
            piece[...] = mask[row : row + len(piece)]
            row += len(piece)


def _in_threads(
    solve_part: Callable[[_Part], tuple[float, float, float, int]], parts: list[_Part], threads: int
) -> Iterator[tuple[float, float, float, int]]:
    """The results in the order of the parts. An interrupt drops what has not begun."""
    if min(threads, len(parts)) == 1:
        yield from map(solve_part, parts)
        return
    with ThreadPoolExecutor(min(threads, len(parts))) as pool:
        yield from pool.map(solve_part, parts)
