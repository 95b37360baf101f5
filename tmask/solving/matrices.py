"""Solve matrices where they lie, part by part (`tmask.blocks.parts`), without a copy in blocks, on several threads.

Sums are added in the order of the parts, so the result is the same for any number of threads.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from tmask.blocks.parts import Part, RowPrices, Stage, Values, direct_parts, is_direct, real_dtype, staged_parts
from tmask.blocks.tiling import Mask
from tmask.errors import SolverFailedError
from tmask.judging.compiled import find_compiled_kernels
from tmask.judging.worth import Worth
from tmask.solving.cores import usable_cores
from tmask.solving.guard import faults_of, is_ours, to_its_author
from tmask.solving.solver import Solver

Result = TypeVar("Result")
Worker = Callable[[Values, Mask, RowPrices | None], float]
Examined = tuple[float, float, bool]  # see `examine`
ExaminingWorker = Callable[[Values, Mask, RowPrices | None], tuple[float, Examined]]


class MatrixSolver(Solver):
    """A solver that also takes whole matrices, see `solve_matrices`.

    Class constants:
        threads: parts solved at once, None for as many as there are usable cores; a setting in most subclasses.
    """

    threads: int | None = 1
    exact: ClassVar[bool] = True

    def num_threads(self) -> int:
        """Of a call that is made now."""
        return usable_cores() if self.threads is None else self.threads

    def has_warm_start(self, m: int, dtype: np.dtype[Any]) -> bool:
        """Whether it has a use for row prices to start from."""
        return False

    @abstractmethod
    def _worker(self, n: int, m: int, dtype: npt.DTypeLike) -> Worker:
        """A function with scratch of its own that solves parts of matrices, for one thread.

        It is called with weights (h, w) of this dtype, float32 or float64, of any sign and perhaps not finite, rows of
        unit stride, m dividing h and w; with a mask of that shape to write, n entries in each row and column of each
        tile; and with row prices (tiles, m) of this dtype to start from and to leave better ones in, or None. It
        returns a bound on what the mask loses against the optimum: 0 where it is optimal.
        """

    def _examining_worker(self, n: int, m: int, dtype: npt.DTypeLike) -> ExaminingWorker | None:
        """As `_worker`, if it can have `examine`'s own kernels look at masks while they are in the cache; else None.

        Asked of this package's solvers alone. Returns what `examine` would beside the bound.
        """
        return None


def solve_matrices(
    solver: MatrixSolver,
    weights: Values,
    n: int,
    m: int,
    masks: Mask,
    progress: Callable[[int], object] | None = None,
    row_prices: RowPrices | None = None,
) -> Worth:
    """Write masks that keep the most |weight| to `masks`; returns what they are worth.

    Args:
        weights: (K, G, h, w), matrices (h, w) with m dividing both sides; uint16 is taken for bfloat16. Entries that
            are not finite show in the total.
        masks: bool of that shape.
        progress: called with the number of blocks done since the last call.
        row_prices: `make_row_prices`, perhaps of an earlier call on nearly the same weights: where to start from, and
            where the last prices are left, if the solver has a use for them.
    Raises:
        SolverFailedError: the solver returned what is no mask of this pattern.
    Cost: memory below 1 MiB a thread.
    """
    real = real_dtype(weights)
    ours = is_ours(solver)
    direct = ours and is_direct(weights, masks, m)
    scratch = threading.local()

    def solve_part(part: Part) -> tuple[float, float, float, int]:
        # Made by the thread that uses it, at its first part: two threads must never share scratch.
        if not hasattr(scratch, "worker"):
            scratch.worker = _examining(solver, n, m, real) if ours else solver._worker(n, m, real)
            scratch.stage = None if direct else Stage(real)
        if direct:
            (weight,), (mask,) = part.pieces(weights), part.pieces(masks)
        else:
            weight, mask = scratch.stage.fetch(part, weights)
        if ours:
            slack, (kept, total, regular) = _call(scratch.worker, weight, mask, part, row_prices)
        else:
            slack = _call(scratch.worker, weight, mask, part, row_prices)
            weight, mask = scratch.stage.fetch(part, weights)  # it may have written there: judged is the original
            kept, total, regular = examine(weight, mask, n, m)
        if not regular:
            raise SolverFailedError(f"solver {solver.name!r} returned what is no {n}:{m} mask; {to_its_author(solver)}")
        if not direct:
            part.put(mask, masks)
        return kept, total, slack, weight.size // (m * m)

    def reported(part: Part) -> tuple[float, float, float, int]:
        with faults_of(solver, f"rows {part.first}-{part.last - 1}"):
            return solve_part(part)

    objective = total = slack = 0.0
    parts = direct_parts(weights, m) if direct else staged_parts(weights, m)
    for kept, entries, lost, blocks in _in_threads(reported, parts, solver.num_threads()):
        objective, total, slack = objective + kept, total + entries, slack + lost
        if progress is not None:
            progress(blocks)
    return Worth(objective, total, objective + slack)


def _examining(solver: MatrixSolver, n: int, m: int, real: type[np.floating[Any]]) -> ExaminingWorker:
    """The solver's own, or its worker with `examine` after it."""
    if (own := solver._examining_worker(n, m, real)) is not None:
        return own
    worker = solver._worker(n, m, real)
    return lambda weight, mask, start: (worker(weight, mask, start), examine(weight, mask, n, m))


def _call(
    worker: Callable[[Values, Mask, RowPrices | None], Result],
    weight: Values,
    mask: Mask,
    part: Part,
    row_prices: RowPrices | None,
) -> Result:
    """What a worker returns; its prices go to where they came from."""
    if row_prices is None:
        return worker(weight, mask, None)
    own = part.tiles(row_prices)
    start = np.ascontiguousarray(own).reshape(-1, row_prices.shape[2])
    result = worker(weight, mask, start)
    own[...] = start.reshape(own.shape)
    return result


def make_row_prices(weights: Values, m: int) -> RowPrices:
    """Zeros (tiles down all matrices, tiles across, m) for matrices (K, G, h, w)."""
    matrices, groups, height, width = weights.shape
    return np.zeros((matrices * groups * height // m, width // m, m), real_dtype(weights))


def examine(weight: Values, mask: Mask, n: int, m: int) -> Examined:
    """Kept and total |weight| (h, w) in float64, and whether the mask keeps n in each row and column of each tile."""
    if (kernels := find_compiled_kernels()) is not None:
        kept, total, regular = kernels.examine(weight, mask, n, m)
        return kept, total, regular
    # In numpy where numba is not loaded, which takes longer than this; the sums may differ in their last place.
    scores = np.abs(weight)
    tiles = mask.reshape(len(mask) // m, m, -1, m)
    regular = bool((tiles.sum(1) == n).all() and (tiles.sum(3) == n).all())
    return float(scores.sum(where=mask, dtype=np.float64)), float(scores.sum(dtype=np.float64)), regular


def _in_threads(
    solve_part: Callable[[Part], tuple[float, float, float, int]], parts: Iterator[Part], threads: int
) -> Iterator[tuple[float, float, float, int]]:
    """The results in the order of the parts. An interrupt drops what has not begun, and waits for what has."""
    first = list(islice(parts, threads))
    if len(first) == 1:  # one thread, or one part, for which a pool would be in the way of an interrupt
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
