"""Which weights stay dense under a budget: a choice between masks and none for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from tmask.allocation.allocating import allocate
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError

_DENSE = Pattern(1, 1)
# Stands for whatever masks a weight gets: how much they keep does not count, only how large the weight is.
_MASKED = Pattern(1, 2)


def choose_dense(losses: Mapping[str, float], sizes: Mapping[str, int], share: float) -> list[str]:
    """Names of the weights to leave dense, so that the losses of the others add up to the least.

    Args:
        losses: of each weight under its own masks; weights may have different patterns.
        sizes: numbers of weights.
        share: of all the weights, that may stay dense.
    Raises:
        InvalidProblemError: a share that is none; and as `allocate`.
    """
    if not 0 < share < 1:
        raise InvalidProblemError(f"the share that stays dense is {share:g}; it must be above 0 and below 1")
    # As a fraction: in floats the budget of a whole layer may fall just short of it.
    density = Fraction(1, 2) * (1 + Fraction(share).limit_denominator(10**6))
    found = allocate({name: {_MASKED: loss, _DENSE: 0.0} for name, loss in losses.items()}, sizes, density)
    return [name for name, chosen in found.patterns.items() if chosen == _DENSE]
