"""`tmask allocate`: a pattern for each layer of a weight file, under one budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from tmask.allocation.allocating import Allocation, retained_losses
from tmask.allocation.allocating import allocate as allocate_patterns
from tmask.blocks.arrays import to_scores
from tmask.blocks.pattern import Pattern
from tmask.cli.console import note, progress_bar
from tmask.cli.exit_codes import reports_errors
from tmask.cli.options import (
    Csv,
    Exclude,
    Groups,
    Include,
    Json,
    Layouts,
    Overwrite,
    Regex,
    SolverName,
    Verbose,
    check_outputs,
    several,
)
from tmask.cli.output import Row, show_json, show_table
from tmask.cli.selection import left_out, open_selected, reasons
from tmask.files.csv_files import write_csv
from tmask.files.layers import Layer
from tmask.files.outputs.names import check_csv_name
from tmask.files.weight_file import WeightFile
from tmask.showing.numbers import percent

_PATTERNS = tuple(f"{n}:8" for n in range(1, 9))


@reports_errors
def allocate(
    file: Annotated[Path, typer.Argument(help="Weights: .safetensors (or its index), .npz, .npy, .pt, .pth.")],
    density: Annotated[float, typer.Option("--density", "-d", help="Share of all weights that may be kept, 0 to 1.")],
    pattern: Annotated[
        list[str], typer.Option("--pattern", "-p", help="N:M to offer (repeatable); else 1:8 to 8:8.")
    ] = [],  # noqa: B006
    solver: SolverName = "auto",
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    regex: Regex = False,
    groups: Groups = [],  # noqa: B006
    layouts: Layouts = [],  # noqa: B006
    overwrite: Overwrite = False,
    json: Json = False,
    csv: Csv = None,
    verbose: Verbose = False,
) -> None:
    """Choose each layer's n of m so that the whole model loses the least |weight| within one density.

    Each layer is solved for each pattern; the choice is then a knapsack, solved exactly by OR-Tools.
    """
    parsed = list(dict.fromkeys(map(Pattern.parse, several(pattern) or _PATTERNS)))
    check_outputs([file], [csv], overwrite)
    check_csv_name(csv)
    source, selection = open_selected(file, parsed, include, exclude, regex, groups, layouts, csv)
    shapes = {layer.name: layer.shape for layer in selection.layers}
    counts = {layer.name: layer.groups for layer in selection.layers}
    layouts_of = {layer.name: layer.layout for layer in selection.layers}
    # A budget that cannot be met is refused before the work: what is lost does not matter for that.
    allocate_patterns(
        {name: dict.fromkeys(parsed, 0.0) for name in shapes}, shapes, density, groups=counts, layouts=layouts_of
    )
    losses, totals = _measure(source, selection.layers, parsed, solver)
    found = allocate_patterns(losses, shapes, density, groups=counts, layouts=layouts_of)
    rows = [
        row | {"total": totals[row["layer"]], "layout": layouts_of[row["layer"]], "groups": counts[row["layer"]]}
        for row in found.table()
    ]
    if csv is not None:
        write_csv(csv, rows, overwrite)
    if json:
        summary = {"density": found.density, "budget": found.budget, "loss": found.loss, "rounding": found.rounding}
        show_json(
            {
                "layers": rows,
                "total": summary | {"total": math.fsum(totals.values())},
                "skipped": reasons(selection),
                "remarks": selection.remarks,
            }
        )
        return
    read_as = {layer.name: layer.read_as for layer in selection.layers}
    texts = ("layer", "read as")
    show_table(
        f"Patterns for {file.name} that keep at most {percent(density)}", _words(found, rows, read_as), texts=texts
    )
    for remark in left_out(selection, verbose):
        note(remark)


def _measure(
    source: WeightFile, layers: Sequence[Layer], patterns: Sequence[Pattern], solver: str
) -> tuple[dict[str, dict[Pattern, float]], dict[str, float]]:
    """What each layer loses by each pattern, and the sum of its |weight|; one layer in memory at a time."""
    losses: dict[str, dict[Pattern, float]] = {}
    totals: dict[str, float] = {}
    text = TextColumn("{task.description}", markup=False)
    with progress_bar(text, BarColumn(), MofNCompleteColumn(), TextColumn("layers"), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=len(layers))
        for layer in layers:
            bar.update(task, description=layer.name)
            values = source.read(layer.name).values()
            losses |= retained_losses(
                {layer.name: values},
                patterns,
                solver,
                groups={layer.name: layer.groups},
                layouts={layer.name: layer.layout},
            )
            totals[layer.name] = float(to_scores(values, name=layer.name).sum(dtype=np.float64))
            bar.advance(task)
    return losses, totals


def _words(found: Allocation, rows: Sequence[Mapping[str, Any]], read_as: Mapping[str, str]) -> list[Row]:
    """A row for each layer and one for all."""
    numbers = ("size", "pattern", "density", "loss", "total")
    return [
        *(_row(row["layer"], read_as[row["layer"]], *(row[name] for name in numbers)) for row in rows),
        _row(
            f"all {len(rows)}",
            "",
            sum(row["size"] for row in rows),
            "",
            found.density,
            found.loss,
            math.fsum(row["total"] for row in rows),
        ),
    ]


def _row(layer: str, read_as: str, size: int, pattern: str, density: float, loss: float, total: float) -> Row:
    return {
        "layer": layer,
        "read as": read_as,
        "weights": f"{size:,}",
        "pattern": pattern,
        "density": percent(density),
        "lost": percent(loss / total if total else 0.0),
    }
