"""The way through a model that all post-training methods share: one layer after the other, in place, or not at all."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmask.errors import InvalidProblemError, TmaskError
from tmask.nn.batch_norm import far_from, recalibrate, set_statistics
from tmask.nn.calibration import Calibration, evaluating
from tmask.nn.gram import Gram
from tmask.nn.layer_masks import FoundMask
from tmask.nn.prunable import Prunable
from tmask.nn.pruning_report import LayerPruning, PruningReport
from tmask.nn.recording import collect, collect_pair
from tmask.pattern import Pattern

Progress = Callable[[int, int, str], object]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a layer is to become; pattern None for a mask from elsewhere."""

    layer: Prunable
    pattern: Pattern | None
    transposable: bool


@dataclass(frozen=True, slots=True)
class Fitted:
    """A method's answer for one layer: weights (G, R, C) float64, 0 off the mask."""

    weight: Tensor
    found: FoundMask


class Method(Protocol):
    """A layer's new weights, from its old ones (G, R, C) float64.

    Args:
        gram: all sums.
        free: those that the weights are fitted to: less the means, where a bias or a batch norm takes up the mean.
    """

    def __call__(self, plan: Plan, gram: Gram, free: Gram, weight: Tensor) -> Fitted: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How to go through the model.

    Args:
        sequential: a layer's inputs come from the model as pruned so far, and its targets from the dense one; else
            both come from the dense one, in one pass for all layers.
        update_batch_norm: recompute running statistics.
        update_bias: make up in the bias for what the mean of the outputs loses.
        grams: the dense model's, from an earlier pass, or None; not sequential then.
        progress: called with layers done, their number, and the name of the next ("" at the end).
    """

    sequential: bool
    update_batch_norm: bool
    progress: Progress | None
    update_bias: bool = True
    grams: Mapping[str, Gram] | None = None


def prune(
    model: nn.Module,
    calibration: Calibration,
    plans: list[Plan],
    skipped: dict[str, str],
    method: Method,
    settings: Settings,
) -> PruningReport:
    """Prune and refit the layers of the plans, in place. If anything fails, the model is as it was.

    Raises:
        TmaskError: what the data, the method or a solver raise, with the layer's name.
    """
    begin = time.perf_counter()
    rows, masks, norms = [], {}, 0
    tell = settings.progress or (lambda *_: None)
    with evaluating(model), _all_or_nothing(model):
        dense = copy.deepcopy(model) if settings.sequential else None
        views = {plan.layer.name: plan.layer.view for plan in plans}
        grams = settings.grams or ({} if settings.sequential else collect(calibration, model, views))
        for index, plan in enumerate(plans):
            name = plan.layer.name
            tell(index, len(plans), name)
            start = time.perf_counter()
            gram = grams[name] if dense is None else collect_pair(calibration, name, model, dense, plan.layer.calls)
            try:
                row, mask = _layer(plan, gram, method, settings)
            except TmaskError as error:
                raise type(error)(f"layer {name!r}: {error}") from error
            masks[name] = mask
            rows.append(dataclasses.replace(row, seconds=time.perf_counter() - start))
        tell(len(plans), len(plans), "")
        if settings.update_batch_norm:
            norms = recalibrate(model, calibration)  # type: ignore[arg-type]
    return PruningReport(tuple(rows), skipped, masks, norms, time.perf_counter() - begin)


def _layer(plan: Plan, gram: Gram, method: Method, settings: Settings) -> tuple[LayerPruning, Tensor]:
    """Fit one layer and write it into its module, with its bias and the statistics of the batch norm behind it."""
    view, module = plan.layer.view, plan.layer.view.module
    bias = module.bias if settings.update_bias else None
    norm = plan.layer.batch_norm if settings.update_batch_norm else None
    # A bias is refitted, and a batch norm that alone reads the output takes off the mean: either way the mean of the
    # output need not be fitted.
    free = gram.centred() if bias is not None or (norm is not None and plan.layer.only_reader) else gram
    weight = view.matrices(module.weight.detach()).to(torch.float64)
    check_finite("its weight", weight)
    fitted = method(plan, gram, free, weight)
    mask = fitted.found.mask
    target, remarks = float(free.yy.sum()), []
    if norm is not None and _foreign(norm, gram, module.bias):
        remarks.append(
            "the batch norm behind it has running statistics that are not those of the calibration data; if these are "
            "the data that matter, `recalibrate` the model before it is pruned"
        )
    masked = float(free.errors(weight * mask).sum())
    with torch.no_grad():
        module.weight.copy_(view.tensor(fitted.weight))
        stored = view.matrices(module.weight.detach()).to(torch.float64)
        check_finite(f"its new weight ({str(module.weight.dtype).removeprefix('torch.')})", stored)
        mean, variance = gram.moments(stored)
        if bias is not None:
            # The dense bias is not in y, so what is missing comes on top of it.
            bias += (gram.y / gram.samples - mean).reshape(-1)
        if module.bias is not None:
            check_finite("its bias", module.bias)
            mean = mean + module.bias.reshape(mean.shape).to(mean.dtype)
        if norm is not None:
            set_statistics(norm, mean.reshape(-1), variance.reshape(-1), gram.samples)
    most = int(mask.sum(2).max())
    if gram.samples < most:
        remarks.append(f"{gram.samples} samples for {most} weights of each output: damping decides the rest")
    row = LayerPruning(
        layer=plan.layer.name,
        shape=tuple(module.weight.shape),
        pattern="" if plan.pattern is None else str(plan.pattern),
        transposable=plan.transposable,
        density=float(mask.to(torch.float64).mean()),
        retained=fitted.found.retained,
        optimality_gap=fitted.found.optimality_gap,
        solver=fitted.found.solver,
        error_masked=masked / target if target else 0.0,
        error=float(free.errors(stored).sum()) / target if target else 0.0,
        samples=gram.samples,
        seconds=0.0,
        remark="; ".join(remarks),
    )
    return row, view.tensor(mask)


def _foreign(norm: _BatchNorm, gram: Gram, bias: Tensor | None) -> bool:
    """Whether a batch norm's statistics are far from those of the outputs that the layer had."""
    mean = gram.y / gram.samples
    variance = gram.yy / gram.samples - mean.square()
    shift = 0 if bias is None else bias.detach().reshape(mean.shape).to(mean.dtype)
    return far_from(norm, (mean + shift).reshape(-1), variance.reshape(-1))


def check_finite(what: str, tensor: Tensor) -> None:
    """Return if all entries are finite.

    Raises:
        InvalidProblemError: names what was tested.
    """
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidProblemError(f"{what} holds NaN or infinite values")


@contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers as they were, if the block does not end well; an interrupt counts as that."""
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, copied in zip(tensors, before, strict=True):
                tensor.copy_(copied)
        raise
