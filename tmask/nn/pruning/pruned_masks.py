"""The masks of a pruned model as a mask file has them, with what is known of each on the weights as they are now."""

from __future__ import annotations

from torch import nn

from tmask.blocks.pattern import Pattern
from tmask.files.masks import MaskRecord
from tmask.files.packed_mask import PackedMask
from tmask.files.tensors import from_torch
from tmask.judging.solution import Status
from tmask.nn.calibration.linear_view import CONVOLUTIONS
from tmask.nn.fitting.pruning_report import PruningReport
from tmask.solving.api import certify


def mask_records(model: nn.Module, report: PruningReport, keep_zeros: bool = False) -> list[MaskRecord]:
    """A record for each layer that was given a transposable mask, by the name of its weight; none for those of a stack.

    Objective and bound are those of the pruned |weight|, all of which lies on the mask; not of the score by which the
    mask was found, which the weights before pruning had.

    Args:
        model: as it was pruned, on the CPU.
        report: of that pruning.
        keep_zeros: whether it was asked for, so that lines may keep fewer than n.
    """
    records = []
    for row in report.layers:
        # A mask file promises transposable masks, and of a parameter that is a matrix or a convolution's weight.
        if not (row.pattern and row.transposable) or row.layer not in report.masks:
            continue
        module = model.get_submodule(row.layer.rpartition(".")[0])
        mask, pattern = report.masks[row.layer].cpu().numpy(), Pattern.parse(row.pattern)
        tensor = from_torch(model.get_parameter(row.layer))
        groups = module.groups if isinstance(module, CONVOLUTIONS) else 1
        # Anew, on the weights that are written beside it: that is what a reader of the file can check.
        proof = certify(tensor.values(), mask, pattern, groups=groups, layout="convolution", at_most=keep_zeros)
        status = Status.OPTIMAL if proof.optimal else Status.FEASIBLE
        records.append(
            MaskRecord(
                name=row.layer,
                packed=PackedMask.of(mask),
                pattern=pattern,
                groups=groups,
                layout=proof.layout,
                solver=row.solver,
                settings="",
                objective=proof.objective,
                dual_bound=proof.dual_bound,
                total=proof.total,
                status=str(status if proof.feasible else Status.UNDERFILLED),
                seconds=row.seconds,
                weights_sha256=tensor.sha256(),
                at_most=keep_zeros,
            )
        )
    return records
