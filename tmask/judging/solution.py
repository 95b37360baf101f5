"""What a user gets back: a solution, or a certificate for a mask from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tmask.blocks.pattern import Pattern

# A gap no larger than this counts as none: what float64 sums, and the grid of exact solvers, can lose.
ROUNDING = 2.0**-35


class Status(StrEnum):
    """How far a mask can be trusted. The value is the short name, `advice` the sentence."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    UNDERFILLED = "underfilled"
    LIMIT = "limit"

    @property
    def advice(self) -> str:
        """What it means and what to do."""
        return _ADVICE[self]


def status_of(objective: float, dual_bound: float | None, underfilled: bool, limit_reached: bool) -> Status:
    """What is known of a mask: objective and bound are those of `Solution`."""
    if underfilled:
        return Status.UNDERFILLED
    if dual_bound is not None and dual_bound - objective <= ROUNDING * dual_bound:
        return Status.OPTIMAL
    return Status.LIMIT if limit_reached else Status.FEASIBLE


_ADVICE = {
    Status.OPTIMAL: "proven optimal: no transposable mask of this pattern keeps more (beyond rounding, 3e-11 of it)",
    Status.FEASIBLE: "a transposable mask; optimality_gap says how much the best one could keep beyond it "
    "(unknown with certify=False); for the optimum use an exact solver",
    Status.UNDERFILLED: "some rows or columns keep fewer than n: not exactly N:M along both axes; "
    "use a solver or a setting that repairs (for example repair=True) where every line must be full",
    Status.LIMIT: "a time or iteration limit stopped the search; optimality_gap bounds what it missed; "
    "raise the limit or choose another solver",
}


@dataclass(frozen=True, slots=True)
class Solution:
    """A mask with its worth.

    Args:
        mask: bool, True = kept; the kind (numpy or torch), shape and device of the weight.
        objective: sum of kept scores, accumulated in float64.
        dual_bound: proven to be no less than the optimum; None with certify=False.
        total: sum of all scores.
        status: see `Status`.
        seconds: wall-clock time that the solver took, without checks and certificate; on a device, with the checks.
        solver: name of the solver that was used.
        pattern: n kept of every m.
        row_prices: kept for the next solve with `warm_start`; None without it.
    """

    mask: Any = field(repr=False)
    objective: float
    dual_bound: float | None
    total: float
    status: Status
    seconds: float
    solver: str
    pattern: Pattern
    row_prices: Any = field(default=None, repr=False)

    @property
    def optimality_gap(self) -> float | None:
        """(dual_bound - objective) / dual_bound, and 0 where the bound is 0; None with certify=False.

        Never negative for a transposable mask. An underfilled one is not bound by the optimum, see `Status`.
        """
        return optimality_gap(self.objective, self.dual_bound)

    @property
    def retained(self) -> float:
        """The objective as a share of the total score; 1 where the total is 0."""
        return self.objective / self.total if self.total else 1.0

    def __repr__(self) -> str:
        gap = self.optimality_gap
        proof = "not certified" if gap is None else f"gap {gap:.3g}"
        return (
            f"<Solution {self.pattern} {tuple(self.mask.shape)} by {self.solver}: {self.status}, {proof}, "
            f"objective {self.objective:.6g}, retained {self.retained:.2%}, {self.seconds:.3g} s>"
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """What linear-programming duality says of a mask.

    Args:
        feasible: at most n per row and column of every block, exactly n in full ones.
        violation: where it is not feasible, naming the first offending block and line; "" if it is.
        proven_blocks: blocks whose part of the mask is proven optimal, out of num_blocks.
    The other fields are those of `Solution`.
    """

    feasible: bool
    violation: str
    objective: float
    dual_bound: float
    total: float
    proven_blocks: int
    num_blocks: int
    pattern: Pattern

    @property
    def optimality_gap(self) -> float:
        """(dual_bound - objective) / dual_bound, and 0 where the bound is 0."""
        gap = optimality_gap(self.objective, self.dual_bound)
        return 0.0 if gap is None else gap

    @property
    def optimal(self) -> bool:
        """Feasible, and every block proven optimal."""
        return self.feasible and self.proven_blocks == self.num_blocks

    @property
    def retained(self) -> float:
        """The objective as a share of the total score; 1 where the total is 0."""
        return self.objective / self.total if self.total else 1.0

    def __repr__(self) -> str:
        verdict = "optimal" if self.optimal else "feasible" if self.feasible else f"infeasible ({self.violation})"
        return (
            f"<Certificate {self.pattern}: {verdict}, gap {self.optimality_gap:.3g}, objective {self.objective:.6g} "
            f"<= {self.dual_bound:.6g}, {self.proven_blocks} of {self.num_blocks} blocks proven optimal>"
        )


def optimality_gap(objective: float, dual_bound: float | None) -> float | None:
    """(dual_bound - objective) / dual_bound, 0 where the bound is 0, None where there is none."""
    if dual_bound is None:
        return None
    return (dual_bound - objective) / dual_bound if dual_bound else 0.0
