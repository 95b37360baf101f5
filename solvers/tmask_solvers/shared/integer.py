"""Scores as integer costs, for the solvers that need them.

Each block is scaled by a power of two so that its largest score lies in [2^(bits-1), 2^bits), then rounded. Scaling by
a power of two is exact, so a score is represented exactly unless it has bits below 2^-bits of the block's largest
(rounded up to a power of two). With 46 bits, a float32 score (24 significant bits) is exact if it is at least 2^-22 of
the largest. A rounded score is off by at most half a unit, so the mask that is optimal for the integers falls short of
the optimum by at most n * m units: n * m * 2^(1-bits) of the block's largest score, and nothing where no score was
rounded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tmask.blocks.arrays import Scores
from tmask_solvers.shared.constants import GRID_BITS


def integer_scores(scores: Scores, bits: int = GRID_BITS) -> npt.NDArray[np.int64]:
    """(B, m, m) scores as int64 of at most `bits` bits, each block with its own power of two; zeros stay zero."""
    wide = scores.astype(np.float64, copy=False)
    largest = wide.max((1, 2), keepdims=True)
    exponent = np.frexp(largest)[1]  # largest < 2^exponent
    return np.asarray(np.rint(np.ldexp(wide, bits - exponent)), np.int64)
