"""The masks that are allowed, and how the best of them for given scores is found.

Three kinds: transposable N:M, plain N:M along the inputs, and unstructured. The last two are the best by sorting.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.judging.solution import Solution
from tmask.judging.worth import Worth
from tmask.solving.api import solve
from tmask.solving.solver import Solver


@dataclass(frozen=True, slots=True)
class Projection:
    """The allowed mask that keeps the most of some scores.

    Args:
        mask: (R, C) bool, True = kept.
        worth: what it keeps of the scores, and what is proven of the best mask.
        solver: that found it.
        solution: to start the next one from; None where that does not help.
    """

    mask: Tensor
    worth: Worth
    solver: str
    solution: Solution | None = field(default=None, repr=False)


class Support(ABC):
    """A kind of masks."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Consecutive inputs whose masks can be found without the others', at an even share of what is kept."""

    @abstractmethod
    def project(
        self,
        score: Tensor,
        after: Projection | None = None,
        certify: bool = True,
        allowed: Tensor | None = None,
    ) -> Projection:
        """The mask that keeps the most of scores (R, C), >= 0 and finite.

        Args:
            after: the projection of nearly the same scores, to start from.
            certify: False where the bound is not needed this time.
            allowed: (R, C) bool: no other entry is kept, so that lines may keep fewer.
        """

    def part(self, columns: slice) -> Support:
        """The masks of some consecutive groups of inputs."""
        return self


@dataclass(frozen=True, slots=True)
class Within(Support):
    """Masks of another kind that keep none but certain entries.

    Args:
        kind: of masks.
        allowed: (R, C) bool.
    """

    kind: Support
    allowed: Tensor

    @property
    def width(self) -> int:
        """Of the kind."""
        return self.kind.width

    def part(self, columns: slice) -> Within:
        return Within(self.kind, self.allowed[:, columns])

    def project(
        self,
        score: Tensor,
        after: Projection | None = None,
        certify: bool = True,
        allowed: Tensor | None = None,
    ) -> Projection:
        """As the kind does."""
        return self.kind.project(score, after, certify, self.allowed if allowed is None else self.allowed & allowed)


@dataclass(frozen=True, slots=True)
class _Patterned(Support):
    """Masks that keep n of every m."""

    pattern: Pattern

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", Pattern.parse(self.pattern))

    @property
    def width(self) -> int:
        """m"""
        return self.pattern.m


@dataclass(frozen=True, slots=True)
class Transposable(_Patterned):
    """n of every m in each row and column of a block, found by a solver of `tmask.solve`.

    Args:
        pattern: n kept of every m, as `Pattern` or "2:4".
        solver: a name, or a Solver.
        certify: prove how far the mask can be from the best; False saves that, for solvers that bring no proof.
    """

    solver: Solver | str = "auto"
    certify: bool = True

    def project(
        self,
        score: Tensor,
        after: Projection | None = None,
        certify: bool = True,
        allowed: Tensor | None = None,
    ) -> Projection:
        """By the solver; the time of an exact one falls the less the scores have changed."""
        earlier = None if after is None else after.solution
        start: Any = earlier if earlier is not None and earlier.row_prices is not None else True
        proof = self.certify and certify
        if allowed is None:
            found = solve(score, self.pattern, self.solver, certify=proof, warm_start=start)
        else:
            weight = allowed.to(score.dtype)
            found = solve(weight, self.pattern, self.solver, score=score, certify=proof, keep_zeros=True)
        worth = Worth(found.objective, found.total, found.dual_bound)
        return Projection(found.mask, worth, found.solver, found)


@dataclass(frozen=True, slots=True)
class Plain(_Patterned):
    """n of every m consecutive inputs of an output; a group cut short at the end keeps at most n.

    Args:
        pattern: n kept of every m, as `Pattern` or "2:4".
    """

    def project(
        self,
        score: Tensor,
        after: Projection | None = None,
        certify: bool = True,
        allowed: Tensor | None = None,
    ) -> Projection:
        """The n largest of each group; ties to the first."""
        score = within(score, allowed)
        rows, columns = score.shape
        padding = -columns % self.pattern.m
        padded = torch.nn.functional.pad(score, (0, padding), value=-1.0)
        kept = largest(padded.reshape(-1, self.pattern.m), self.pattern.n)
        return _sorted(score, kept.reshape(rows, -1)[:, :columns].contiguous(), allowed)


@dataclass(frozen=True, slots=True)
class Unstructured(Support):
    """A share of all weights, wherever they stand.

    Args:
        density: the share that is kept, above 0 and at most 1.
        across: the weights that compete: those of the whole "layer", or of each "row" (output) for itself. The layer's
            error is a sum over rows, and rows that lose little should be the ones to give: so "layer", as ALPS and
            SparseGPT have it. Wanda compares by row, and should be judged with "row".
    """

    density: float
    across: Literal["layer", "row"] = "layer"

    def __post_init__(self) -> None:
        if isinstance(self.density, bool) or not isinstance(self.density, float | int) or not 0 < self.density <= 1:
            raise InvalidProblemError(f"density {self.density!r} must be a number above 0 and at most 1")
        if self.across not in ("layer", "row"):
            raise InvalidProblemError(f"across {self.across!r}: choose 'layer' or 'row'")

    @property
    def width(self) -> int:
        """128, as SparseGPT takes them."""
        return 128

    def project(
        self,
        score: Tensor,
        after: Projection | None = None,
        certify: bool = True,
        allowed: Tensor | None = None,
    ) -> Projection:
        """The largest; ties to the first."""
        score = within(score, allowed)
        lines = score if self.across == "row" else score.reshape(1, -1)
        return _sorted(score, largest(lines, round(self.density * lines.shape[1])).reshape(score.shape), allowed)


def largest(scores: Tensor, count: int) -> Tensor:
    """The `count` largest of each line (L, K), as bool; ties to the first."""
    size = scores.shape[1]
    if count >= size:
        return torch.ones_like(scores, dtype=torch.bool)
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = scores.kthvalue(size - count + 1, dim=1, keepdim=True).values
    above, ties = scores > least, scores == least
    room = count - above.sum(1, keepdim=True)
    if bool((ties.sum(1, keepdim=True) > room).any()):
        ties &= ties.cumsum(1) <= room
    return above | ties


def within(score: Tensor, allowed: Tensor | None) -> Tensor:
    """Scores that are 0 where nothing may be kept."""
    return score if allowed is None else torch.where(allowed, score, 0)


def _sorted(score: Tensor, mask: Tensor, allowed: Tensor | None) -> Projection:
    """A mask that is the best there is by construction, less what may not be kept and counts nothing."""
    if allowed is not None:
        mask = mask & allowed
    objective = float(torch.where(mask, score, 0).sum(dtype=torch.float64))
    total = float(score.sum(dtype=torch.float64))
    if not math.isfinite(total):
        raise InvalidProblemError(f"scores are NaN or too large for {score.dtype}: weights or moments are out of range")
    return Projection(mask, Worth(objective, total, objective), "largest")
