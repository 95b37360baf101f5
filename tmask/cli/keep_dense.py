"""Which weights of a language model stay dense under a budget: the exact knapsack on measured errors."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from tmask.allocation.allocating import allocate
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError

if TYPE_CHECKING:
    from tmask.nn.blockwise.pruning import MatrixPruning

_DENSE = Pattern(1, 1)


def check_share(share: float, pattern: str) -> None:
    """Return if a share of weights can stay dense.

    Raises:
        InvalidProblemError: no share, or masks of several patterns or of none.
    """
    if not 0 < share < 1:
        raise InvalidProblemError(f"--dense-share {share:g} must be above 0 and below 1")
    if not pattern:
        raise InvalidProblemError(
            "--dense-share goes with --pattern: what a weight loses is measured under one pattern"
        )


def choose_dense(rows: Sequence[MatrixPruning], pattern: Pattern, share: float) -> list[str]:
    """Names of the weights to leave dense, so that the errors of the others add up to the least.

    Args:
        rows: of a run that pruned all of them; the matrices of a stack stay dense together.
        share: of the weights in these rows that may stay dense.
    """
    losses: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for row in rows:
        name = row.name.partition("[")[0]
        losses[name] = losses.get(name, 0.0) + row.error
        sizes[name] = sizes.get(name, 0) + row.shape[0] * row.shape[1]
    if pattern == _DENSE:
        raise InvalidProblemError("--dense-share: the pattern keeps every weight already")
    kept = Fraction(pattern.n, pattern.m)
    # As a fraction: in floats the budget of a whole layer may fall just short of it.
    density = kept + (1 - kept) * Fraction(share).limit_denominator(10**6)
    found = allocate({name: {pattern: loss, _DENSE: 0.0} for name, loss in losses.items()}, sizes, density)
    return [name for name, chosen in found.patterns.items() if chosen == _DENSE]
