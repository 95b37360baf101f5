"""`tmask plot`: figures from a comparison's CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmask.cli.exit_codes import reports_errors
from tmask.cli.output import show_line
from tmask.plots.comparison import draw_plots


@reports_errors
def plot(
    csv: Annotated[Path, typer.Argument(help="Rows of `tmask compare --csv` or of the benchmark.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="For the figures.")] = Path("plots"),
) -> None:
    """Draw gap and time per solver and pattern, as PNG and SVG, from the CSV alone; older figures are replaced."""
    for path in draw_plots(csv, output):
        show_line(str(path))
