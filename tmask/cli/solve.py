"""`tmask solve`: masks for the layers of a weight file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from tmask.blocks.pattern import Pattern
from tmask.cli.console import note, progress_bar
from tmask.cli.exit_codes import reports_errors
from tmask.cli.options import (
    Csv,
    Exclude,
    Groups,
    Include,
    Json,
    KeepZeros,
    Layouts,
    Overwrite,
    Regex,
    SolverName,
    Verbose,
    check_outputs,
    make_solver,
)
from tmask.cli.output import show_json, show_table
from tmask.cli.rows.layer_rows import describe, solve_rows, total
from tmask.cli.selection import left_out, open_selected, reasons
from tmask.errors import TmaskError
from tmask.files.csv_files import write_csv
from tmask.files.masked_weights import check_masked_weights, is_folder, write_masked_weights
from tmask.files.masks import write_masks
from tmask.files.outputs.names import check_csv_name, check_masks_name
from tmask.files.partial import PartialStore
from tmask.files.safetensors_files import check_names
from tmask.sharding.layer_run import LayerRun, share_of
from tmask.sharding.masked_shards import check_masked_shards, write_masked_shard
from tmask.sharding.merging import shard_path
from tmask.sharding.place import parse_place, place_from


@reports_errors
def solve(
    file: Annotated[Path, typer.Argument(help="Weights: .safetensors (or its index), .npz, .npy, .pt, .pth.")],
    pattern: Annotated[str, typer.Option("--pattern", "-p", help="N:M, N weights kept of every M.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The mask file to write (.safetensors).")],
    solver: SolverName = "auto",
    settings: Annotated[list[str], typer.Option("--set", help="name=value of the solver (repeatable).")] = [],  # noqa: B006
    masked_weights: Annotated[
        str | None,  # no Path, which would drop the / at the end of a folder
        typer.Option(help="Also write the weights with masks applied: a file in the format of its name, or a folder."),
    ] = None,
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    regex: Regex = False,
    groups: Groups = [],  # noqa: B006
    layouts: Layouts = [],  # noqa: B006
    certify: Annotated[bool, typer.Option(help="Prove how far each mask can be from the optimum.")] = True,
    keep_zeros: KeepZeros = False,
    shard: Annotated[
        str, typer.Option(help="i/N: the i-th of N parts, written beside OUTPUT; else as Slurm, torchrun or MPI say.")
    ] = "",
    overwrite: Overwrite = False,
    json: Json = False,
    csv: Csv = None,
    verbose: Verbose = False,
) -> None:
    """Find transposable masks for a weight file and write them, bit-packed, with their proofs.

    Interrupted with Ctrl-C, it keeps the finished layers; the same command goes on from there.
    """
    parsed = Pattern.parse(pattern)
    used = make_solver(solver, settings)
    if used is not None:
        used.check_side(parsed.m)
    place = parse_place(shard) if shard else place_from(os.environ)
    if place is not None and place.count == 1:
        place = None
    if place is not None:
        output = shard_path(output, place)
        note(f"shard {place.index} of {place.count}, to {output}; `tmask merge` puts them together")
    weights_file = None
    if masked_weights is not None and place is None and not is_folder(masked_weights, file.is_dir()):
        weights_file = Path(masked_weights)
    check_outputs([file], [output, weights_file, csv], overwrite)
    check_csv_name(csv)
    check_masks_name(output)
    source, selection = open_selected(file, [parsed], include, exclude, regex, groups, layouts, csv)
    check_names(layer.name for layer in selection.layers)
    if masked_weights is not None and place is None:
        check_masked_weights(masked_weights, source, overwrite, file.is_dir())
    elif masked_weights is not None:
        check_masked_shards(masked_weights, source, overwrite, place)
    layers, of_shard = share_of(selection.layers, place, parsed.m)
    run = LayerRun(source, layers, parsed, used, certify, PartialStore(output), of_shard, keep_zeros)
    written: list[Path] = []
    try:
        _show_run(run)
        if masked_weights is not None and place is None:
            masks = {record.name: record.packed for record in run.records}
            write_masked_weights(masked_weights, source, masks, overwrite, file.is_dir())
            written.append(Path(masked_weights))
        elif masked_weights is not None and place is not None:
            folder = Path(masked_weights)
            written.append(write_masked_shard(folder, place, source, selection.layers, run.records, overwrite))
        if csv is not None:
            write_csv(csv, [{"layer": r.name} | describe(r) for r in run.records], overwrite)
            written.append(csv)
        # Last: while it is missing, the next run goes on from the finished layers.
        write_masks(output, run.records, overwrite)
    except (TmaskError, KeyboardInterrupt) as error:
        # As notes, so that the error keeps its type, which decides the exit code.
        for text in _how_to_go_on(run, output, written):
            error.add_note(text)
        raise
    run.store.discard()
    for name in run.store.damaged:
        note(f"layer {name!r}: what an earlier run had kept of it was damaged; it was solved again")
    if run.resumed:
        note(f"resumed: {run.resumed} of {len(run.layers)} layers were finished in an earlier run")
    for remark in left_out(selection, verbose):
        note(remark)
    if json:
        document = {
            "output": str(output),
            "layers": {record.name: describe(record) for record in run.records},
            "total": total(run.records),
            "skipped": reasons(selection),
            "remarks": selection.remarks,
            "resumed": run.resumed,
        }
        show_json(document)
        return
    names = " and ".join(dict.fromkeys(record.solver for record in run.records))
    show_table(
        f"{parsed} by {names}, written to {output}", solve_rows(run.records), texts=("layer", "read as", "status")
    )


def _show_run(run: LayerRun) -> None:
    """All layers, with a progress bar in blocks."""
    text = TextColumn("{task.description}", markup=False)
    with progress_bar(text, BarColumn(), MofNCompleteColumn(), TextColumn("blocks"), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=None)

        def tell(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=f"layer {name}" if name else None)

        run.solve(tell)


def _how_to_go_on(run: LayerRun, output: Path, written: list[Path]) -> list[str]:
    """What a run that stopped early leaves behind, in words."""
    done = f"{len(run.records)} of {len(run.layers)} layers"
    texts = [f"{output} was not written"]
    if run.records:
        texts.append(f"{done} are finished and kept in {run.store.folder}; the same command goes on from there")
    texts += [f"{path} was written, and is whole; --overwrite lets the next run replace it" for path in written]
    return texts
