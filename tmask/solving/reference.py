"""Judge blocks with the fastest prices that can be had here."""

from __future__ import annotations

from tmask.blocks.arrays import Masks, Prices, Scores
from tmask.judging.certificate import Judgement, judge
from tmask.solving.registry import reference_solver


def judge_blocks(scores: Scores, masks: Masks, n: int, prices: Prices | None = None) -> Judgement:
    """See `tmask.judging.certificate.judge`; prices are the solver's own, tried first."""
    # Any reference will do, since its prices are checked: it decides how long this takes, not what is proven.
    reference = reference_solver(scores.shape[1])
    return judge(scores, masks, n, prices=prices, reference=None if reference is None else reference.solve)
