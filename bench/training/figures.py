"""Curves, flip rates, differences from dense and what pieces give, each as PNG and SVG."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.training.paired import difference
from bench.training.results import Curve, TaskResults
from bench.training.settings import GROUPS, PATTERNS, Setting
from tmask.files.atomic import atomic_path
from tmask.showing.styles import BLACK, BLUE, GREEN, GRID, INK, ORANGE, PURPLE, RC_PANELS, VERMILION, save_options

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES: dict[str, dict[str, Any]] = {
    "dense": {"color": BLACK, "linestyle": "-"},
    "dense again": {"color": BLACK, "linestyle": ":"},
    "plain": {"color": PURPLE, "linestyle": "-."},
    "exact": {"color": BLUE, "linestyle": "-"},
    "greedy": {"color": ORANGE, "linestyle": "--"},
    "frozen": {"color": GREEN, "linestyle": ":"},
    "recipe": {"color": VERMILION, "linestyle": "-"},
    "recipe, dense end": {"color": PURPLE, "linestyle": "--"},
}
# Curves are to be told apart at a glance: what training does with no masks, with masks alone, by the recipe.
_CURVES = ("dense", "exact", "recipe", "recipe, dense end")
_UNITS = {"vision": "loss (nats an image)", "language": "loss (nats a character)"}


def draw_figures(results: Sequence[TaskResults], csv: Path) -> list[Path]:
    """Write CSV_curves, CSV_flips, CSV_differences and, where pieces were run, CSV_pieces beside the CSV."""
    import matplotlib

    matplotlib.use("Agg")
    figures = {"curves": _curves, "flips": _flips, "differences": _differences}
    if any(piece.name in result.rows for piece in (*GROUPS["alone"], *GROUPS["without"]) for result in results):
        figures["pieces"] = _pieces
    paths = []
    with matplotlib.rc_context(RC_PANELS):
        for name, draw in figures.items():
            figure = draw(results)
            for suffix in (".png", ".svg"):
                path = csv.with_name(f"{csv.stem}_{name}{suffix}")
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, **save_options(path))
                paths.append(path)
    return paths


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in panels]


def _legend(figure: Figure, panels: Sequence[Axes], columns: int) -> None:
    """One for all panels, below them, every label once."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(str(label), handle)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns, frameon=False)


def _curves(results: Sequence[TaskResults]) -> Figure:
    """A row of panels a task, one a pattern: training loss as lines, test loss as markers, means over seeds."""
    figure, panels = _panels(len(results), len(PATTERNS), 11, 0.8 + 3.2 * len(results))
    for row, result in zip(panels, results, strict=True):
        for axes, pattern in zip(row, PATTERNS, strict=True):
            for setting in result.settings:
                if setting.pattern in ("", pattern) and setting.kind in _CURVES:
                    _line(axes, result.curve(setting, "train_loss"), label=setting.kind, **_STYLES[setting.kind])
                    tested = _means(result.curve(setting, "test_loss"))
                    colour = _STYLES[setting.kind]["color"]
                    axes.plot(*tested, linestyle="none", marker="o", markersize=4, color=colour, alpha=0.7)
            axes.set_title(f"{result.task}, {pattern}", fontsize=10)
            axes.set_xlabel("step")
            axes.grid(color=GRID)
        _cut_start(row, result)
        row[0].set_ylabel(_UNITS[result.task])
    figure.suptitle("Training loss (lines, mean and range over seeds) and test loss (dots)", fontsize=11)
    _legend(figure, [axes for row in panels for axes in row], 6)
    return figure


def _cut_start(row: Sequence[Axes], result: TaskResults) -> None:
    """The same range of losses in a row; the first points, before anything is learned, may lie above it."""
    values = []
    for setting in result.settings:
        if setting.kind not in _CURVES:
            continue
        train = _means(result.curve(setting, "train_loss"))[1]
        values += [*train[min(2, len(train) - 1) :], *_means(result.curve(setting, "test_loss"))[1]]
    room = 0.05 * (max(values) - min(values))
    for axes in row:
        axes.set_ylim(min(values) - room, max(values) + room)


def _flips(results: Sequence[TaskResults]) -> Figure:
    """A panel a task: flip rate at each renewal, mean over seeds."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, (row,) = _panels(1, len(results), 1 + 5 * len(results), 4.2)
    shown = [Setting("none"), *(Setting(m, "2:4", levers=v) for v in ("", "recipe") for m in ("exact", "greedy"))]
    for axes, result in zip(row, results, strict=True):
        for setting in shown:
            found = result.curve(setting, "flip_rate")
            # Nothing flips while all is kept, which a logarithm cannot show.
            curve = {step: [100 * v for v in values] for step, values in found.items() if all(values)}
            if curve:
                label = "dense, as its masks would flip" if setting.masks == "none" else setting.name
                _line(axes, curve, label=label, band=False, **_style(setting))
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{result.task}, 2:4", fontsize=10)
        axes.set_xlabel("step")
        axes.grid(color=GRID)
    row[0].set_ylabel("flip rate (% of mask bits a renewal)")
    figure.suptitle("Mask bits that change at each renewal, mean over seeds", fontsize=11)
    _legend(figure, row, 3)
    return figure


def _differences(results: Sequence[TaskResults]) -> Figure:
    """A panel a task: test loss minus that of dense, of the main settings."""
    title = "Test loss minus that of dense (frozen, again: of dense trained on as long), mean and 95 % interval"
    return _intervals(results, GROUPS["main"], title)


def _pieces(results: Sequence[TaskResults]) -> Figure:
    """The same for every piece alone, and for the recipe with one less or more."""
    bases = (Setting("exact", "2:4"), *GROUPS["alone"]), (Setting("exact", "2:4", levers="recipe"), *GROUPS["without"])
    title = "Pieces of the recipe, alone and taken away: test loss minus that of dense, mean and 95 % interval"
    return _intervals(results, [setting for group in bases for setting in group], title)


def _intervals(results: Sequence[TaskResults], settings: Sequence[Setting], title: str) -> Figure:
    """A panel a task: one line a setting, with its 95 % interval over seeds."""
    most = max(sum(s.name in result.rows and s.masks != "none" for s in settings) for result in results)
    figure, (row,) = _panels(1, len(results), 1 + 5 * len(results), 1.5 + 0.22 * most)
    for axes, result in zip(row, results, strict=True):
        shown = [setting for setting in settings if setting.masks != "none" and setting.name in result.rows]
        for place, setting in enumerate(shown):
            found = difference(result.final(setting, "test_loss"), result.final(setting.reference, "test_loss"))
            bar = 0.0 if math.isinf(found.half_width) else found.half_width
            colour = _style(setting)["color"]
            axes.errorbar([found.mean], [place], xerr=[bar], fmt="o", color=colour, capsize=3, markersize=5)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(shown)), [setting.name for setting in shown])
        axes.invert_yaxis()
        axes.set_title(result.task, fontsize=10)
        axes.set_xlabel(f"{_UNITS[result.task]}; worse to the right")
        axes.grid(axis="x", color=GRID)
        axes.locator_params(axis="x", nbins=6)
    figure.suptitle(title, fontsize=11)
    return figure


def _style(setting: Setting) -> dict[str, Any]:
    """By kind; all that come from the recipe have its colour, and greedy ones are dashed."""
    if setting.kind in _STYLES:
        return _STYLES[setting.kind]
    base = "recipe" if setting.levers.startswith("recipe") else "exact"
    return {**_STYLES[base], "linestyle": "--" if setting.masks == "greedy" else "-"}


def _means(curve: Curve) -> tuple[list[int], list[float]]:
    steps = sorted(curve)
    return steps, [statistics.fmean(curve[step]) for step in steps]


def _line(axes: Axes, curve: Curve, *, band: bool = True, **style: Any) -> None:
    """Mean over seeds, and the range around it."""
    steps, means = _means(curve)
    axes.plot(steps, means, linewidth=1.6, **style)
    if band:
        low, high = ([pick(curve[step]) for step in steps] for pick in (min, max))
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.12, linewidth=0)
