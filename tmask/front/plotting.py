"""`tmask.plot`: a figure of whatever tmask gave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmask.errors import InvalidProblemError
from tmask.plots.comparison import draw_runs
from tmask.plots.reading import read_case
from tmask.showing.matplotlib_figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(what: Any) -> Figure:
    """A figure of matplotlib, which a notebook shows and `savefig` writes.

    Args:
        what: anything with a `plot()`, such as a Solution, a Comparison or a report of pruning; or the path of a CSV
            that `tmask compare --csv` or `Comparison.write_csv` wrote.
    Raises:
        InvalidProblemError: something else.
        FileFormatError: the file is missing or no such CSV.
        SolverUnavailableError: matplotlib (for a CSV pandas too) is not installed.
    """
    if isinstance(what, str | Path):
        new_figure((1, 1))
        read = read_case(Path(what))
        return draw_runs(read.runs, read.made)
    if not hasattr(what, "plot"):
        raise InvalidProblemError(
            f"there is no figure of a {type(what).__name__}; give a Solution, a Comparison, a report of pruning, or "
            "the path of a CSV of `tmask compare`"
        )
    figure: Figure = what.plot()
    return figure
