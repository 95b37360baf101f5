"""Draw bits per weight over patterns: how much freedom each constraint leaves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError, OutputError, SolverUnavailableError
from tmask.files.atomic import atomic_path, check_output
from tmask.showing.styles import BLACK, BLUE, GREEN, GRID, INK, ORANGE, PURPLE, RC, SEPARATOR, point_style, save_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
_STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (BLACK, "x"))


def draw_diversity(
    bits: Mapping[Pattern, Mapping[str, float]],
    path: str | Path,
    *,
    title: str = "Mask diversity",
    estimated: Collection[tuple[Pattern, str]] = (),
    overwrite: bool = True,
) -> Path:
    """One figure: a slot for each pattern, a marker for each series in it.

    Args:
        bits: per weight, by pattern and series; at most five series, of the same names at every pattern.
        path: ends in .png, .svg or .pdf.
        estimated: (pattern, series) whose marker is hollow, since the number is an estimate.
    Returns:
        The path.
    Raises:
        InvalidProblemError: nothing to draw, or too many series.
        SolverUnavailableError: matplotlib is not installed.
        OutputError: the file cannot be written, exists and must stay, or has another ending.
    """
    path = check_output(path, overwrite)
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: a figure's name must end in {', '.join(FORMATS)}")
    names = list(dict.fromkeys(name for series in bits.values() for name in series))
    if not 0 < len(names) <= len(_STYLES):
        raise InvalidProblemError(f"{len(names)} series to draw: from 1 to {len(_STYLES)} can be told apart")
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise SolverUnavailableError('the figure needs matplotlib; run: pip install "tmask[plot]"') from error
    figure = _figure(bits, names, title, estimated)
    with atomic_path(path, overwrite) as temporary, mpl.rc_context(RC):
        figure.savefig(temporary, **save_options(path))
    return path


def _figure(
    bits: Mapping[Pattern, Mapping[str, float]],
    names: list[str],
    title: str,
    estimated: Collection[tuple[Pattern, str]],
) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(max(6.5, 1.1 * len(bits) + 3.2), 4.6), layout="constrained")
    axes = figure.subplots()
    step = 0.8 / len(names)
    for slot, (pattern, series) in enumerate(bits.items()):
        for index, name in enumerate(names):
            if name in series:
                x = slot + (index - (len(names) - 1) / 2) * step
                axes.plot(x, series[name], **point_style(*_STYLES[index], hollow=(pattern, name) in estimated))
                axes.vlines(x, 0, series[name], color=_STYLES[index][0], linewidth=1, alpha=0.4, zorder=2)
    axes.set_xlim(-0.5, len(bits) - 0.5)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # room for markers at 0, clear of the patterns' names
    axes.set_xticks(range(len(bits)), [str(pattern) for pattern in bits])
    axes.tick_params(axis="x", length=0)
    for slot in range(1, len(bits)):
        axes.axvline(slot - 0.5, color=SEPARATOR, linewidth=0.8)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.set_xlabel("pattern (n kept of every m)")
    axes.set_ylabel("log2 of the number of masks, per weight (bits)")
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    handles = [
        Line2D([], [], label=name, **point_style(*_STYLES[index], hollow=False)) for index, name in enumerate(names)
    ]
    if estimated:
        handles.append(
            Line2D(
                [], [], label="hollow: an estimate", **point_style(*_STYLES[0], hollow=True) | {"markeredgecolor": INK}
            )
        )
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    return figure
