"""Draw the three figures of a comparison: gap, time, and gap against time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmask.plots.axes import gap_axis, height, pattern_axis, proven
from tmask.plots.series import Figures, Series
from tmask.showing.matplotlib_figures import new_figure
from tmask.showing.styles import GRID, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP_LABEL = "mean proven optimality gap (%)"
_TIME_LABEL = "time a block (µs)"


def draw_gap(data: Figures) -> Figure:
    """Gaps by pattern."""
    figure, (axes,) = _figure(data, "Proven optimality gap", 1, 1)
    for series, pattern, x in _columns(data):
        point = series.points[pattern]
        axes.plot(x, height(data, point), **series.style(point))
    gap_axis(axes, data)
    axes.set_ylabel(_GAP_LABEL)
    pattern_axis(axes, data)
    return figure


def draw_time(data: Figures) -> Figure:
    """Times by pattern."""
    figure, (axes,) = _figure(data, "Time a block: median, fastest and slowest repeat", 1, 1)
    axes.set_yscale("log")
    for series, pattern, x in _columns(data):
        _plot_times(axes, series, pattern, x, None)
    axes.set_ylabel(_TIME_LABEL)
    axes.grid(axis="y", color=GRID)
    pattern_axis(axes, data)
    return figure


def draw_gap_time(data: Figures) -> Figure:
    """Gap against time, a panel for each pattern, all on the same axes so that they can be compared."""
    columns = min(3, len(data.patterns))
    figure, panels = _figure(data, "Proven optimality gap against time", -(-len(data.patterns) // columns), columns)
    low, high = min(p.fastest for p in data.points()), max(p.slowest for p in data.points())
    for k, (axes, pattern) in enumerate(zip(panels, data.patterns, strict=False)):
        axes.set_xscale("log")
        axes.set_xlim(low / 2, high * 2)
        at_zero = [s for s in data.series if pattern in s.points and proven(s.points[pattern])]
        for series in data.series:
            if pattern in series.points:
                # Where they took the same time they would overlap: spread over the band, whose height says nothing.
                share = (at_zero.index(series) + 1) / (len(at_zero) + 1) if series in at_zero else 0.5
                _plot_times(axes, series, pattern, None, height(data, series.points[pattern], share))
        gap_axis(axes, data)
        axes.grid(axis="x", color=GRID)
        axes.set_title(f"{pattern[1]}:{pattern[0]}", fontsize=11)
        axes.set_xlabel(_TIME_LABEL)
        if k % columns == 0:
            axes.set_ylabel(_GAP_LABEL)
    for axes in panels[len(data.patterns) :]:
        axes.remove()
    return figure


def _figure(data: Figures, title: str, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """With title, legend and footer; the axes in reading order."""
    from matplotlib.lines import Line2D

    size = (10.5, 5.6) if rows == columns == 1 else (3.4 * max(columns, 2) + 2.4, 3.7 * rows + 1.3)
    figure = new_figure(size)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    figure.suptitle(f"{title} (case {data.case!r})", fontsize=13, x=0.01, ha="left")  # the legend is on the right
    # Made by hand: those of the axes would be one for each pattern.
    handles = [Line2D([], [], label=series.label, **series.style()) for series in data.series]
    figure.legend(
        handles=handles, loc="outside right upper", frameon=False, title="solver, smallest gap first,\ncolour by kind"
    )
    figure.supxlabel(data.footer, fontsize=7.5, color="#666666", x=0.01, ha="left")
    return figure, axes


def _columns(data: Figures) -> list[tuple[Series, tuple[int, int], float]]:
    """(series, pattern, x) of every point, the series side by side within their pattern."""
    step = 0.84 / len(data.series)
    return [
        (series, pattern, k + (i - (len(data.series) - 1) / 2) * step)
        for k, pattern in enumerate(data.patterns)
        for i, series in enumerate(data.series)
        if pattern in series.points
    ]


def _plot_times(axes: Axes, series: Series, pattern: tuple[int, int], x: float | None, y: float | None) -> None:
    """Median and range along the axis whose coordinate is None."""
    point = series.points[pattern]
    time = point.microseconds
    bars = [[time - point.fastest], [point.slowest - time]]
    xbars, ybars = (bars if x is None else None), (bars if y is None else None)
    x, y = (time if x is None else x), (time if y is None else y)
    axes.errorbar([x], [y], xerr=xbars, yerr=ybars, fmt="none", ecolor=INK, elinewidth=1, capsize=3, zorder=2)
    axes.plot(x, y, **series.style(point))
