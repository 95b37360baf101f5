"""The Solver interface: what a backend writes (`_solve`), and what is written once around it (`solve`)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from tmask.blocks.arrays import Scores
from tmask.errors import InvalidProblemError, SolverFailedError
from tmask.judging.answers import Answer, BlockSolution
from tmask.judging.counts import count_lines


class Solver(ABC):
    """Finds masks for blocks. A subclass is a frozen dataclass whose fields are its settings.

    Class constants:
        name: what users call it, library or family first.
        exact: proves optimality (up to the rounding that its docstring states); else it is only measured.
        requires: import names of the libraries that it needs.
        max_side: the largest block side it takes. Ragged edges of a weight can double m, see `tmask.blocks.tiling`.
        chunk: blocks handed to `_solve` at once, which bounds memory and how long an interrupt can take.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    requires: ClassVar[tuple[str, ...]] = ()
    max_side: ClassVar[int] = 64
    chunk: ClassVar[int] = 1 << 16

    @abstractmethod
    def _solve(self, scores: Scores, n: int) -> Answer:
        """Masks for scores (B, m, m), float32 or float64, >= 0 and finite, C-contiguous, B >= 1, 0 < n < m."""

    def check_side(self, side: int) -> None:
        """Return if it takes blocks of this side; raise InvalidProblemError if not."""
        if side > self.max_side:
            raise InvalidProblemError(
                f"solver {self.name!r} takes blocks up to {self.max_side} x {self.max_side}, not {side} x {side}; "
                "choose another one (tmask.available_solvers() lists them)"
            )

    def solve(self, scores: Scores, n: int, progress: Callable[[int], object] | None = None) -> BlockSolution:
        """Masks for a stack of blocks, checked and timed.

        Args:
            scores: (B, m, m) float32 or float64, >= 0, finite.
            n: entries kept per row and per column, 0 < n <= m.
            progress: called with the number of blocks done since the last call.
        Raises:
            InvalidProblemError: a block side that this solver does not take.
            SolverFailedError: the backend failed, or returned what is no mask of this pattern.
        """
        num_blocks, side = scores.shape[:2]
        self.check_side(side)
        # n = m keeps everything and is proven by any prices, so no solver is bothered with it.
        masks = np.ones(scores.shape, np.bool_)
        prices = np.zeros((num_blocks, side)) if n == side else None
        limit_reached = False
        seconds = 0.0
        for start in range(0, num_blocks if n < side else 0, self.chunk):
            part = slice(start, start + self.chunk)
            contiguous = np.require(scores[part], requirements=["C", "W"])  # numba compiles anew for others
            # The backend alone is timed: checks cost the same for all, and would blur who is fast.
            begin = time.perf_counter()
            answer = self._solve(contiguous, n)
            seconds += time.perf_counter() - begin
            self._check(answer, contiguous.shape, n, start)
            masks[part] = answer.masks
            limit_reached |= answer.limit_reached
            if answer.prices is not None:
                if prices is None:
                    prices = np.empty((num_blocks, side))
                prices[part] = answer.prices
            # Between chunks, which is also where an interrupt gets through to Python.
            if progress is not None:
                progress(len(contiguous))
        return BlockSolution(masks, prices, limit_reached, seconds)

    def _check(self, answer: Answer, shape: tuple[int, ...], n: int, first: int) -> None:
        """Refuse what is no mask: never more than n per line, and exactly n from an exact solver."""
        masks = answer.masks
        if masks.shape != shape or masks.dtype != np.bool_:
            raise SolverFailedError(f"solver {self.name!r} returned {masks.dtype} {masks.shape}, expected bool {shape}")
        for counts, line in zip(count_lines(masks), ("row", "column"), strict=True):
            # More than n is no mask, whoever made it; fewer is what heuristics, and stopped searches, may return.
            bad = counts != n if self.exact and not answer.limit_reached else counts > n
            if bad.any():
                block, index = (int(i) for i in np.argwhere(bad)[0])
                raise SolverFailedError(
                    f"solver {self.name!r}, block {first + block}: {line} {index} keeps {counts[block, index]}, "
                    f"not {n}; please report this"
                )
