"""`tmask prune`: a language model in a directory pruned into another one, block by block."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from tmask.allocation.dense_share import choose_dense
from tmask.blocks.pattern import Pattern
from tmask.cli.console import note, progress_bar
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
from tmask.cli.options import Json, KeepZeros, SolverName, make_solver
from tmask.cli.output import show_json, show_table
from tmask.cli.rows.prune_rows import block_rows, document, kind_rows, losses_and_sizes, read_patterns, skipped_rows
from tmask.cli.settings import read_settings
from tmask.errors import InvalidProblemError, OutputError
from tmask.files.outputs.names import check_directory_name
from tmask.plots.pruning import draw_pruning

if TYPE_CHECKING:
    from tmask.nn.blockwise.blockwise_report import BlockwiseReport
    from tmask.nn.blockwise.choice import MatrixPatterns
    from tmask.nn.blockwise.pruning import MatrixPruning
    from tmask.nn.methods.method import Method

_GIB = 2**30


@reports_errors
def prune(
    model: Annotated[Path, typer.Argument(help="Directory of a Hugging Face model, with safetensors and tokenizer.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory to make.")],
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
    target = _target(pattern, density, patterns, plain, solver)
    if dense_share is not None:
        _check_share(dense_share, pattern)
    if goal not in ("dense", "layer"):
        raise InvalidProblemError(f"--goal {goal!r}: choose dense or layer")
    check_directory_name(output)
    if output.exists():
        raise OutputError(f"{output} exists already; choose another name, or remove it")
    from tmask.nn.blockwise.entry import prune_blocks
    from tmask.nn.blockwise.tuning import Tuning

    used, number_type, place = _method(method, settings), read_dtype(dtype), read_device(device)
    dense = _left_dense(model, exclude, keep_dense)
    held = _batches(calibration, model, samples, length, seed, batch, by_document, field)
    batches = [{key: value.to(place) for key, value in one.items()} for one in held]
    if dense_share is not None:
        rows = _measure(model, output, batches, pattern, plain, blocks, dense, number_type, place)
        dense += choose_dense(*losses_and_sizes(rows), Pattern.parse(pattern), dense_share)
    with _Run(output) as run:
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
            tuning=Tuning(tune) if tune else None,
            keep_zeros=keep_zeros,
            blocks=blocks,
            exclude=dense,
            memory=float("inf") if memory is None else memory * _GIB,
            dtype=number_type,
            device=place,
            progress=run.tell,
        )
    _draw(output, report, f"{used.name}, {output.name}")
    _show(output, report, used.name, _unused(target, report), json)


def _target(pattern: str, density: float | None, patterns: Path | None, plain: bool, solver: str) -> MatrixPatterns:
    """What masks to find: exactly one of three ways to say so, and no setting that would be ignored."""
    if [bool(pattern), density is not None, patterns is not None].count(True) != 1:
        raise InvalidProblemError("give one of --pattern N:M, --density SHARE and --patterns FILE")
    if solver != "auto" and (plain or density is not None):
        raise InvalidProblemError("--solver finds transposable masks; plain and unstructured ones are found by sorting")
    if density is not None:
        if plain:
            raise InvalidProblemError("--plain goes with N:M; the masks of --density have no groups")
        if not 0 < density <= 1:
            raise InvalidProblemError(f"--density {density:g} must be above 0 and at most 1")
        return float(density)
    target: Mapping[str, Pattern] | Pattern = Pattern.parse(pattern) if patterns is None else read_patterns(patterns)
    used = make_solver(solver, [])  # an unknown one is refused before the work
    if used is not None:
        for one in {target} if isinstance(target, Pattern) else {*target.values()}:
            used.check_side(one.m)
    return target


def _check_share(share: float, pattern: str) -> None:
    """Refuse, before the work, a share of weights that cannot stay dense."""
    if not 0 < share < 1:
        raise InvalidProblemError(f"--dense-share {share:g} must be above 0 and below 1")
    if not pattern:
        raise InvalidProblemError("--dense-share goes with --pattern: losses are measured under one pattern")


def _method(name: str, settings: Sequence[str]) -> Method:
    from tmask.nn.methods.registry import get_method, method_class

    return get_method(name, **read_settings(method_class(name), settings))


def _left_dense(model: Path, exclude: Sequence[str], keep_dense: Sequence[str]) -> list[str]:
    """Full names of the weights that are not to be pruned.

    Raises:
        InvalidProblemError: a name or a glob that fits none.
    """
    if not (exclude or keep_dense):
        return []
    import fnmatch

    from tmask.nn.blockwise.skeleton import skeleton

    names = [name for name, parameter in skeleton(model).named_parameters() if parameter.ndim >= 2]
    chosen: dict[str, None] = {}
    for option, texts in (("--exclude", exclude), ("--keep-dense", keep_dense)):
        for text in texts:
            ends = f"*.{text}" if option == "--keep-dense" else text
            globs = (text, f"{text}.weight", ends, f"{ends}.weight")
            found = [name for name in names if any(fnmatch.fnmatchcase(name, glob) for glob in globs)]
            if not found:
                raise InvalidProblemError(f"{option} {text!r} fits no weight; one is named {names[-1]!r}")
            chosen |= dict.fromkeys(found)
    return [*chosen]


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
        config = AutoConfig.from_pretrained(str(model), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidProblemError(f"{model}: transformers cannot read its config: {error}") from error
    check_readable(config, length, max(int(one["input_ids"].max()) for one in batches))
    return batches


def _measure(
    model: Path,
    output: Path,
    batches: list[dict[str, Any]],
    pattern: str,
    plain: bool,
    blocks: str,
    dense: Sequence[str],
    dtype: Any,
    device: Any,
) -> tuple[MatrixPruning, ...]:
    """What each weight loses: a quick run of its own, whose output is dropped."""
    from tmask.nn.blockwise.entry import prune_blocks

    trial = output.with_name(f"{output.name}.measured")
    shutil.rmtree(trial, ignore_errors=True)  # of a run that was killed when it had just measured
    with _Run(trial) as run:
        report = prune_blocks(
            model,
            batches,
            pattern,
            output=trial,
            method="wanda",
            transposable=not plain,
            goal="layer",
            by_stage=False,
            blocks=blocks,
            exclude=dense,
            dtype=dtype,
            device=device,
            progress=run.tell,
        )
    shutil.rmtree(trial)
    return report.rows


class _Run:
    """Shows the blocks that are done; where a run ends early, adds to the error what it leaves behind."""

    def __init__(self, output: Path) -> None:
        self.partial = output.with_name(f"{output.name}.partial")
        self.done, self.count = 0, 0
        text = TextColumn("{task.description}", markup=False)
        self.bar = progress_bar(text, BarColumn(), MofNCompleteColumn(), TextColumn("blocks"), TimeRemainingColumn())

    def __enter__(self) -> Self:
        if self.partial.exists():
            note(f"{self.partial} is there from an earlier run")
        self.bar.start()
        self.task = self.bar.add_task("reading the text through the model", total=None)
        return self

    def tell(self, done: int, count: int, name: str) -> None:
        """Blocks done, their number, and the next."""
        self.done, self.count = done, count
        self.bar.update(self.task, description=name, completed=done, total=count)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.bar.stop()
        # Before the first block an error speaks for itself, and the folder may be another run's.
        if error is None or not (self.count or isinstance(error, KeyboardInterrupt)) or not self.partial.exists():
            return
        error.add_note(
            f"{self.done} of {self.count or '?'} blocks are finished and kept in {self.partial}; the same command goes "
            "on from there"
        )


def _unused(target: MatrixPatterns, report: BlockwiseReport) -> list[str]:
    """Names in a file of patterns that no pruned matrix has."""
    if not isinstance(target, Mapping):
        return []
    known = {row.name.partition("[")[0].removesuffix(".weight") for row in report.rows}
    return [name for name in target if name.removesuffix(".weight") not in known]


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
