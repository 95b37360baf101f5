"""What a mask is worth, and what is proven of the best one: the one place for shares, gaps and sums of these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Worth:
    """The sums of a mask's scores, in float64.

    Args:
        objective: of the kept scores.
        total: of all scores.
        dual_bound: proven to be no less than the optimum; None where no proof was asked for.
    """

    objective: float
    total: float
    dual_bound: float | None

    @property
    def retained(self) -> float:
        """The objective as a share of the total score; 1 where the total is 0."""
        return self.objective / self.total if self.total else 1.0

    @property
    def optimality_gap(self) -> float | None:
        """(dual_bound - objective) / dual_bound, 0 where the bound is 0; None without a bound.

        Never negative for a transposable mask. One whose lines keep fewer than n is not bound by the optimum.
        """
        if self.dual_bound is None:
            return None
        return (self.dual_bound - self.objective) / self.dual_bound if self.dual_bound else 0.0

    @staticmethod
    def sum(parts: Iterable[Worth]) -> Worth:
        """Of all parts together, added in their order; without a bound for each there is none for all."""
        objective, total, bound = 0.0, 0.0, 0.0
        proven = True
        for part in parts:
            objective, total = objective + part.objective, total + part.total
            if part.dual_bound is None:
                proven = False
            else:
                bound += part.dual_bound
        return Worth(objective, total, bound if proven else None)


def optimality_gaps(
    objectives: npt.NDArray[np.float64], dual_bounds: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """`Worth.optimality_gap` of many masks at once, each (B,)."""
    # A bound of 0 leaves no gap, and would make it NaN.
    return np.divide(dual_bounds - objectives, dual_bounds, out=np.zeros(len(dual_bounds)), where=dual_bounds != 0)
