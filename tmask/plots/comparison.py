"""Gap and time from a comparison's CSV alone: read, arranged, drawn, saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tmask.comparison.runs import Run
from tmask.errors import OutputError, SolverUnavailableError
from tmask.files.atomic import atomic_path, check_output
from tmask.plots.figures import draw_gap, draw_gap_time, draw_time
from tmask.plots.reading import CaseRuns, read_case
from tmask.plots.series import arrange
from tmask.showing.matplotlib_figures import new_figure
from tmask.showing.styles import RC_PANELS, save_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = ("png", "svg")


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
    data = arrange(read_case(Path(csv_path)))
    out_dir = Path(out_dir)
    # Around the saving too: the salt of SVG's names is read then.
    with matplotlib.rc_context(RC_PANELS):
        figures = {"gap": draw_gap(data), "time": draw_time(data), "gap_time": draw_gap_time(data)}
        try:
            return _save(figures, out_dir)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write plots into {out_dir}: {error.strerror or error}") from error


def draw_runs(runs: Sequence[Run], made: Mapping[str, str]) -> Figure:
    """Gap against time of runs in memory, a panel for each pattern.

    Args:
        made: date, cpu and tmask, as of `comparison.environment`.
    Raises:
        SolverUnavailableError: matplotlib is not installed.
    """
    new_figure((1, 1))
    import matplotlib as mpl

    with mpl.rc_context(RC_PANELS):
        return draw_gap_time(arrange(CaseRuns(runs[0].case, list(runs), dict(made))))


def _save(figures: dict[str, Figure], out_dir: Path) -> list[Path]:
    """All files or none: each is written beside its place, and they are renamed when the last is whole."""
    out_dir.mkdir(parents=True, exist_ok=True)
    names = [f"{stem}.{suffix}" for stem in figures for suffix in _FORMATS]
    paths = [check_output(out_dir / name, overwrite=True) for name in names]
    with ExitStack() as stack:
        for path in paths:
            temporary = stack.enter_context(atomic_path(path))
            figures[path.stem].savefig(temporary, **save_options(path))
    return paths
