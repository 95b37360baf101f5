"""Is one setting better than another? Differences are taken seed by seed, since seeds share data and first weights.

The test is Student's paired t: with k seeds, mean difference d and its sample deviation s, the 95 % interval is
d +- t s / sqrt(k), t the 97.5 % quantile at k - 1 degrees of freedom. A difference lies *within noise* where that
interval contains 0. With few seeds it is wide (t = 4.3 with three), so that "within noise" means "too small for these
seeds to tell", not "none".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean of paired differences.

    Args:
        half_width: of its 95 % interval; infinite with fewer than two seeds.
        p: two-sided, of the hypothesis that there is no difference; NaN with fewer than two seeds.
    """

    seeds: int
    mean: float
    half_width: float
    p: float

    @property
    def within_noise(self) -> bool:
        """Whether the interval contains 0."""
        return abs(self.mean) <= self.half_width


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    """Ours minus theirs, by seed; seeds that one side lacks are left out."""
    common = sorted(ours.keys() & theirs.keys())
    return judge([ours[seed] - theirs[seed] for seed in common])


def judge(differences: Sequence[float]) -> Difference:
    """Student's t over paired differences, one a seed, at least one."""
    from scipy import stats

    count, mean = len(differences), statistics.fmean(differences)
    if count < 2:
        return Difference(count, mean, math.inf, math.nan)
    error = statistics.stdev(differences) / math.sqrt(count)
    # Equal differences leave no spread to divide by.
    if error == 0:
        return Difference(count, mean, 0.0, 1.0 if mean == 0 else 0.0)
    half_width = float(stats.t.ppf(0.975, count - 1)) * error
    return Difference(count, mean, half_width, float(2 * stats.t.sf(abs(mean) / error, count - 1)))
