"""A mask of a file judged anew, by the weights that it was made for."""

from __future__ import annotations

import math
from typing import Any

from tmask.blocks.layouts import in_words
from tmask.errors import TmaskError
from tmask.files.masked_weights import check_belongs
from tmask.files.masks import MaskRecord
from tmask.files.weight_file import WeightFile
from tmask.judging.solution import Status
from tmask.showing.numbers import percent
from tmask.solving.api import certify

# Two sums of the same numbers in another order agree better than this; another mask or bound does not.
_ROUNDING = 1e-9


def check_record(record: MaskRecord, source: WeightFile) -> dict[str, Any]:
    """The verdict on one mask: "optimal", "feasible", "underfilled" or "wrong"; `problem` says what is wrong."""
    result: dict[str, Any] = {
        "layer": record.name, "pattern": str(record.pattern),
        "read_as": in_words(record.packed.shape, record.layout, record.groups),
        "verdict": "wrong", "problem": "", "remark": "",
        "objective": None, "dual_bound": None, "retained": None, "optimality_gap": None,
    }  # fmt: skip
    try:
        tensor = source.read(record.name)
        check_belongs(record, tensor)
        certificate = certify(
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
        underfilled = record.status == Status.UNDERFILLED
        return result | {"verdict": "underfilled" if underfilled else "wrong", "problem": certificate.violation}
    if record.dual_bound is not None and record.dual_bound < certificate.objective * (1 - _ROUNDING):
        return result | {
            "problem": f"keeps {certificate.objective:.9g}, more than the recorded bound {record.dual_bound:.9g} allows"
        }
    if record.status == Status.OPTIMAL and not certificate.optimal:
        # No proof of the contrary: where no exact solver with prices is installed, bounds may be loose.
        result["remark"] = (
            f"recorded as optimal; proven here to within {percent(certificate.optimality_gap, 4)} of the optimum only"
        )
    return result | {"verdict": "optimal" if certificate.optimal else "feasible"}
