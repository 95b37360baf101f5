"""`tmask solve`: masks for the layers of a weight file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import tmask
from tmask.blocks import Tiling
from tmask.cli.options import Csv, Exclude, Groups, Include, Json, Overwrite, Regex, make_solver, parse_groups
from tmask.cli.report import Code, complain, note, percent, reports_errors, show_json, show_table, stderr, write_csv
from tmask.comparison import settings_text
from tmask.files.atomic import check_output
from tmask.files.layers import Layer, Skipped, select_layers
from tmask.files.masks import MaskRecord, write_masked_weights, write_masks
from tmask.files.partial import PartialStore
from tmask.files.tensors import Tensor
from tmask.files.weights import open_weights
from tmask.pattern import Pattern
from tmask.registry import AUTO
from tmask.solution import Solution, optimality_gap
from tmask.solver import Solver


@reports_errors
def solve(
    file: Annotated[Path, typer.Argument(help="Weights: .safetensors (or its index), .npz, .npy, .pt, .pth.")],
    pattern: Annotated[str, typer.Option("--pattern", "-p", help="N:M, N weights kept of every M.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The mask file to write (.safetensors).")],
    solver: Annotated[str, typer.Option("--solver", "-s", help="A name from `tmask solvers`, or auto.")] = "auto",
    settings: Annotated[list[str], typer.Option("--set", help="name=value of the solver (repeatable).")] = [],  # noqa: B006
    masked_weights: Annotated[Path | None, typer.Option(help="Also write the weights with masks applied.")] = None,
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    regex: Regex = False,
    groups: Groups = [],  # noqa: B006
    certify: Annotated[bool, typer.Option(help="Prove how far each mask can be from the optimum.")] = True,
    overwrite: Overwrite = False,
    json: Json = False,
    csv: Csv = None,
) -> None:
    """Find transposable masks for a weight file and write them, bit-packed, with their proofs.

    Interrupted with Ctrl-C, it keeps the finished layers; the same command goes on from there.
    """
    parsed = Pattern.parse(pattern)
    used: Solver | None = None
    if solver != "auto" or settings:
        used = make_solver(AUTO[0] if solver == "auto" else solver, settings)
        used.check_side(parsed.m)
    for path in (output, masked_weights, csv):
        if path is not None:
            check_output(path, overwrite)
    source = open_weights(file)
    selection = select_layers(source, include, exclude, regex=regex, groups=parse_groups(groups))
    store = PartialStore(output)
    records: list[MaskRecord] = []
    resumed = 0
    try:
        with _progress() as bar:
            task = bar.add_task("", total=sum(_num_blocks(layer, parsed) for layer in selection.layers))
            for layer in selection.layers:
                bar.update(task, description=layer.name)
                tensor = source.read(layer.name)
                job = _job(layer, parsed, used, certify)
                sha256 = tensor.sha256()
                record = store.get(layer.name, job, sha256)
                resumed += record is not None
                if record is None:
                    solution = _solve_layer(layer, tensor, parsed, used, certify, lambda n: bar.advance(task, n))
                    record = _record(layer, solution, used, job, sha256)
                    store.put(record)
                else:
                    bar.advance(task, _num_blocks(layer, parsed))
                records.append(record)
    except KeyboardInterrupt as error:
        complain(
            f"interrupted; {output} was not written. {len(records)} of {len(selection.layers)} layers are kept in "
            f"{store.folder}: run the same command to go on"
        )
        raise typer.Exit(Code.INTERRUPTED) from error
    if masked_weights is not None:
        write_masked_weights(masked_weights, source, {record.name: record.mask for record in records}, overwrite)
    if csv is not None:
        write_csv(csv, [{"layer": record.name} | record.metadata() for record in records])
    write_masks(output, records, overwrite)
    store.discard()
    if resumed:
        note(f"{resumed} layers were finished in an earlier run")
    if json:
        show_json(_document(output, records, selection.skipped))
    else:
        _show(output, records, selection.skipped)


def _progress() -> Progress:
    console = stderr()
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks"),
        TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True,
    )  # fmt: skip


def _num_blocks(layer: Layer, pattern: Pattern) -> int:
    tiling = Tiling(layer.shape, pattern, layer.groups)
    return sum(tiling.num_matrices * region.grid[0] * region.grid[1] for region in tiling.regions())


def _job(layer: Layer, pattern: Pattern, solver: Solver | None, certify: bool) -> str:
    """All that the mask of a layer depends on, its weights aside."""
    text = "auto" if solver is None else f"{solver.name} {settings_text(solver)}"
    return f"{pattern} groups={layer.groups} {text} certify={certify}"


def _solve_layer(
    layer: Layer,
    tensor: Tensor,
    pattern: Pattern,
    solver: Solver | None,
    certify: bool,
    progress: Callable[[int], object],
) -> Solution:
    try:
        return tmask.solve(
            tensor.values(), pattern, solver or "auto", groups=layer.groups, certify=certify, progress=progress
        )
    except tmask.TmaskError as error:
        raise type(error)(f"layer {layer.name!r}: {error}") from error


def _record(layer: Layer, solution: Solution, solver: Solver | None, job: str, sha256: str) -> MaskRecord:
    return MaskRecord(
        name=layer.name,
        mask=solution.mask,
        pattern=solution.pattern,
        groups=layer.groups,
        solver=solution.solver,
        settings="" if solver is None else settings_text(solver),
        objective=solution.objective,
        dual_bound=solution.dual_bound,
        total=solution.total,
        status=str(solution.status),
        seconds=solution.seconds,
        weights_sha256=sha256,
        job=job,
    )


def _document(output: Path, records: list[MaskRecord], skipped: list[Skipped]) -> dict[str, object]:
    return {
        "output": str(output),
        "layers": {record.name: record.metadata() for record in records},
        "skipped": {item.name: item.reason for item in skipped},
    }


def _show(output: Path, records: list[MaskRecord], skipped: list[Skipped]) -> None:
    rows = [
        {
            "layer": record.name,
            "shape": "x".join(map(str, record.mask.shape)),
            "objective": f"{record.objective:.6g}",
            "retained": percent(record.objective / record.total if record.total else 1.0),
            "proven gap": percent(optimality_gap(record.objective, record.dual_bound), 4),
            "status": record.status,
            "seconds": f"{record.seconds:.3g}",
        }
        for record in records
    ]
    objective, total = sum(r.objective for r in records), sum(r.total for r in records)
    bounds = [r.dual_bound for r in records if r.dual_bound is not None]
    bound = sum(bounds) if len(bounds) == len(records) else None
    rows.append(
        {
            "layer": "all",
            "shape": "",
            "objective": f"{objective:.6g}",
            "retained": percent(objective / total if total else 1.0),
            "proven gap": percent(optimality_gap(objective, bound), 4),
            "status": "",
            "seconds": f"{sum(r.seconds for r in records):.3g}",
        }
    )
    show_table(f"{records[0].pattern} by {records[0].solver} -> {output}", rows, left=("layer", "status"))
    if skipped:
        reasons: dict[str, list[str]] = {}
        for item in skipped:
            reasons.setdefault(item.reason, []).append(item.name)
        skipped_rows = [{"skipped": reason, "tensors": ", ".join(names)} for reason, names in reasons.items()]
        show_table("Without a mask", skipped_rows, left=("skipped", "tensors"))
