"""What a user asked `tmask.solve` for, on its way down to the solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tmask.blocks.arrays import unusable
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.judging.solution import Solution
from tmask.solving.solver import Solver


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of `tmask.solve`, with the pattern and the solver read; solver is None for "auto"."""

    weight: Any
    pattern: Pattern
    solver: Solver | None = None
    score: Any = None
    groups: int = 1
    layout: str | None = None
    certify: bool = True
    progress: Callable[[int], object] | None = None
    warm_start: Solution | bool = False
    keep_zeros: bool = False

    @property
    def at_most(self) -> bool:
        """Whether lines may keep fewer than n; where all is kept, n = m, that changes nothing."""
        return self.keep_zeros and self.pattern.n < self.pattern.m

    def unusable(self) -> InvalidProblemError:
        """The error that says why the scores have no finite sum."""
        return unusable(self.weight, self.score)
