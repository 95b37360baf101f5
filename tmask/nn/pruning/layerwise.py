"""The way through a model that all post-training methods share: one layer after the other, in place, or not at all."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from tmask.errors import InvalidProblemError, TmaskError
from tmask.nn.calibration.batch_norm import recalibrate
from tmask.nn.calibration.batches import Calibration, evaluating
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.recording import collect_pair
from tmask.nn.fitting.fit import LayerMethod, Plan, fit_layer
from tmask.nn.fitting.pruning_report import PruningReport
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
    skipped: dict[str, str],
    method: LayerMethod,
    settings: Settings,
) -> PruningReport:
    """Prune and refit the layers of the plans, in place. If anything fails, the model is as it was.

    Raises:
        TmaskError: what the data, the method or a solver raise, with the layer's name.
    """
    begin = time.perf_counter()
    rows, masks, norms = [], {}, 0
    with evaluating(model), _all_or_nothing(model), reporting(settings.progress, "pruning layer") as tell:
        # A copy, since the targets are those of the model before its first layer is changed.
        dense = copy.deepcopy(model) if settings.sequential else None
        layers = [plan.layer for plan in plans]
        # In one pass for all layers: memory for all their sums at once is the price of it.
        grams = {} if settings.sequential else dense_grams(model, calibration, layers, settings.grams)
        for index, plan in enumerate(plans):
            name = plan.layer.name
            tell(index, len(plans), name)
            start = time.perf_counter()
            gram = grams[name] if dense is None else collect_pair(calibration, name, model, dense, plan.layer.calls)
            try:
                row, mask = fit_layer(plan, gram, method, settings.update_bias, settings.update_batch_norm)
            except TmaskError as error:
                # Of the same type, since callers tell a missing solver from bad data by it.
                raise type(error)(f"layer {name!r}: {error}") from error
            masks[name] = mask
            rows.append(dataclasses.replace(row, seconds=time.perf_counter() - start))
        tell(len(plans), len(plans), "")
        # Once more for all: those behind no pruned layer of their own read other inputs than before, too.
        if settings.update_batch_norm:
            norms = recalibrate(model, calibration)  # type: ignore[arg-type]
    return PruningReport(tuple(rows), skipped, masks, norms, time.perf_counter() - begin)


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
