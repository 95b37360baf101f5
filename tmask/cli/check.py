"""`tmask check`: a mask file against the weights that it was made for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

import tmask
from tmask.cli.options import Json
from tmask.cli.report import Code, complain, percent, reports_errors, show_json, show_table
from tmask.errors import FileFormatError
from tmask.files.masks import MaskRecord, check_belongs, read_masks
from tmask.files.weights import WeightFile, open_weights


@reports_errors
def check(
    masks: Annotated[Path, typer.Argument(help="A mask file, as `tmask solve` writes it.")],
    weights: Annotated[Path, typer.Argument(help="The weights that it was made for.")],
    json: Json = False,
) -> None:
    """Verify a mask file: made for these weights, transposable, its objective as recorded, its gap proven anew."""
    source = open_weights(weights)
    results = [_check(record, source) for record in read_masks(masks).values()]
    problems = {result["layer"]: result["problem"] for result in results if result["problem"]}
    if json:
        show_json({"ok": not problems, "layers": results})
    else:
        rows = [
            {
                "layer": result["layer"],
                "pattern": result["pattern"],
                "verdict": result["verdict"],
                "retained": percent(result["retained"]),
                "proven gap": percent(result["optimality_gap"], 4),
            }
            for result in results
        ]
        show_table(f"{masks} against {weights}", rows, left=("layer", "verdict"))
    for layer, problem in problems.items():
        complain(f"{layer}: {problem}")
    if problems:
        raise typer.Exit(Code.CHECK_FAILED)


def _check(record: MaskRecord, source: WeightFile) -> dict[str, Any]:
    result: dict[str, Any] = {
        "layer": record.name, "pattern": str(record.pattern), "verdict": "wrong", "problem": "",
        "objective": None, "dual_bound": None, "retained": None, "optimality_gap": None,
    }  # fmt: skip
    try:
        tensor = source.read(record.name)
        check_belongs(record, tensor)
    except FileFormatError as error:
        return result | {"problem": str(error)}
    certificate = tmask.certify(tensor.values(), record.mask, record.pattern, groups=record.groups)
    result |= {
        "objective": certificate.objective,
        "dual_bound": certificate.dual_bound,
        "retained": certificate.retained,
        "optimality_gap": certificate.optimality_gap,
    }
    if not math.isclose(certificate.objective, record.objective, rel_tol=1e-9):
        return result | {"problem": f"keeps {certificate.objective:.9g}, but {record.objective:.9g} is recorded"}
    if not certificate.feasible:
        # An underfilled mask that says so is no fault of the file, but it is not transposable all the same.
        return result | {"verdict": record.status, "problem": certificate.violation}
    return result | {"verdict": "optimal" if certificate.optimal else "feasible"}
