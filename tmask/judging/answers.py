"""What a solver returns for blocks, before and after it was checked."""

from __future__ import annotations

from dataclasses import dataclass

from tmask.blocks.arrays import Masks, Prices


@dataclass(frozen=True, slots=True)
class Answer:
    """What a solver returns for blocks (B, m, m).

    Args:
        masks: (B, m, m) bool, True = kept; never more than n per row or column.
        prices: (B, m) float64 column prices v that a solver claims to prove its masks optimal, or None. Nobody
            trusts them: a certificate checks that each row keeps its n largest of score - v.
        limit_reached: a time or iteration limit stopped the search, so the masks may not be the best.
    """

    masks: Masks
    prices: Prices | None = None
    limit_reached: bool = False


@dataclass(frozen=True, slots=True)
class BlockSolution:
    """An `Answer` that was checked, with the seconds that the backend took for it."""

    masks: Masks
    prices: Prices | None
    limit_reached: bool
    seconds: float
