"""How the tables say a spread, a difference and what follows from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from bench.training.paired import Difference


def spread(values: Sequence[float], factor: float = 1, digits: int = 4) -> str:
    """Mean and sample deviation."""
    mean = f"{factor * statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {factor * statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def signed(found: Difference, factor: float = 1, digits: int = 4) -> str:
    """A mean difference with the half-width of its interval."""
    mean = f"{factor * found.mean:+.{digits}f}"
    return mean if math.isinf(found.half_width) else f"{mean} (± {factor * found.half_width:.{digits}f})"


def verdict(found: Difference) -> str:
    """Of a difference of losses."""
    if found.seeds < 2:
        return "one seed: cannot say"
    return "yes" if found.within_noise else f"no, {'worse' if found.mean > 0 else 'better'}"


def p_value(found: Difference) -> str:
    """Of a difference, or a dash."""
    return "-" if math.isnan(found.p) else f"{found.p:.2g}"
