"""From unstructured sparsity to N:M: which pattern a layer's own zeros nearly satisfy already.

The zeros among m weights are taken to be binomial; docs: pruning says why, and what changes under a transposable
mask, where a weight lies in two groups of m, its row and its column of the tile.

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
    # Rounding can push the sum past 1.
    return min(1.0, math.fsum(math.comb(m, i) * p**i * (1 - p) ** (m - i) for i in range(k, m + 1)))


def fitting_pattern(
    weight: Any,
    m: int,
    *,
    transposable: bool = True,
    confidence: float = 0.9,
    groups: int = 1,
    layout: str | None = None,
) -> Fit:
    """The sparsest N:m that a layer's zeros nearly satisfy.

    Args:
        weight: numpy array or torch tensor, zeros where it is pruned.
        m: side of a tile.
        confidence: from 0 to 1, exclusive: the share of weights whose groups must have zeros enough.
        groups: of a grouped convolution.
        layout: as in `tmask.solve`.
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
    # Both groups have zeros enough with probability P(k)^2 at least [Harris1960].
    power = 2 if transposable else 1
    # A pattern must keep something, even of a layer that is all zeros.
    k = max(k for k in range(m) if k == 0 or binomial_tail(m, k, p) ** power > confidence)
    pattern = Pattern(m - k, m)
    return Fit(
        pattern=pattern,
        transposable=transposable,
        zeros=p,
        expected=binomial_tail(m, k, p) ** power,
        observed=observed_share(values != 0, pattern, transposable=transposable, groups=groups, layout=layout),
    )


def observed_share(
    nonzero: Mask, pattern: Pattern, *, transposable: bool = True, groups: int = 1, layout: str | None = None
) -> float:
    """Share of the weights whose groups hold at most n that are nonzero.

    Args:
        nonzero: bool, (outputs, inputs / groups, *kernel).
        pattern: n of m.
        transposable: a weight's row and column of its tile; else its m consecutive inputs alone.
        groups: of a grouped convolution.
        layout: as in `tmask.solve`.
    """
    tiling = Tiling(nonzero.shape, pattern, groups, layout)
    fitting = 0
    for region, blocks in zip(tiling.regions(), tiling.split(nonzero), strict=True):
        # Without the padding, which would count as zeros that the layer does not have.
        tiles = blocks[:, : region.height, : region.width]
        rows = tiles.sum(2, keepdims=True) <= pattern.n
        cols = tiles.sum(1, keepdims=True) <= pattern.n if transposable else True
        fitting += int((np.broadcast_to(rows, tiles.shape) & cols).sum())
    return fitting / nonzero.size
