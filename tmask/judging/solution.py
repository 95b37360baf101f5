"""What a user gets back: a solution, or a certificate for a mask from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tmask.blocks.pattern import Pattern
from tmask.judging.worth import Worth
from tmask.showing.cards import Card, Shown
from tmask.showing.mask_pictures import draw_mask, mask_svg
from tmask.showing.numbers import number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def status_of(worth: Worth, underfilled: bool, limit_reached: bool) -> Status:
    """What is known of a mask of this worth."""
    # First: the optimum bounds masks of full lines, so a gap would say nothing of others.
    if underfilled:
        return Status.UNDERFILLED
    bound = worth.dual_bound
    if bound is not None and bound - worth.objective <= ROUNDING * bound:
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
class Solution(Worth, Shown):
    """A mask with its worth.

    Args:
        objective, total, dual_bound: see `Worth`; no dual_bound with certify=False.
        mask: bool, True = kept; the kind (numpy or torch), shape and device of the weight.
        status: see `Status`.
        seconds: wall-clock time that the solver took, without checks and certificate; on a device, with the checks.
        solver: name of the solver that was used.
        pattern: n kept of every m.
        layout: how the weight was read: as a "matrix", "stack" or "convolution".
        row_prices: kept for the next solve with `warm_start`; None without it.
    """

    mask: Any = field(repr=False)
    status: Status
    seconds: float
    solver: str
    pattern: Pattern
    layout: str = "matrix"
    row_prices: Any = field(default=None, repr=False)

    def __repr__(self) -> str:
        gap = self.optimality_gap
        proof = "not certified" if gap is None else f"gap {gap:.3g}"
        return (
            f"<Solution {self.pattern} {self.layout} {tuple(self.mask.shape)} by {self.solver}: {self.status}, "
            f"{proof}, objective {self.objective:.6g}, retained {self.retained:.2%}, {self.seconds:.3g} s>"
        )

    def card(self) -> Card:
        """What a notebook shows: the numbers, and a corner of the mask."""
        facts = {
            "status": str(self.status),
            "proven gap": percent(self.optimality_gap, 4),
            "retained": percent(self.retained),
            "objective": f"{self.objective:.6g}",
            "bound": "-" if self.dual_bound is None else f"{self.dual_bound:.6g}",
            "seconds": number(self.seconds),
        }
        shape = "x".join(map(str, self.mask.shape))
        picture = mask_svg(self.mask, self.pattern.m)
        return Card(f"{self.pattern} of {shape} by {self.solver}", facts, (), [picture], [self.status.advice])

    def plot(self) -> Figure:
        """The upper left corner of the mask, as a figure of matplotlib.

        Raises:
            SolverUnavailableError: matplotlib is not installed.
        """
        gap = percent(self.optimality_gap, 4)
        title = f"{self.pattern} by {self.solver}: {percent(self.retained)} retained, proven gap {gap}"
        return draw_mask(self.mask, self.pattern.m, title)


@dataclass(frozen=True, slots=True)
class Certificate(Worth, Shown):
    """What linear-programming duality says of a mask.

    Args:
        objective, total, dual_bound: see `Worth`; there always is a dual_bound.
        feasible: at most n per row and column of every block, exactly n in full ones.
        violation: where it is not feasible, naming the first offending block and line; "" if it is.
        proven_blocks: blocks whose part of the mask is proven optimal, out of num_blocks.
        pattern: n kept of every m.
        layout: how the weight was read, as in `Solution`.
    """

    dual_bound: float
    feasible: bool
    violation: str
    proven_blocks: int
    num_blocks: int
    pattern: Pattern
    layout: str = "matrix"

    @property
    def optimality_gap(self) -> float:
        """As of a `Worth`; never None, and below 0 where a mask that is not feasible keeps more than any that is."""
        # A dataclass with slots is built twice, and `super()` without arguments means the class that was dropped.
        gap = super(Certificate, self).optimality_gap
        assert gap is not None
        return gap

    @property
    def optimal(self) -> bool:
        """Feasible, and every block proven optimal."""
        return self.feasible and self.proven_blocks == self.num_blocks

    @property
    def verdict(self) -> str:
        """What it comes to, in a word; where a mask is not feasible, the place too."""
        return "optimal" if self.optimal else "feasible" if self.feasible else f"infeasible ({self.violation})"

    def card(self) -> Card:
        """What a notebook shows."""
        facts = {
            "verdict": self.verdict,
            "proven gap": percent(self.optimality_gap, 4),
            "objective": f"{self.objective:.6g}",
            "bound": f"{self.dual_bound:.6g}",
            "blocks proven optimal": f"{self.proven_blocks:,} of {self.num_blocks:,}",
        }
        return Card(f"{self.pattern}, certified", facts)

    def __repr__(self) -> str:
        return (
            f"<Certificate {self.pattern} {self.layout}: {self.verdict}, gap {self.optimality_gap:.3g}, "
            f"objective {self.objective:.6g} <= {self.dual_bound:.6g}, "
            f"{self.proven_blocks} of {self.num_blocks} blocks proven optimal>"
        )
