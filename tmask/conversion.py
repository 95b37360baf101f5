"""From unstructured sparsity to N:M: which pattern a layer's own zeros nearly satisfy already.

If a share p of a layer's weights is zero, and the zeros lie anywhere, the number of zeros among m weights is binomial,
and P(k) = P[Binomial(m, p) >= k] is the share of groups that can lose k weights without losing one that was kept. The
pattern is (m - k):m with the largest k for which P(k) exceeds a confidence level.

Under a transposable mask a weight lies in two groups, its row and its column of the tile. More zeros make either
likelier to be sparse enough, so by Harris' inequality both are with probability at least P(k)^2, though they share a
weight, and this is what must exceed the level then.

Source: [Hubara2021], section on AdaPrune, for the binomial tail; [Harris1960].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tmask.blocks.arrays import to_numpy
from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Mask, Tiling
from tmask.errors import InvalidProblemError


@dataclass(frozen=True, slots=True)
class Fit:
    """How nearly a layer's zeros satisfy a pattern.

    Args:
        pattern: the sparsest one within the confidence level; m:m if there is none.
        transposable: along both axes.
        zeros: share of the layer's weights that is zero.
        expected: share of weights whose groups (one, or two under a transposable mask) have zeros enough, if the
            zeros lie anywhere; a lower bound of it under a transposable mask.
        observed: the share itself, in this layer.
    """

    pattern: Pattern
    transposable: bool
    zeros: float
    expected: float
    observed: float

    @property
    def dense(self) -> bool:
        """Whether no pattern that removes weights fits."""
        return self.pattern.n == self.pattern.m


def binomial_tail(m: int, k: int, p: float) -> float:
    """P[Binomial(m, p) >= k]."""
    return min(1.0, math.fsum(math.comb(m, i) * p**i * (1 - p) ** (m - i) for i in range(k, m + 1)))


def fitting_pattern(weight: Any, m: int, *, transposable: bool = True, confidence: float = 0.9, groups: int = 1) -> Fit:
    """The sparsest N:m that a layer's zeros nearly satisfy.

    Args:
        weight: numpy array or torch tensor (outputs, inputs / groups, *kernel), zeros where it is pruned.
        m: side of a tile.
        confidence: from 0 to 1, exclusive: the share of weights whose groups must have zeros enough.
        groups: of a grouped convolution.
    Raises:
        InvalidProblemError: a weight, m or confidence that cannot be used.
    """
    if not isinstance(confidence, int | float) or not 0 < confidence < 1:
        raise InvalidProblemError(f"confidence {confidence!r} must lie between 0 and 1")
    Pattern(1, m)  # refuses an m that cannot be used
    values = to_numpy(weight, "weight")
    if not np.isfinite(values).all():
        raise InvalidProblemError("weight holds NaN or infinite values, of which none counts as zero")
    p = float(np.mean(values == 0))
    power = 2 if transposable else 1
    # A pattern must keep something, even of a layer that is all zeros.
    k = max(k for k in range(m) if k == 0 or binomial_tail(m, k, p) ** power > confidence)
    pattern = Pattern(m - k, m)
    return Fit(
        pattern=pattern,
        transposable=transposable,
        zeros=p,
        expected=binomial_tail(m, k, p) ** power,
        observed=observed_share(values != 0, pattern, transposable=transposable, groups=groups),
    )


def observed_share(nonzero: Mask, pattern: Pattern, *, transposable: bool = True, groups: int = 1) -> float:
    """Share of the weights whose groups hold at most n that are nonzero.

    Args:
        nonzero: bool, (outputs, inputs / groups, *kernel).
        pattern: n of m.
        transposable: a weight's row and column of its tile; else its m consecutive inputs alone.
        groups: of a grouped convolution.
    """
    tiling = Tiling(nonzero.shape, pattern, groups)
    fitting = 0
    for region, blocks in zip(tiling.regions(), tiling.split(nonzero), strict=True):
        tiles = blocks[:, : region.height, : region.width]
        rows = tiles.sum(2, keepdims=True) <= pattern.n
        cols = tiles.sum(1, keepdims=True) <= pattern.n if transposable else True
        fitting += int((np.broadcast_to(rows, tiles.shape) & cols).sum())
    return fitting / nonzero.size
