"""Draw gap and time from a comparison's CSV alone: the columns of `comparison.COLUMNS`, and of `environment`.

Colours are Okabe and Ito's, which the colour-blind can tell apart; markers differ as well.
"""

from __future__ import annotations

import math
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmask.comparison.runs import COLUMNS, Run, Summary, summarise
from tmask.errors import FileFormatError, OutputError, SolverUnavailableError
from tmask.files.atomic import check_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PREFERRED_CASE = "normal"
_FORMATS = ("png", "svg")
# Okabe and Ito's eight, yellow last since it is the weakest on white.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
_MARKERS = ("o", "s", "^", "D", "P", "v", "X", "*", "<", "p", ">", "d", (4, 1, 0), "h", (3, 1, 0), (8, 1, 0))
_SIZES: dict[object, float] = {"D": 6.5, "*": 11, "d": 9, (4, 1, 0): 10, (3, 1, 0): 10, (8, 1, 0): 9}  # that look alike
_INK = "#333333"
_FOOTER = ("date", "cpu", "tmask")  # drawn, so asked for; other columns of the environment may be absent
_UNDERFILLED = "hollow: some blocks keep fewer than n in a line"
# Smaller gaps, which rounding leaves behind, would stretch the axis until the others cannot be told apart.
_SMALLEST_DECADE = -4  # of percent
_GAP_LABEL = "mean proven optimality gap (%)"
_TIME_LABEL = "time a block (µs)"


@dataclass(frozen=True, slots=True)
class _Series:
    """One solver with its settings: the same name, colour and marker in every figure."""

    label: str
    colour: str
    marker: Any
    points: dict[tuple[int, int], Summary]  # by (m, n); patterns on which every repeat failed are not in it

    def style(self, point: Summary | None = None) -> dict[str, Any]:
        """Of a marker; hollow where some blocks were not filled."""
        hollow = point is not None and point.feasible_share < 1
        return {
            "linestyle": "none",
            "marker": self.marker,
            "markersize": _SIZES.get(self.marker, 8),
            "markerfacecolor": "white" if hollow else self.colour,
            "markeredgecolor": self.colour if hollow else _INK,
            "markeredgewidth": 1.8 if hollow else 0.6,
            "zorder": 3,
        }


@dataclass(frozen=True, slots=True)
class _Data:
    """What the figures show: one case, its series from the smallest gap to the largest, its patterns by size."""

    case: str
    series: list[_Series]
    patterns: list[tuple[int, int]]
    footer: str

    def points(self) -> list[Summary]:
        """Of all series."""
        return [point for series in self.series for point in series.points.values()]


def draw_plots(csv_path: str | Path, out_dir: str | Path) -> list[Path]:
    """Three figures, each as PNG and SVG: gap, time, and gap against time. Older ones are replaced.

    Where the file holds several cases, "normal" is drawn, or else the first.

    Args:
        out_dir: made where it is missing.
    Returns:
        The six files.
    Raises:
        SolverUnavailableError: matplotlib or pandas is not installed.
        FileFormatError: the file is missing, is no CSV, lacks columns, or has no usable rows.
        OutputError: the folder cannot be written; none of the files is then there, or all are the old ones.
    """
    try:
        import matplotlib
        import pandas as pd  # noqa: F401
    except ImportError as error:
        raise SolverUnavailableError(
            'plots need matplotlib and pandas, not installed here; run: pip install "tmask[plot]"'
        ) from error
    data = _read(Path(csv_path))
    out_dir = Path(out_dir)
    with matplotlib.rc_context({"svg.hashsalt": "tmask", "axes.axisbelow": True, "font.size": 10}):
        figures = {"gap": _gap(data), "time": _time(data), "gap_time": _gap_time(data)}
        try:
            return _save(figures, out_dir)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write plots into {out_dir}: {error.strerror or error}") from error


def _save(figures: dict[str, Figure], out_dir: Path) -> list[Path]:
    """All files or none: written into a temporary folder beside them, then renamed."""
    out_dir.mkdir(parents=True, exist_ok=True)
    names = [f"{stem}.{suffix}" for stem in figures for suffix in _FORMATS]
    paths = [check_output(out_dir / name, overwrite=True) for name in names]
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".plots.") as folder:
        for path in paths:
            # Without the date the same CSV gives the same SVG.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figures[path.stem].savefig(Path(folder) / path.name, dpi=150, metadata=metadata)
        for path in paths:
            (Path(folder) / path.name).replace(path)
    return paths


def _read(path: Path) -> _Data:
    """The case to draw."""
    import pandas as pd

    floats = [field.name for field in fields(Run) if field.type == "float"]
    types = {field.name: str(field.type) for field in fields(Run)} | dict.fromkeys(_FOOTER, "str")
    try:
        # Only numbers may be absent: a solver or case named "NA" is a name.
        missing = {name: ["", "nan", "NaN"] for name in floats}
        frame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=missing)
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # pandas's own errors and UnicodeDecodeError are ValueErrors
        raise FileFormatError(f"{path} is not a CSV of results: {error}") from error
    if absent := [column for column in (*COLUMNS, *_FOOTER) if column not in frame.columns]:
        raise FileFormatError(f"{path} lacks the columns {', '.join(absent)}")
    if frame.empty:
        raise FileFormatError(f"{path} has no rows")
    cases = list(frame["case"].unique())
    case = _PREFERRED_CASE if _PREFERRED_CASE in cases else cases[0]
    frame = frame[frame["case"] == case]
    runs = [Run(**row) for row in frame[list(COLUMNS)].to_dict("records")]
    for run in runs:
        if not run.failure and not (run.blocks > 0 and 0 < run.seconds < math.inf and math.isfinite(run.gap_mean)):
            raise FileFormatError(
                f"{path}: {run.solver} on {run.n}:{run.m}, repeat {run.repeat}: blocks {run.blocks}, seconds "
                f"{run.seconds}, gap_mean {run.gap_mean}, without a failure"
            )
    if all(run.failure for run in runs):
        raise FileFormatError(f"{path}: every run of case {case!r} failed; the first: {runs[0].failure}")
    made = {column: ", ".join(filter(None, frame[column].unique())) or "unknown" for column in _FOOTER}
    days = sorted({date[:10] for date in frame["date"]} - {""})
    if days:
        made["date"] = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return _arrange(case, summarise([run for run in runs if not run.failure]), runs, made)


def _arrange(case: str, points: list[Summary], runs: list[Run], made: dict[str, str]) -> _Data:
    by_label: dict[tuple[str, str], dict[tuple[int, int], Summary]] = {(run.solver, run.settings): {} for run in runs}
    for point in points:
        by_label[point.solver, point.settings][point.m, point.n] = point
    labels = _labels(list(by_label))
    # Styles go by the order in the file, which is stabler than the ranks: a solver keeps its colour as gaps change.
    series = [
        _Series(labels[key], _COLOURS[(i + i // len(_MARKERS)) % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], found)
        for i, (key, found) in enumerate(by_label.items())
    ]
    failed = [
        f"{labels[key]} on {n}:{m}"
        for key, found in by_label.items()
        for m, n in sorted({(run.m, run.n) for run in runs if (run.solver, run.settings) == key} - set(found))
    ]
    seen = sorted({point.blocks for point in points})
    tiny = [
        f"{labels[point.solver, point.settings]} on {point.n}:{point.m} ({100 * point.gap_mean:.0e} %)"
        for point in points
        if 0 < 100 * point.gap_mean < 10**_SMALLEST_DECADE
    ]
    notes = [f"{made['date']}, {made['cpu']}, tmask {made['tmask']}"]
    notes += [f"blocks seen: {seen[0]} to {seen[-1]}, slow solvers see fewer"] if len(seen) > 1 else []
    notes += [f"gap above 0 but below the axis, drawn at its lower end: {'; '.join(tiny)}"] if tiny else []
    notes += [f"failed: {'; '.join(failed)}"] if failed else []
    notes += [_UNDERFILLED] if any(point.feasible_share < 1 for point in points) else []
    return _Data(
        case,
        sorted((s for s in series if s.points), key=_rank),
        sorted({(point.m, point.n) for point in points}),
        "\n".join(textwrap.fill(note, 130) for note in notes),
    )


def _rank(series: _Series) -> tuple[float, float]:
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


def _gap(data: _Data) -> Figure:
    figure, (axes,) = _figure(data, "Proven optimality gap", 1, 1)
    for series, pattern, x in _columns(data):
        point = series.points[pattern]
        axes.plot(x, _height(data, point), **series.style(point))
    _gap_axis(axes, data)
    axes.set_ylabel(_GAP_LABEL)
    _pattern_axis(axes, data)
    return figure


def _time(data: _Data) -> Figure:
    figure, (axes,) = _figure(data, "Time a block: median, fastest and slowest repeat", 1, 1)
    axes.set_yscale("log")
    for series, pattern, x in _columns(data):
        _plot_times(axes, series, pattern, x, None)
    axes.set_ylabel(_TIME_LABEL)
    axes.grid(axis="y", color="#dddddd")
    _pattern_axis(axes, data)
    return figure


def _gap_time(data: _Data) -> Figure:
    columns = min(3, len(data.patterns))
    figure, panels = _figure(data, "Proven optimality gap against time", -(-len(data.patterns) // columns), columns)
    low, high = min(p.fastest for p in data.points()), max(p.slowest for p in data.points())
    for k, (axes, pattern) in enumerate(zip(panels, data.patterns, strict=False)):
        axes.set_xscale("log")
        axes.set_xlim(low / 2, high * 2)
        proven = [s for s in data.series if pattern in s.points and _proven(s.points[pattern])]
        for series in data.series:
            if pattern in series.points:
                # Where they took the same time they would overlap: spread over the band, whose height says nothing.
                share = (proven.index(series) + 1) / (len(proven) + 1) if series in proven else 0.5
                _plot_times(axes, series, pattern, None, _height(data, series.points[pattern], share))
        _gap_axis(axes, data)
        axes.grid(axis="x", color="#dddddd")
        axes.set_title(f"{pattern[1]}:{pattern[0]}", fontsize=11)
        axes.set_xlabel(_TIME_LABEL)
        if k % columns == 0:
            axes.set_ylabel(_GAP_LABEL)
    for axes in panels[len(data.patterns) :]:
        axes.remove()
    return figure


def _figure(data: _Data, title: str, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """With title, legend and footer; the axes in reading order."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    size = (10.5, 5.6) if rows == columns == 1 else (3.4 * max(columns, 2) + 2.4, 3.7 * rows + 1.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    figure.suptitle(f"{title} (case {data.case!r})", fontsize=13, x=0.01, ha="left")  # the legend is on the right
    handles = [Line2D([], [], label=series.label, **series.style()) for series in data.series]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, title="solver, smallest gap first")
    figure.supxlabel(data.footer, fontsize=7.5, color="#666666", x=0.01, ha="left")
    return figure, axes


def _columns(data: _Data) -> list[tuple[_Series, tuple[int, int], float]]:
    """(series, pattern, x) of every point, the series side by side within their pattern."""
    step = 0.84 / len(data.series)
    return [
        (series, pattern, k + (i - (len(data.series) - 1) / 2) * step)
        for k, pattern in enumerate(data.patterns)
        for i, series in enumerate(data.series)
        if pattern in series.points
    ]


def _plot_times(axes: Axes, series: _Series, pattern: tuple[int, int], x: float | None, y: float | None) -> None:
    """Median and range along the axis whose coordinate is None."""
    point = series.points[pattern]
    time = point.microseconds
    bars = [[time - point.fastest], [point.slowest - time]]
    xbars, ybars = (bars if x is None else None), (bars if y is None else None)
    x, y = (time if x is None else x), (time if y is None else y)
    axes.errorbar([x], [y], xerr=xbars, yerr=ybars, fmt="none", ecolor=_INK, elinewidth=1, capsize=3, zorder=2)
    axes.plot(x, y, **series.style(point))


def _decades(data: _Data) -> tuple[int, int]:
    """The powers of ten around the gaps above 0, in percent."""
    gaps = [100 * point.gap_mean for point in data.points() if point.gap_mean > 0] or [0.5]
    low = max(_SMALLEST_DECADE, math.floor(math.log10(min(gaps))))
    return low, max(low + 1, math.ceil(math.log10(max(gaps)) + 1e-9))


def _band(data: _Data) -> float:
    """Its height, in decades: a quarter of what the gaps take."""
    low, high = _decades(data)
    return 0.25 * (high - low)


def _height(data: _Data, point: Summary, share: float = 0.5) -> float:
    """A gap in percent, no lower than just above the band; for a gap of 0, this share of the way down the band."""
    low, high = _decades(data)
    if not _proven(point):
        return float(max(100 * point.gap_mean, 10 ** (low + 0.04 * (high - low))))
    return float(10 ** (low - share * _band(data)))


def _proven(point: Summary) -> bool:
    """Whether its masks are the optimum; underfilled ones can have a gap of 0 or less without being that."""
    return point.gap_mean <= 0 and point.optimal_share == 1


def _gap_axis(axes: Axes, data: _Data) -> None:
    """Logarithmic, over a band for the gaps of 0, which a logarithm has no place for."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    low, high = _decades(data)
    bottom = low - _band(data)
    axes.set_yscale("log")
    axes.set_ylim(10**bottom, 10**high)
    axes.axhspan(10**bottom, 10**low, facecolor="#e8e8e8", edgecolor="none", zorder=0)
    axes.axhline(10**low, color=_INK, linewidth=0.8, zorder=1)
    axes.yaxis.set_major_locator(FixedLocator([10.0**k for k in range(low, high + 1)]))
    axes.yaxis.set_minor_locator(FixedLocator([d * 10.0**k for k in range(low, high) for d in range(2, 10)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.grid(axis="y", color="#dddddd")
    axes.text(
        -0.015,
        0.1,
        "proven\noptimal",
        transform=axes.transAxes,
        ha="right",
        va="center",
        fontsize=8.5,
    )


def _pattern_axis(axes: Axes, data: _Data) -> None:
    """One slot a pattern, n of every m kept."""
    count = len(data.patterns)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_xticks(range(count), [f"{n}:{m}" for m, n in data.patterns])
    axes.tick_params(axis="x", length=0)
    for k in range(1, count):
        axes.axvline(k - 0.5, color="#bbbbbb", linewidth=0.8)
    axes.set_xlabel("pattern (n kept of every m)")
