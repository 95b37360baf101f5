"""What a user asked `tmask.solve` for, on its way down to the solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tmask.blocks.arrays import unusable
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.judging.solution import Solution
from tmask.showing.progress import ProgressCall
from tmask.solving.solver import Solver


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of `tmask.solve`, with the pattern and the solver read; solver is None for "auto".

    `blocks_done` is called with the number of blocks done since the last call, as what works on parts knows it.
    """

    weight: Any
    pattern: Pattern
    solver: Solver | None = None
    score: Any = None
    groups: int = 1
    layout: str | None = None
    certify: bool = True
    progress: ProgressCall | None = None
    warm_start: Solution | bool = False
    keep_zeros: bool = False
    blocks_done: Callable[[int], object] | None = None

    @property
    def at_most(self) -> bool:
        """Whether lines may keep fewer than n; where all is kept, n = m, that changes nothing."""
        return self.keep_zeros and self.pattern.n < self.pattern.m

    @property
    def zeroes_scores(self) -> bool:
        """Whether scores must be 0 where the weight is: of a score of its own; |weight| has no other there."""
        return self.keep_zeros and self.score is not None

    def counting(self, num_blocks: int) -> Request:
        """The same, with a `blocks_done` that tells `progress` how many of them are done in all."""
        if self.progress is None:
            return self
        done, tell = 0, self.progress

        def add(blocks: int) -> None:
            nonlocal done
            done += blocks
            tell(done, num_blocks, "" if done == num_blocks else str(self.pattern))

        return replace(self, blocks_done=add)

    def unusable(self) -> InvalidProblemError:
        """The error that says why the scores have no finite sum."""
        return unusable(self.weight, self.score)
