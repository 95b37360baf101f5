"""`tmask check`: a mask file against the weights that it was made for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

import tmask
from tmask.blocks.layouts import in_words
from tmask.cli.console import complain, note, progress_bar
from tmask.cli.exit_codes import Code, reports_errors
from tmask.cli.options import Json
from tmask.cli.output import show_json, show_table
from tmask.errors import FileFormatError, TmaskError
from tmask.files.masked_weights import check_belongs
from tmask.files.masks import MaskRecord, read_masks
from tmask.files.opening import open_weights
from tmask.files.weight_file import WeightFile
from tmask.showing.numbers import percent

# Two sums of the same numbers in another order agree better than this; another mask or bound does not.
_ROUNDING = 1e-9


@reports_errors
def check(
    masks: Annotated[Path, typer.Argument(help="A mask file, as `tmask solve` writes it.")],
    weights: Annotated[Path, typer.Argument(help="The weights that it was made for.")],
    json: Json = False,
) -> None:
    """Verify a mask file: made for these weights, transposable, its objective as recorded, its gap proven anew.

    Exit code 1 if a mask fails.
    """
    records = read_masks(masks)
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


def check_record(record: MaskRecord, source: WeightFile) -> dict[str, Any]:
    """The verdict on one mask: "optimal", "feasible", "underfilled" or "wrong"; `problem` says what is wrong."""
    result: dict[str, Any] = {
        "layer": record.name, "pattern": str(record.pattern),
        "read_as": in_words(record.mask.shape, record.layout, record.groups),
        "verdict": "wrong", "problem": "", "remark": "",
        "objective": None, "dual_bound": None, "retained": None, "optimality_gap": None,
    }  # fmt: skip
    try:
        tensor = source.read(record.name)
        check_belongs(record, tensor)
        certificate = tmask.certify(
            tensor.values(),
            record.mask,
            record.pattern,
            groups=record.groups,
            layout=record.layout,
            at_most=record.at_most,
        )
    except TmaskError as error:
        return result | {"problem": str(error)}
    result |= {
        "objective": certificate.objective,
        "dual_bound": certificate.dual_bound,
        "retained": certificate.retained,
        "optimality_gap": certificate.optimality_gap,
    }
    for name, true, recorded in (
        ("its objective", certificate.objective, record.objective),
        ("the sum of its scores", certificate.total, record.total),
    ):
        if not math.isclose(true, recorded, rel_tol=_ROUNDING):
            return result | {"problem": f"{name} is {true:.9g}, but {recorded:.9g} is recorded"}
    if not certificate.feasible:
        # An underfilled mask that says so is no fault of the file, but it is not transposable all the same.
        underfilled = record.status == tmask.Status.UNDERFILLED
        return result | {"verdict": "underfilled" if underfilled else "wrong", "problem": certificate.violation}
    if record.dual_bound is not None and record.dual_bound < certificate.objective * (1 - _ROUNDING):
        return result | {
            "problem": f"keeps {certificate.objective:.9g}, more than the recorded bound {record.dual_bound:.9g} allows"
        }
    if record.status == tmask.Status.OPTIMAL and not certificate.optimal:
        # No proof of the contrary: where no exact solver with prices is installed, bounds may be loose.
        result["remark"] = (
            f"recorded as optimal; proven here to within {percent(certificate.optimality_gap, 4)} of the optimum only"
        )
    return result | {"verdict": "optimal" if certificate.optimal else "feasible"}
