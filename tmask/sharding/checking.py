"""A mask of a file judged anew, by the weights that it was made for, a band at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

from tmask.blocks.layouts import in_words
from tmask.blocks.tiling import Tiling
from tmask.errors import InvalidProblemError, TmaskError
from tmask.files.layers import Layer
from tmask.files.masks import MaskRecord
from tmask.files.stretches import AT_ONCE, Stretch, check_digest, stretch_of
from tmask.files.tensors import Tensor, begun_digest, contents
from tmask.files.weight_file import WeightFile
from tmask.judging.solution import Certificate, Status
from tmask.judging.violation import first_violation
from tmask.judging.worth import Worth
from tmask.sharding.plan import cut
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
        certificate = _certify(record, stretch_of(record, source))
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


def _certify(record: MaskRecord, stretch: Stretch) -> Certificate:
    """Of all bands together.

    Raises:
        FileFormatError: the mask was made for other weights.
        InvalidProblemError: weights that no mask was made for.
    """
    digest = begun_digest(stretch.dtype, stretch.shape)
    try:
        found = list(_certificates(record, stretch, digest))
    except InvalidProblemError:
        # Of other weights it is no matter what is wrong with them.
        check_digest(record, stretch.sha256())
        raise
    check_digest(record, digest.hexdigest())
    worth = Worth.sum(found)
    assert worth.dual_bound is not None
    tiling = Tiling(stretch.shape, record.pattern, record.groups, record.layout, record.at_most)
    # The place in the whole, where there is one: bands count from their own first row.
    violation = "" if all(one.feasible for one in found) else first_violation(record.mask, tiling)
    return Certificate(
        objective=worth.objective,
        total=worth.total,
        dual_bound=worth.dual_bound,
        feasible=not violation,
        violation=violation,
        proven_blocks=sum(one.proven_blocks for one in found),
        num_blocks=sum(one.num_blocks for one in found),
        pattern=record.pattern,
        layout=tiling.read_as,
    )


def _certificates(record: MaskRecord, stretch: Stretch, digest: hashlib._Hash) -> Iterator[Certificate]:
    """Of each band: what is copied to judge it is never larger than a few of them. The digest gets what is read."""
    layer = Layer(record.name, stretch.shape, stretch.dtype, record.groups, record.layout)
    size = math.prod(layer.shape)
    for piece in cut(layer, math.ceil(size / AT_ONCE), record.pattern.m):
        start, stop = (0, size) if piece.band is None else piece.band.entries
        part = stretch.load(start, stop)
        digest.update(contents(part.bits))
        yield certify(
            Tensor(part.dtype, part.bits.reshape(piece.shape)).values(),
            record.packed.part(start, stop).reshape(piece.shape),
            record.pattern,
            groups=piece.groups,
            layout=piece.layout,
            at_most=record.at_most,
        )
