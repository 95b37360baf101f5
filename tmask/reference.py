"""Judge blocks with the fastest prices that can be had here."""

from __future__ import annotations

from tmask.arrays import Scores
from tmask.certificate import Judgement, judge
from tmask.registry import reference_solver
from tmask.solver import Masks, Prices


def judge_blocks(scores: Scores, masks: Masks, n: int, prices: Prices | None = None) -> Judgement:
    """See `tmask.certificate.judge`; prices are the solver's own, tried first."""
    reference = reference_solver(scores.shape[1])
    return judge(scores, masks, n, prices=prices, reference=None if reference is None else reference.solve)
