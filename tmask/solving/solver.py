"""The Solver interface: what a backend writes (`_solve`), and what is written once around it (`solve`)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeGuard

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import Scores
from tmask.errors import InvalidProblemError, SolverFailedError
from tmask.judging.answers import Answer, BlockSolution
from tmask.judging.counts import count_lines
from tmask.solving.guard import faults_of, is_ours, sealed, to_its_author


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
        """Masks for scores (B, m, m), float32 or float64, >= 0 and finite, C-contiguous, B >= 1, 0 < n < m.

        The scores are not to be changed; solvers of other packages get them read-only.
        """

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
            SolverFailedError: the solver's own code raised, or returned what is no mask of this pattern.
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
            given = self._given(scores[part])
            # The backend alone is timed: checks cost the same for all, and would blur who is fast.
            begin = time.perf_counter()
            with faults_of(self, f"blocks {start}-{start + len(given) - 1}"):
                answer = self._solve(given, n)
            seconds += time.perf_counter() - begin
            self._check(answer, given.shape, n, start)
            masks[part] = answer.masks
            limit_reached |= bool(answer.limit_reached)
            if answer.prices is not None:
                if prices is None:
                    prices = np.empty((num_blocks, side))
                prices[part] = answer.prices
            # Between chunks, which is also where an interrupt gets through to Python.
            if progress is not None:
                progress(len(given))
        return BlockSolution(masks, prices, limit_reached, seconds)

    def _given(self, scores: Scores) -> Scores:
        """What `_solve` gets to read, see `tmask.solving.guard`."""
        if is_ours(self):
            return np.require(scores, requirements=["C", "W"])  # numba compiles anew for others
        return sealed(np.array(scores, order="C"))

    def _check(self, answer: Answer, shape: tuple[int, ...], n: int, first: int) -> None:
        """Refuse what is no mask: never more than n per line, and exactly n from an exact solver."""
        self._check_types(answer, shape, first)
        for counts, line in zip(count_lines(np.asarray(answer.masks)), ("row", "column"), strict=True):
            # More than n is no mask, whoever made it; fewer is what heuristics, and stopped searches, may return.
            bad = counts != n if self.exact and not answer.limit_reached else counts > n
            if bad.any():
                block, index = (int(i) for i in np.argwhere(bad)[0])
                raise SolverFailedError(
                    f"solver {self.name!r}, block {first + block}: {line} {index} keeps {counts[block, index]}, "
                    f"not {n}; {to_its_author(self)}"
                )

    def _check_types(self, answer: object, shape: tuple[int, ...], first: int) -> None:
        """Refuse what is no Answer, or holds arrays of other shapes or dtypes than it says."""
        blocks = f"solver {self.name!r}, blocks {first}-{first + shape[0] - 1}: _solve"
        if not isinstance(answer, Answer):
            raise SolverFailedError(
                f"{blocks} returned {_kind(answer)}, expected tmask.Answer(masks); {to_its_author(self)}"
            )
        masks, prices = answer.masks, answer.prices
        if not _is_array(masks) or masks.shape != shape or masks.dtype != np.bool_:
            raise SolverFailedError(
                f"{blocks} returned {_kind(masks)} as masks, expected bool {shape}; {to_its_author(self)}"
            )
        if prices is not None and not (_is_array(prices) and prices.shape == shape[:2] and prices.dtype.kind == "f"):
            raise SolverFailedError(
                f"{blocks} returned {_kind(prices)} as prices, expected float64 {shape[:2]}; {to_its_author(self)}"
            )


def _is_array(value: object) -> TypeGuard[npt.NDArray[Any]]:
    """Whether a numpy array, all of whose entries count."""
    return isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)


def _kind(value: object) -> str:
    """What something is, for an error text."""
    if _is_array(value):
        return f"{value.dtype} {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"
