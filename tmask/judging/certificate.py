"""Judge masks: objective, proven upper bound and gap, recomputed from the scores alone.

Legend: B blocks of side m; scores (B, m, m), masks (B, m, m), prices (B, m).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import Masks, Prices, Scores
from tmask.judging.answers import BlockSolution
from tmask.judging.duals import (
    Flags,
    check_prices,
    dual_value,
    is_regular,
    midpoint_prices,
    objectives,
    residual_prices,
)
from tmask.judging.worth import Worth

PerBlock = npt.NDArray[np.float64]
Reference = Callable[[Scores, int], BlockSolution]

# Blocks judged at once: bounds the float64 temporaries to a few times this many entries.
_CHUNK_ENTRIES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """Proven upper bounds on the optimum of blocks.

    Args:
        value: (B,) float64, no less than the optimum.
        prices: (B, m) float64, the column prices behind it.
        tight: (B,) bool, whether it *is* the optimum, attained by a mask that was proven optimal.
    """

    value: PerBlock
    prices: Prices
    tight: Flags


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of masks, each (B,).

    Args:
        objective: float64, the sum of kept scores.
        bound: float64, no less than the optimum; the objective itself where it is proven to be that.
        proven: bool, whether no regular mask keeps more.
        regular: bool, exactly n kept in every row and column.
    """

    objective: PerBlock
    bound: PerBlock
    proven: Flags
    regular: Flags

    def worth(self, total: float) -> Worth:
        """Of all blocks together, whose scores add up to the total; without a bound where one has none."""
        objective, bound = float(self.objective.sum()), float(self.bound.sum())
        return Worth(objective, total, bound if bound < np.inf else None)


def tally(scores: Scores, masks: Masks, n: int) -> Judgement:
    """Objective and regularity alone; the bound is infinite."""
    num_blocks = len(scores)
    return Judgement(
        objectives(scores, masks),
        np.full(num_blocks, np.inf),
        np.zeros(num_blocks, np.bool_),
        is_regular(masks, n),
    )


def upper_bounds(scores: Scores, n: int, reference: Reference | None = None) -> Bounds:
    """Proven bounds for blocks (B, m, m), by midpoint prices in numpy or by an exact solver's prices.

    Args:
        reference: a function that gives masks with prices; its answers are checked, not trusted.
    Cost: O(B m^2) a round of midpoints, or the reference's.
    """
    num_blocks, side = scores.shape[:2]
    value = np.empty(num_blocks)
    prices = np.empty((num_blocks, side))
    tight = np.empty(num_blocks, np.bool_)
    for part in _chunks(num_blocks, side):
        found = _upper_bounds(scores[part], n, reference)
        value[part], prices[part], tight[part] = found.value, found.prices, found.tight
    return Bounds(value, prices, tight)


def judge(
    scores: Scores,
    masks: Masks,
    n: int,
    *,
    prices: Prices | None = None,
    bounds: Bounds | None = None,
    reference: Reference | None = None,
) -> Judgement:
    """Objective, bound and proof for masks (B, m, m), each with at most n per row and column.

    Args:
        prices: (B, m) the solver's own proof, tried first.
        bounds: of the same blocks, where they are known already; computed otherwise, where needed.
        reference: see `upper_bounds`.
    """
    num_blocks, side = scores.shape[:2]
    result = Judgement(
        np.empty(num_blocks),
        np.empty(num_blocks),
        np.zeros(num_blocks, np.bool_),
        np.empty(num_blocks, np.bool_),
    )
    for part in _chunks(num_blocks, side):
        known = None if bounds is None else Bounds(bounds.value[part], bounds.prices[part], bounds.tight[part])
        own = None if prices is None else prices[part]
        _judge(scores[part], masks[part], n, own, known, reference, part, result)
    return result


def _judge(
    scores: Scores,
    masks: Masks,
    n: int,
    own: Prices | None,
    bounds: Bounds | None,
    reference: Reference | None,
    part: slice,
    result: Judgement,
) -> None:
    # From cheap to dear: the solver's own prices, or those of the optimum, then a search from these. Each step is for
    # the blocks alone that the ones before have left.
    regular = is_regular(masks, n)
    best = None
    if own is None and bounds is None and reference is not None and n < scores.shape[1]:
        best = _answer(scores, n, reference)
        own = best.prices
    if own is None:
        objective, proven = objectives(scores, masks), np.zeros(len(scores), np.bool_)
    else:
        objective, proven = check_prices(scores, masks, own)
        proven &= regular
    bound = objective.copy()
    rest = np.flatnonzero(~proven)
    if len(rest):
        s, kept = scores[rest], masks[rest]
        if bounds is not None:
            known = Bounds(bounds.value[rest], bounds.prices[rest], bounds.tight[rest])
        elif best is not None:
            known = _attained(s, n, _Best(best.masks[rest], best.prices[rest]))
        else:
            known = _upper_bounds(s, n, reference)
        sure = regular[rest] & check_prices(s, kept, known.prices)[1]
        # No mask beats a bound; one whose sum was rounded up past it attains it.
        sure |= regular[rest] & (objective[rest] >= known.value)
        # Where the bound is tight and not attained, another mask keeps more, and a search would find nothing.
        unsure = np.flatnonzero(regular[rest] & ~sure & ~known.tight)
        if len(unsure):
            v = residual_prices(s[unsure], kept[unsure], known.prices[unsure])
            sure[unsure] = check_prices(s[unsure], kept[unsure], v)[1]
        bound[rest] = np.where(sure, objective[rest], known.value)
        proven[rest] = sure
    result.objective[part], result.bound[part] = objective, bound
    result.proven[part], result.regular[part] = proven, regular


@dataclass(frozen=True, slots=True)
class _Best:
    """What an exact solver finds: masks and column prices, not checked yet."""

    masks: Masks
    prices: Prices


def _answer(scores: Scores, n: int, reference: Reference) -> _Best:
    answer = reference(scores, n)
    if answer.prices is None:
        raise TypeError("the reference solver must give prices")
    return _Best(answer.masks, answer.prices)


def _upper_bounds(scores: Scores, n: int, reference: Reference | None) -> Bounds:
    num_blocks, side = scores.shape[:2]
    if n == side:  # everything is kept
        whole = scores.sum((1, 2), dtype=np.float64)
        return Bounds(whole, np.zeros((num_blocks, side)), np.ones(num_blocks, np.bool_))
    if reference is not None:
        return _attained(scores, n, _answer(scores, n, reference))
    u, v, masks, tight = midpoint_prices(scores, n)
    # The sum of an optimal mask is the bound. The dual value would be, too, were it not raised by its rounding.
    return Bounds(np.where(tight, objectives(scores, masks), dual_value(scores, n, u, v)), v, tight)


def _attained(scores: Scores, n: int, best: _Best) -> Bounds:
    """As above, from what an exact solver found; the dual value where that is not proven after all."""
    value, tight = check_prices(scores, best.masks, best.prices)
    tight &= is_regular(best.masks, n)
    loose = np.flatnonzero(~tight)
    if len(loose):
        s, v = scores[loose], best.prices[loose]
        # The best row prices for given column prices: each row's n-th largest.
        u = np.where(best.masks[loose], s - v[:, None, :], np.inf).min(2)
        value[loose] = dual_value(s, n, u, v)
    return Bounds(value, best.prices, tight)


def _chunks(num_blocks: int, side: int) -> list[slice]:
    size = max(1, _CHUNK_ENTRIES // (side * side))
    return [slice(start, start + size) for start in range(0, num_blocks, size)]
