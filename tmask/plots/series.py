"""Arrange the runs of a case as series and patterns, in the order in which they are drawn."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from tmask.comparison.runs import Summary, summarise
from tmask.plots.reading import CaseRuns
from tmask.showing.styles import COLOURS, MARKERS, SOLVERS, marker_size, point_style

_UNDERFILLED = "hollow: some blocks are underfilled (fewer than n in a line)"
# Smaller gaps, which rounding leaves behind, would stretch the axis until the others cannot be told apart.
SMALLEST_DECADE = -4  # of percent


@dataclass(frozen=True, slots=True)
class Series:
    """One solver with its settings: the same name, colour and marker in every figure."""

    label: str
    colour: str
    marker: Any
    points: dict[tuple[int, int], Summary]  # by (m, n); patterns on which every repeat failed are not in it

    def style(self, point: Summary | None = None) -> dict[str, Any]:
        """Of a marker; hollow where some blocks were not filled."""
        hollow = point is not None and point.feasible_share < 1
        return point_style(self.colour, self.marker, hollow, marker_size(self.marker))


@dataclass(frozen=True, slots=True)
class Figures:
    """What the figures show: one case, its series from the smallest gap to the largest, its patterns by size."""

    case: str
    series: list[Series]
    patterns: list[tuple[int, int]]
    footer: str

    def points(self) -> list[Summary]:
        """Of all series."""
        return [point for series in self.series for point in series.points.values()]


def arrange(read: CaseRuns) -> Figures:
    """Series with their looks, patterns in order, and the footer's text."""
    points = summarise([run for run in read.runs if not run.failure])
    keys = list(dict.fromkeys((run.solver, run.settings) for run in read.runs))
    labels = _labels(keys)
    looks = _looks(keys)
    series = [
        Series(labels[key], *looks[key], {
            (point.m, point.n): point for point in points if (point.solver, point.settings) == key
        })
        for key in keys
    ]  # fmt: skip
    return Figures(
        read.case,
        sorted((one for one in series if one.points), key=_rank),
        sorted({(point.m, point.n) for point in points}),
        "\n".join(textwrap.fill(note, 130) for note in _notes(read, points, labels)),
    )


def _looks(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, Any]]:
    """A colour and a marker for each: a solver's own; for solvers of others, or a second setting, those left over."""
    looks: dict[tuple[str, str], tuple[str, Any]] = {}
    for key in keys:
        if key[0] in SOLVERS and SOLVERS[key[0]] not in looks.values():
            looks[key] = SOLVERS[key[0]]
    taken = {marker for _, marker in looks.values()}
    # Both change from one to the next, so that neighbours differ in both; markers that nobody has come first.
    pairs = [(COLOURS[(k + k // len(MARKERS)) % len(COLOURS)], m) for k, m in enumerate(MARKERS * len(COLOURS))]
    free = sorted((pair for pair in pairs if pair not in looks.values()), key=lambda pair: pair[1] in taken)
    return looks | dict(zip((key for key in keys if key not in looks), cycle(free), strict=False))


def _notes(read: CaseRuns, points: list[Summary], labels: dict[tuple[str, str], str]) -> list[str]:
    """What the footer says, a paragraph each: what the axes cannot show is told in words."""
    drawn = {(point.solver, point.settings, point.m, point.n) for point in points}
    failed = [
        f"{label} on {n}:{m}"
        for key, label in labels.items()
        for m, n in sorted({(run.m, run.n) for run in read.runs if (run.solver, run.settings) == key})
        if (*key, m, n) not in drawn
    ]
    seen = sorted({point.blocks for point in points})
    tiny = [
        f"{labels[point.solver, point.settings]} on {point.n}:{point.m} ({100 * point.gap_mean:.0e} %)"
        for point in points
        if 0 < 100 * point.gap_mean < 10**SMALLEST_DECADE
    ]
    made = read.made
    notes = [f"{made['date']}, {made['cpu']}, tmask {made['tmask']}"]
    notes += [f"blocks seen: {seen[0]} to {seen[-1]}, slow solvers see fewer"] if len(seen) > 1 else []
    notes += [f"gap above 0 but below the axis, drawn at its lower end: {'; '.join(tiny)}"] if tiny else []
    notes += [f"failed: {'; '.join(failed)}"] if failed else []
    notes += [_UNDERFILLED] if any(point.feasible_share < 1 for point in points) else []
    return notes


def _rank(series: Series) -> tuple[float, float]:
    """Smallest gap first, then fastest: means over the series' patterns, of logarithms for times."""
    points = series.points.values()
    gap = sum(max(point.gap_mean, 0.0) for point in points) / len(points)
    return gap, sum(math.log(point.microseconds) for point in points) / len(points)


def _labels(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Names of solvers, with those settings that tell several of one name apart."""
    labels = {}
    for solver, settings in keys:
        others = [set(other.split(" ")) for name, other in keys if name == solver]
        own = [pair for pair in settings.split(" ") if not all(pair in other for other in others)]
        labels[solver, settings] = f"{solver} ({', '.join(own)})" if any(own) else solver
    return labels
