"""What comes back from each region of a weight, and the Solution that all of them make: the one end of every way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tmask.blocks.layouts import read_layout
from tmask.blocks.parts import RowPrices
from tmask.blocks.pattern import Pattern
from tmask.judging.solution import Solution, status_of
from tmask.judging.worth import Worth


@dataclass(frozen=True, slots=True)
class RegionAnswer:
    """What is known of the mask of a region, which is written already.

    Args:
        worth: with a bound only if one was asked for.
        seconds: as in `Solution`.
        solver: name of the one that was used.
        underfilled: whether lines of full tiles keep fewer than n.
        limit_reached: a limit stopped the search.
        row_prices: for a warm start, if it was asked for.
    """

    worth: Worth
    seconds: float
    solver: str
    underfilled: bool = False
    limit_reached: bool = False
    row_prices: RowPrices | None = None


def make_solution(mask: Any, pattern: Pattern, answers: Sequence[RegionAnswer], layout: str | None = None) -> Solution:
    """The mask of a whole weight, with what is known of all its regions together."""
    # A region without a bound leaves the whole weight without one.
    worth = Worth.sum(answer.worth for answer in answers)
    underfilled = any(answer.underfilled for answer in answers)
    limit_reached = any(answer.limit_reached for answer in answers)
    return Solution(
        objective=worth.objective,
        total=worth.total,
        dual_bound=worth.dual_bound,
        mask=mask,
        status=status_of(worth, underfilled, limit_reached),
        seconds=sum(answer.seconds for answer in answers),
        # Each once, in order: "auto" may take another for tiles cut short, which are larger blocks.
        solver="+".join(dict.fromkeys(answer.solver for answer in answers)),
        pattern=pattern,
        layout=read_layout(mask.shape, layout),
        # Full tiles alone are solved in place, and they are one region.
        row_prices=next((answer.row_prices for answer in answers if answer.row_prices is not None), None),
    )
