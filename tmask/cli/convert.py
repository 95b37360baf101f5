"""`tmask convert`: a model with unstructured sparsity into an N:M one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from tmask.cli.console import note, progress_bar
from tmask.cli.exit_codes import reports_errors
from tmask.cli.options import Csv, Exclude, Include, Json, KeepZeros, Overwrite, SolverName, Verbose, check_outputs
from tmask.cli.output import Row, show_json, show_table
from tmask.cli.selection import counted
from tmask.errors import InvalidProblemError, SolverUnavailableError
from tmask.files.csv_files import write_csv
from tmask.files.masks import write_masks
from tmask.files.outputs.names import check_csv_name, check_masks_name
from tmask.showing.numbers import number, percent

if TYPE_CHECKING:
    from tmask.nn.pruning.convert import ConversionReport


@reports_errors
def convert(
    model: Annotated[Path, typer.Argument(help="A state dict (.safetensors, .pt, ...), or a saved module.")],
    calibration: Annotated[Path, typer.Argument(help="Inputs, samples first: .npz, .npy, .pt, .safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model file to write (.safetensors, .pt).")],
    builder: Annotated[str, typer.Option("--model", help="module:function that builds a state dict's model.")] = "",
    trust: Annotated[bool, typer.Option("--trust", help="Load a saved module, which can run code in it.")] = False,
    key: Annotated[str, typer.Option(help="The inputs' name in the calibration file.")] = "",
    samples: Annotated[int, typer.Option(min=0, help="Calibration samples to use; 0 for all.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 100,
    side: Annotated[int, typer.Option("--side", "-m", min=2, max=32, help="m of N:M; each layer gets its own N.")] = 8,
    confidence: Annotated[float, typer.Option(help="Share of weights whose groups must have zeros enough.")] = 0.9,
    plain: Annotated[bool, typer.Option("--plain", help="N:M along the inputs alone, not transposable.")] = False,
    solver: SolverName = "auto",
    score: Annotated[str, typer.Option(help="magnitude, squared, wanda or obs.")] = "magnitude",
    method: Annotated[str, typer.Option(help="Refit by least-squares, adam or none.")] = "least-squares",
    damping: Annotated[float, typer.Option(min=0.0, help="How strongly weights are drawn to their start.")] = 1e-2,
    independent: Annotated[bool, typer.Option("--independent", help="All layers at once, in one pass.")] = False,
    masks: Annotated[
        Path | None, typer.Option("--masks", help="Also write the masks to this file (.safetensors).")
    ] = None,
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    keep_zeros: KeepZeros = False,
    overwrite: Overwrite = False,
    json: Json = False,
    csv: Csv = None,
    verbose: Verbose = False,
) -> None:
    """Convert an unstructured-sparse model: each layer to the N:M that its own zeros nearly satisfy, then AdaPrune.

    The first convolution and the classifier stay as they are unless they are included.
    """
    if importlib.util.find_spec("torch") is None:
        raise SolverUnavailableError('tmask convert needs torch; run: pip install "tmask[torch]"')
    # Late, since torch takes seconds to import, and `tmask --help` is to be quick.
    import torch

    from tmask.nn.calibration.file_tensors import load_inputs
    from tmask.nn.calibration.model_files import check_model_output, load_model, save_model
    from tmask.nn.pruning.convert import convert as convert_model
    from tmask.nn.pruning.pruned_masks import mask_records

    # Before the model is loaded and pruned, which can take an hour.
    check_model_output(output)
    check_outputs([model, calibration], [output, masks, csv], overwrite)
    check_csv_name(csv)
    check_masks_name(masks)
    # `tmask check` would refuse the file, which knows of transposable masks alone.
    if masks is not None and plain:
        raise InvalidProblemError("--masks writes transposable masks, which those of --plain are not; leave one out")
    loaded = load_model(model, builder, trust=trust)
    # Inputs in the model's own dtype: layers of half precision refuse float32.
    parameters = (p.dtype for p in loaded.model.parameters() if p.is_floating_point())
    inputs = load_inputs(calibration, key, samples, next(parameters, torch.float32))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress_bar(*columns) as bar:
        task = bar.add_task("reading the data", total=None)
        report = convert_model(
            loaded.model,
            list(torch.split(inputs, batch)),
            m=side,
            confidence=confidence,
            transposable=not plain,
            solver=solver,
            score=score,
            method=method,  # type: ignore[arg-type]  # checked by convert
            sequential=not independent,
            damping=damping,
            include=include,
            exclude=exclude,
            keep_zeros=keep_zeros,
            progress=lambda done, total, name: bar.update(
                task, description=name or "batch norms", completed=done, total=total
            ),
        )
    if csv is not None:
        write_csv(csv, report.table(), overwrite)
    loaded.restore_dtypes()
    if masks is not None:
        records = mask_records(loaded.model, report.pruning, keep_zeros)
        write_masks(masks, records, overwrite)
        if missing := len(report.pruning.layers) - len(records):
            note(f"{masks} lacks the masks of {missing} matrices in stacks, which mask files do not hold")
    save_model(output, loaded.model, whole=loaded.whole, overwrite=overwrite)
    _show(output, report, json, verbose)


def _show(output: Path, report: ConversionReport, json: bool, verbose: bool) -> None:
    pruning = report.pruning
    if json:
        show_json(
            {
                "output": str(output),
                "layers": report.table(),
                "skipped": pruning.skipped,
                "batch_norms": pruning.batch_norms,
                "seconds": pruning.seconds,
            }
        )
        return
    show_table(f"Converted, written to {output}", [_words(row) for row in report.table()], texts=("layer",))
    for row in pruning.layers:
        if row.remark:
            note(f"{row.layer}: {row.remark}")
    if pruning.skipped:
        note(f"{len(pruning.skipped)} stay as they were: {counted(pruning.skipped, verbose)}")


def _words(row: dict[str, Any]) -> Row:
    return {
        "layer": row["layer"],
        "zeros": percent(row["zeros"]),
        "pattern": row["pattern"],
        "expected fit": percent(row["expected"]),
        "observed fit": percent(row["observed"]),
        "retained": percent(row["retained"]),
        "error, masked": percent(row["error_masked"]),
        "error, refitted": percent(row["error"]),
        "seconds": number(row["seconds"]),
    }
