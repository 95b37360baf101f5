"""`tmask check`: a mask file against the weights that it was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from tmask.cli.console import complain, note, progress_bar
from tmask.cli.exit_codes import Code, reports_errors
from tmask.cli.options import Json
from tmask.cli.output import show_json, show_table
from tmask.errors import FileFormatError
from tmask.files.masks import open_masks
from tmask.files.opening import open_weights
from tmask.sharding.checking import check_record
from tmask.showing.numbers import percent


@reports_errors
def check(
    masks: Annotated[
        Path, typer.Argument(help="A mask file, as `tmask solve` writes it, or the index of merged shards.")
    ],
    weights: Annotated[Path, typer.Argument(help="The weights that it was made for.")],
    json: Json = False,
) -> None:
    """Verify a mask file: made for these weights, transposable, its objective as recorded, its gap proven anew.

    Exit code 1 if a mask fails.
    """
    records = open_masks(masks)
    if not records:
        raise FileFormatError(f"{masks} holds no masks, so there is nothing to check")
    source = open_weights(weights)
    results = []
    text = TextColumn("{task.description}", markup=False)
    with progress_bar(text, BarColumn(), MofNCompleteColumn(), TextColumn("layers")) as bar:
        task = bar.add_task("", total=len(records))
        for record in records.values():
            bar.update(task, description=record.name)
            # A wrong mask is a row: one that ended the run would hide those behind it.
            results.append(check_record(record, source))
            bar.advance(task)
    failed = [result for result in results if result["problem"]]
    if json:
        show_json({"ok": not failed, "layers": results})
    else:
        rows = [
            {
                "layer": result["layer"],
                "pattern": result["pattern"],
                "read as": result["read_as"],
                "verdict": result["verdict"],
                "retained": percent(result["retained"]),
                "proven gap": percent(result["optimality_gap"], 4),
            }
            for result in results
        ]
        show_table(f"{masks} against {weights}", rows, texts=("layer", "read as", "verdict"))
    for result in results:
        if result["remark"]:
            note(f"{result['layer']}: {result['remark']}")
    for result in failed:
        complain(f"{result['layer']}: {result['problem']}")
    if failed:
        raise typer.Exit(Code.CHECK_FAILED)
