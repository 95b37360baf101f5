"""Draw a pruned language model: the error of every matrix over the depth, a line for each kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmask.errors import InvalidProblemError, OutputError, SolverUnavailableError
from tmask.files.atomic import atomic_path, check_output
from tmask.plots.diversity import FORMATS
from tmask.plots.matrix_names import block_of, kind
from tmask.showing.styles import COLOURS, GRID, INK, MARKERS, RC, save_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = dict[int, float]  # error by block


def draw_pruning(report: Mapping[str, Any], path: str | Path, *, title: str = "", overwrite: bool = True) -> Path:
    """One figure: block by block the mean error of each kind of matrix, and that of the hidden states behind a block.

    Args:
        report: `BlockwiseReport.document()`, or what `report.json` holds.
        path: ends in .png, .svg or .pdf.
    Returns:
        The path.
    Raises:
        InvalidProblemError: no matrix of a block to draw.
        SolverUnavailableError: matplotlib is not installed.
        OutputError: the file cannot be written, exists and must stay, or has another ending.
    """
    path = check_output(path, overwrite)
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: a figure's name must end in {', '.join(FORMATS)}")
    lines = error_lines(report["matrices"])
    if not lines:
        raise InvalidProblemError("the report has no matrix of a block with an error; there is nothing to draw")
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise SolverUnavailableError('the figure needs matplotlib; run: pip install "tmask[plot]"') from error
    behind = {block_of(row["name"] + "."): row["error"] for row in report.get("blocks", []) if row["error"] is not None}
    figure = _figure(lines, behind, title or "Relative squared error of outputs on the calibration data")
    with atomic_path(path, overwrite) as temporary, mpl.rc_context(RC):
        figure.savefig(temporary, **save_options(path))
    return path


def error_lines(matrices: Sequence[Mapping[str, Any]]) -> dict[str, Line]:
    """By kind and block; of matrices of one kind in one block, such as experts, the mean."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in matrices:
        block, error = block_of(row["name"]), row["error"]
        if block >= 0 and error is not None and math.isfinite(error):
            found.setdefault(kind(row["name"]), {}).setdefault(block, []).append(error)
    return {
        name: {block: sum(errors) / len(errors) for block, errors in sorted(blocks.items())}
        for name, blocks in found.items()
    }


def _figure(lines: Mapping[str, Line], behind: Mapping[int, float], title: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    for index, (name, line) in enumerate(lines.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.plot([*line], [*line.values()], color=colour, marker=marker, markersize=5, linewidth=1.2, label=name)
    if behind:
        axes.plot([*behind], [*behind.values()], color=INK, linestyle="--", linewidth=2, label="hidden states behind")
    # Errors differ by powers of ten among kinds; one of 0 has no place on a logarithm.
    if all(error > 0 for line in (*lines.values(), behind) for error in line.values()):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", which="both", color=GRID)
    axes.set_axisbelow(True)
    axes.set_xlabel("block")
    axes.set_ylabel("error relative to dense")
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    figure.legend(loc="outside right upper", frameon=False)
    return figure
