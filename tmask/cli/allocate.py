"""`tmask allocate`: a pattern for each layer of a weight file, under one budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from tmask.allocation.allocating import allocate as allocate_patterns
from tmask.allocation.allocating import retained_losses
from tmask.blocks.arrays import to_scores
from tmask.blocks.pattern import Pattern
from tmask.cli.console import note, progress_bar
from tmask.cli.exit_codes import reports_errors
from tmask.cli.numbers import percent
from tmask.cli.options import Csv, Exclude, Groups, Include, Json, Overwrite, Regex, check_outputs, parse_groups
from tmask.cli.output import show_json, show_table
from tmask.files.csv_files import write_csv
from tmask.files.layers import select_layers
from tmask.files.weights import open_weights

_PATTERNS = tuple(f"{n}:8" for n in range(1, 9))


@reports_errors
def allocate(
    file: Annotated[Path, typer.Argument(help="Weights: .safetensors (or its index), .npz, .npy, .pt, .pth.")],
    density: Annotated[float, typer.Option("--density", "-d", help="Share of all weights that may be kept, 0 to 1.")],
    pattern: Annotated[
        list[str], typer.Option("--pattern", "-p", help="N:M to offer (repeatable); else 1:8 to 8:8.")
    ] = [],  # noqa: B006
    solver: Annotated[str, typer.Option("--solver", "-s", help="A name from `tmask solvers`, or auto.")] = "auto",
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    regex: Regex = False,
    groups: Groups = [],  # noqa: B006
    overwrite: Overwrite = False,
    json: Json = False,
    csv: Csv = None,
) -> None:
    """Choose each layer's n of m so that the whole model loses the least |weight| within one density.

    Each layer is solved for each pattern; the choice is then a knapsack, solved exactly by OR-Tools.
    """
    parsed = list(dict.fromkeys(map(Pattern.parse, pattern or _PATTERNS)))
    check_outputs([file], [csv], overwrite)
    source = open_weights(file)
    selection = select_layers(source, include, exclude, regex=regex, groups=parse_groups(groups))
    shapes = {layer.name: layer.shape for layer in selection.layers}
    counts = {layer.name: layer.groups for layer in selection.layers}
    # A budget that cannot be met is refused before the work: what is lost does not matter for that.
    allocate_patterns({name: dict.fromkeys(parsed, 0.0) for name in shapes}, shapes, density, groups=counts)
    losses: dict[str, dict[Pattern, float]] = {}
    totals: dict[str, float] = {}
    text = TextColumn("{task.description}", markup=False)
    with progress_bar(text, BarColumn(), MofNCompleteColumn(), TextColumn("layers"), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=len(shapes))
        for layer in selection.layers:
            bar.update(task, description=layer.name)
            values = source.read(layer.name).values()
            losses |= retained_losses({layer.name: values}, parsed, solver, groups={layer.name: layer.groups})
            totals[layer.name] = float(to_scores(values, name=layer.name).sum(dtype=np.float64))
            bar.advance(task)
    found = allocate_patterns(losses, shapes, density, groups=counts)
    rows = [row | {"total": totals[row["layer"]]} for row in found.table()]
    if csv is not None:
        write_csv(csv, rows, overwrite)
    total = math.fsum(totals.values())
    if json:
        summary = {"density": found.density, "budget": found.budget, "loss": found.loss, "rounding": found.rounding}
        show_json({"layers": rows, "total": summary | {"total": total}})
        return
    table = [
        {
            "layer": row["layer"],
            "weights": f"{row['size']:,}",
            "pattern": row["pattern"],
            "density": percent(row["density"]),
            "lost": percent(row["loss"] / row["total"] if row["total"] else 0.0),
        }
        for row in rows
    ]
    table.append(
        {
            "layer": f"all {len(rows)}",
            "weights": f"{sum(row['size'] for row in rows):,}",
            "pattern": "",
            "density": percent(found.density),
            "lost": percent(found.loss / total if total else 0.0),
        }
    )
    show_table(f"Patterns for {file.name} that keep at most {percent(density)}", table, texts=("layer",))
    if selection.skipped:
        note(f"{len(selection.skipped)} tensors get no mask and were left out; `tmask solve` lists them")
