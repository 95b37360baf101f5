"""The way through a model that all post-training methods share: one layer after the other, in place, or not at all."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError, TmaskError
from tmask.nn.calibration.batch_norm import recalibrate
from tmask.nn.calibration.batches import Calibration, evaluating
from tmask.nn.calibration.experts import one_by_one
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.recording import collect, collect_pair
from tmask.nn.calibration.stored_matrix import StoredMatrix
from tmask.nn.fitting.fit import LayerMethod, Plan, fit_layer
from tmask.nn.fitting.prunable import Prunable, no_layer
from tmask.nn.fitting.pruning_report import PruningReport
from tmask.nn.names import ByLayer, parameter_of
from tmask.nn.pruning.grams import dense_grams
from tmask.showing.progress import Progress, reporting


@dataclass(frozen=True, slots=True)
class Settings:
    """How to go through the model.

    Args:
        sequential: a layer's inputs come from the model as pruned so far, and its targets from the dense one; else
            both come from the dense one, in one pass for all layers.
        update_batch_norm: recompute running statistics.
        update_bias: make up in the bias for what the mean of the outputs loses.
        grams: the dense model's, from an earlier pass, or None; not sequential then.
        progress: True for a bar; or called with layers done, their number, and the name of the next ("" at the end).
    Raises:
        InvalidProblemError: grams that would be ignored.
    """

    sequential: bool
    update_batch_norm: bool
    progress: Progress
    update_bias: bool = True
    grams: Mapping[str, Gram] | None = None

    def __post_init__(self) -> None:
        if self.sequential and self.grams is not None:
            raise InvalidProblemError("grams are those of the dense model; give sequential=False to use them")


def prune(
    model: nn.Module,
    calibration: Calibration,
    plans: list[Plan],
    skipped: ByLayer[str],
    method: LayerMethod,
    settings: Settings,
) -> PruningReport:
    """Prune and refit the layers of the plans, in place. If anything fails, the model is as it was.

    Raises:
        TmaskError: what the data, the method or a solver raise, with the layer's name.
    """
    begin = time.perf_counter()
    rows, masks, norms = [], ByLayer[Tensor](), 0
    with (
        evaluating(model),
        one_by_one(model),
        _all_or_nothing(model),
        reporting(settings.progress, "pruning layer") as tell,
    ):
        # A copy, since the targets are those of the model before its first layer is changed.
        dense = copy.deepcopy(model) if settings.sequential else None
        # In one pass for all layers: memory for all their sums at once is the price of it.
        grams = (
            {} if dense is not None else dense_grams(model, calibration, [plan.layer for plan in plans], settings.grams)
        )
        for index, plan in enumerate(plans):
            name = plan.layer.name
            tell(index, len(plans), name)
            start = time.perf_counter()
            if dense is not None:
                grams = _sequential(plan, plans, grams, calibration, model, dense)
            gram = grams[name]
            if not gram.samples:  # an expert, see `collect`
                skipped[name] = "no sample of the calibration data comes to it"
                continue
            try:
                row, mask = fit_layer(plan, gram, method, settings.update_bias, settings.update_batch_norm)
            except TmaskError as error:
                # Of the same type, since callers tell a missing solver from bad data by it.
                raise type(error)(f"layer {name!r}: {error}") from error
            _note(masks, plan.layer, mask)
            rows.append(dataclasses.replace(row, seconds=time.perf_counter() - start))
        tell(len(plans), len(plans), "")
        if not rows:
            raise no_layer(skipped)
        # Once more for all: those behind no pruned layer of their own read other inputs than before, too.
        if settings.update_batch_norm:
            norms = recalibrate(model, calibration)  # type: ignore[arg-type]
    return PruningReport(tuple(rows), skipped, masks, norms, time.perf_counter() - begin)


def _sequential(
    plan: Plan,
    plans: Sequence[Plan],
    grams: Mapping[str, Gram],
    calibration: Calibration,
    model: nn.Module,
    dense: nn.Module,
) -> Mapping[str, Gram]:
    """The sums of a layer on what those before it give; of experts, all of one kind at once.

    What an expert reads is chosen by the data, so that samples of two models could not be paired: its targets are what
    it gives itself, which is dense still.
    """
    layer = plan.layer
    if layer.name in grams:
        return grams
    if not layer.routed:
        return {layer.name: collect_pair(calibration, layer.name, layer.view, model, dense, layer.calls)}
    like = {each.layer.name: each.layer.view for each in plans if each.layer.stage == layer.stage}
    return collect(calibration, model, like)


def _note(masks: dict[str, Tensor], layer: Prunable, mask: Tensor) -> None:
    """A mask under the parameter's name, those of a stack together."""
    view, name = layer.view, parameter_of(layer.name)
    if isinstance(view, StoredMatrix) and view.routed:
        whole = view.model.get_parameter(view.key.parameter)
        if name not in masks:
            masks[name] = torch.ones(whole.shape, dtype=torch.bool, device=whole.device)
        masks[name][view.key.index] = mask
    else:
        masks[name] = mask.contiguous()


@contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers as they were, if the block does not end well; an interrupt counts as that."""
    tensors = [*model.parameters(), *model.buffers()]
    # Buffers too, since batch norms are set layer by layer on the way.
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            # Into the tensors themselves: optimizers and tied layers hold on to these.
            for tensor, copied in zip(tensors, before, strict=True):
                tensor.copy_(copied)
        raise
