"""The axes of a comparison's figures: gaps on a logarithm with a band for those of 0, and slots of patterns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tmask.comparison.runs import Summary
from tmask.plots.series import SMALLEST_DECADE, Figures
from tmask.showing.styles import GRID, INK, SEPARATOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _decades(data: Figures) -> tuple[int, int]:
    """The powers of ten around the gaps above 0, in percent."""
    gaps = [100 * point.gap_mean for point in data.points() if point.gap_mean > 0] or [0.5]
    low = max(SMALLEST_DECADE, math.floor(math.log10(min(gaps))))
    # The tiny addend makes room above a gap that is a power of ten, whose marker would sit on the frame.
    return low, max(low + 1, math.ceil(math.log10(max(gaps)) + 1e-9))


def _band(data: Figures) -> float:
    """Its height, in decades: a quarter of what the gaps take, and more where many markers share it."""
    low, high = _decades(data)
    crowd = max(sum(proven(s.points[p]) for s in data.series if p in s.points) for p in data.patterns)
    return max(0.25, 0.1 * crowd) * (high - low)


def height(data: Figures, point: Summary, share: float = 0.5) -> float:
    """A gap in percent, no lower than just above the band; for a gap of 0, this share of the way down the band."""
    low, high = _decades(data)
    if not proven(point):
        return float(max(100 * point.gap_mean, 10 ** (low + 0.04 * (high - low))))
    return float(10 ** (low - share * _band(data)))


def proven(point: Summary) -> bool:
    """Whether its masks are the optimum; underfilled ones can have a gap of 0 or less without being that."""
    return point.gap_mean <= 0 and point.optimal_share == 1


def gap_axis(axes: Axes, data: Figures) -> None:
    """Logarithmic, over a band for the gaps of 0, which a logarithm has no place for."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    low, high = _decades(data)
    bottom = low - _band(data)
    axes.set_yscale("log")
    axes.set_ylim(10**bottom, 10**high)
    axes.axhspan(10**bottom, 10**low, facecolor="#e8e8e8", edgecolor="none", zorder=0)
    axes.axhline(10**low, color=INK, linewidth=0.8, zorder=1)
    # Fixed, since matplotlib's own ticks would go on into the band, where heights say nothing.
    axes.yaxis.set_major_locator(FixedLocator([10.0**k for k in range(low, high + 1)]))
    axes.yaxis.set_minor_locator(FixedLocator([d * 10.0**k for k in range(low, high) for d in range(2, 10)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.grid(axis="y", color=GRID)
    axes.text(
        -0.015,
        10 ** (low - 0.5 * _band(data)),
        "proven\noptimal",
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="center",
        fontsize=8.5,
    )


def pattern_axis(axes: Axes, data: Figures) -> None:
    """One slot a pattern, n of every m kept."""
    count = len(data.patterns)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_xticks(range(count), [f"{n}:{m}" for m, n in data.patterns])
    axes.tick_params(axis="x", length=0)
    for k in range(1, count):
        axes.axvline(k - 0.5, color=SEPARATOR, linewidth=0.8)
    axes.set_xlabel("pattern (n kept of every m)")
