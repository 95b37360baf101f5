"""The error of each pruned layer, in the order in which data pass them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tmask.showing.matplotlib_figures import new_figure
from tmask.showing.styles import BLUE, GRID, INK, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More names than this would lie on one another.
_NAMED = 40
# Errors further apart than this are shown by their logarithm.
_WIDE = 30
_LOOKS = ((BLUE, "o"), (ORANGE, "s"))


def draw_errors(layers: Sequence[str], errors: Mapping[str, Sequence[float]], title: str) -> Figure:
    """A marker for each layer and series, on a logarithm where they lie far apart.

    Args:
        layers: their names.
        errors: of each layer, relative, by what was done to it; at most two series.
    Raises:
        SolverUnavailableError: matplotlib is not installed.
    """
    figure = new_figure((max(6.0, 0.3 * min(len(layers), _NAMED) + 2), 4.6))
    from matplotlib.ticker import PercentFormatter  # after the figure, which says what to install

    axes = figure.subplots()
    for (colour, marker), (label, values) in zip(_LOOKS, errors.items(), strict=False):
        axes.plot(
            range(len(layers)), values, color=colour, marker=marker, markersize=5, linewidth=1, label=label,
            markeredgecolor=INK, markeredgewidth=0.5,
        )  # fmt: skip
    positive = [value for values in errors.values() for value in values if value > 0]
    if positive and max(positive) > _WIDE * min(positive):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    if len(layers) <= _NAMED:
        axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize=8)
    else:
        axes.set_xlabel("layer, in the order of the data")
    axes.set_ylabel("squared error of the outputs,\nas a share of their squares")
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")
    return figure
