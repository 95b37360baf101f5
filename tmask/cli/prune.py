"""`tmask prune`: a language model in a directory pruned into another one, block by block."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tmask.allocation.dense_share import choose_dense
from tmask.cli.console import note
from tmask.cli.exit_codes import reports_errors
from tmask.cli.language_models import (
    DeviceOption,
    DtypeOption,
    FieldOption,
    check_directory,
    need_libraries,
    read_device,
    read_dtype,
)
from tmask.cli.options import Json, KeepZeros, SolverName
from tmask.cli.output import show_json, show_table
from tmask.cli.pruning.running import ShownRun
from tmask.cli.pruning.staying_dense import check_share, left_dense, measure
from tmask.cli.pruning.targets import read_target, unused_patterns
from tmask.cli.rows.prune_rows import block_rows, document, kind_rows, losses_and_sizes, skipped_rows
from tmask.cli.settings import read_settings
from tmask.errors import InvalidProblemError, OutputError
from tmask.files.outputs.names import check_directory_name
from tmask.plots.pruning import draw_pruning

if TYPE_CHECKING:
    from tmask.nn.blockwise.blockwise_report import BlockwiseReport
    from tmask.nn.methods.method import Method

_GIB = 2**30


@reports_errors
def prune(
    model: Annotated[Path, typer.Argument(help="Directory of a Hugging Face model, with safetensors and tokenizer.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The directory to make.")],
    calibration: Annotated[Path, typer.Option("--calibration", "-c", help="A text file, or JSON lines (.jsonl).")],
    pattern: Annotated[str, typer.Option("--pattern", "-p", help="N:M, N weights kept of every M.")] = "",
    density: Annotated[
        float | None, typer.Option("--density", "-d", help="In place of N:M: the share that unstructured masks keep.")
    ] = None,
    patterns: Annotated[
        Path | None, typer.Option("--patterns", help="In place of N:M: what `tmask allocate` wrote (--json or --csv).")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="N:M along the inputs alone, not transposable.")] = False,
    solver: SolverName = "auto",
    method: Annotated[str, typer.Option(help="magnitude, wanda, adaprune, sparsegpt or alps.")] = "alps",
    settings: Annotated[list[str], typer.Option("--set", help="name=value of the method (repeatable).")] = [],  # noqa: B006
    goal: Annotated[
        str, typer.Option(help="dense: what the dense model has; layer: what the dense layer gives.")
    ] = "dense",
    in_order: Annotated[bool, typer.Option("--in-order/--at-once", help="The parts of a block in turn.")] = True,
    block_refit: Annotated[
        bool, typer.Option("--block-refit", help="Refit what each attention and MLP leaves behind.")
    ] = False,
    tune: Annotated[int, typer.Option(min=0, help="Epochs of gradient steps on each pruned block.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="Of the calibration text.")] = 32,
    length: Annotated[int, typer.Option(min=1, help="Tokens in a sample.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the draw of samples.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 8,
    by_document: Annotated[bool, typer.Option("--by-document", help="A sample of each document; else packed.")] = False,
    field: FieldOption = "text",
    exclude: Annotated[
        list[str], typer.Option("--exclude", help="Glob on names of weights that stay dense (repeatable).")
    ] = [],  # noqa: B006
    keep_dense: Annotated[
        list[str], typer.Option("--keep-dense", help="Name of weights that stay dense, or its end (repeatable).")
    ] = [],  # noqa: B006
    keep_zeros: KeepZeros = False,
    dense_share: Annotated[
        float | None,
        typer.Option("--dense-share", help="Share of the weights to leave dense where errors are largest."),
    ] = None,
    blocks: Annotated[str, typer.Option(help="Name of the list of blocks, where it is not the longest.")] = "",
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    memory: Annotated[
        float | None, typer.Option(min=0, help="GiB of hidden states to hold, the rest in files; else all.")
    ] = None,
    json: Json = False,
) -> None:
    """Prune a language model with a text to calibrate on; the model is never loaded whole.

    Interrupted with Ctrl-C, it keeps the finished blocks; the same command goes on from there. The output has the
    names, types and shards of the model; masks and report are in its folder `tmask`.
    """
    need_libraries("prune")
    check_directory(model)
    target = read_target(pattern, density, patterns, plain, solver)
    if dense_share is not None:
        check_share(dense_share, target)
    if goal not in ("dense", "layer"):
        raise InvalidProblemError(f"--goal {goal!r}: choose dense or layer")
    check_directory_name(output)
    if output.exists():
        raise OutputError(f"{output} exists already; choose another name, or remove it")
    from tmask.nn.blockwise.block_refit import BlockRefit
    from tmask.nn.blockwise.entry import prune_blocks
    from tmask.nn.blockwise.tuning import Tuning

    used, number_type, place = _method(method, settings), read_dtype(dtype), read_device(device)
    dense = left_dense(model, exclude, keep_dense)
    held = _batches(calibration, model, samples, length, seed, batch, by_document, field)
    batches = [{key: value.to(place) for key, value in one.items()} for one in held]
    chosen: list[str] = []
    if dense_share is not None:
        rows = measure(model, output, batches, target, plain, blocks, dense, keep_zeros, number_type, place)
        chosen = choose_dense(*losses_and_sizes(rows), dense_share)
    with ShownRun(output) as run:
        report = prune_blocks(
            model,
            batches,
            target,
            output=output,
            method=used,
            transposable=not plain,
            solver=solver,
            goal=goal,  # type: ignore[arg-type]  # checked above
            by_stage=in_order,
            block_refit=BlockRefit() if block_refit else None,
            tuning=Tuning(tune) if tune else None,
            keep_zeros=keep_zeros,
            blocks=blocks,
            exclude=[*dense, *chosen],
            memory=float("inf") if memory is None else memory * _GIB,
            dtype=number_type,
            device=place,
            progress=run.tell,
        )
    _draw(output, report, f"{used.name}, {output.name}")
    _show(output, report, used.name, unused_patterns(target, report, chosen), json)


def _method(name: str, settings: Sequence[str]) -> Method:
    from tmask.nn.methods.registry import get_method, method_class

    return get_method(name, **read_settings(method_class(name), settings))


def _batches(
    text: Path, model: Path, samples: int, length: int, seed: int, batch: int, by_document: bool, field: str
) -> list[dict[str, Any]]:
    """The calibration samples, which the model must be able to read."""
    from transformers import AutoConfig

    from tmask.nn.calibration.language_models import check_readable
    from tmask.nn.calibration.text import calibration_text

    batches = calibration_text(
        text,
        model,
        samples=samples,
        length=length,
        seed=seed,
        batch=batch,
        packing="documents" if by_document else "packed",
        field=field,
    )
    try:
        config = AutoConfig.from_pretrained(str(model), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidProblemError(f"{model}: transformers cannot read its config: {error}") from error
    check_readable(config, length, max(int(one["input_ids"].max()) for one in batches))
    return batches


def _draw(output: Path, report: BlockwiseReport, title: str) -> None:
    """The picture beside the report, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is not None:
        draw_pruning(report.document(), output / "tmask" / "report.svg", title=f"Errors relative to dense: {title}")


def _show(output: Path, report: BlockwiseReport, method: str, unused: Sequence[str], json: bool) -> None:
    if json:
        show_json(document(output, report, unused))
        return
    show_table(f"Pruned by {method}, written to {output}", kind_rows(report.rows), texts=("layers",))
    if behind := block_rows(report):
        show_table("After each block, to the dense model", behind, texts=("behind",))
    if report.skipped:
        show_table("Left dense", skipped_rows(report.skipped), texts=("because", "weights"))
    if unused:
        note(f"{len(unused)} patterns are for weights that were not pruned: {', '.join(unused[:5])}")
    note(f"masks and report are in {output / 'tmask'}")
