"""The small distinct amounts that part exact ties: a fixed permutation of 0, 1, ..., m^2 - 1, scaled for each block.

Their scale is the larger of two shares, of the block's least positive score and of its largest. So they are small
against all gaps of few-bit scores, and above the rounding of float32, and seldom change which mask is best. That is no
condition of anything: a mask that is found so is only a candidate, to be proven on the true scores.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

OF_LEAST = 2.0**-5
OF_LARGEST = 2.0**-18


@cache
def amounts(n: int, m: int) -> npt.NDArray[np.float64]:
    """(m, m), distinct, in [0, 1): the same in every implementation and process, so that masks are, too."""
    return np.random.default_rng(64 * n + m).permutation(m * m).reshape(m, m) / (m * m)
