"""One layer: what it is to become, its new weight, and what goes with that into its bias and batch norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batch_norm import far_from, set_statistics
from tmask.nn.calibration.gram import Gram
from tmask.nn.fitting.layer_masks import FoundMask
from tmask.nn.fitting.prunable import Prunable
from tmask.nn.fitting.report import LayerPruning


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


def without_mean(layer: Prunable, gram: Gram, update_bias: bool, update_batch_norm: bool) -> Gram:
    """The sums that a weight is fitted to.

    A bias is refitted, and a batch norm that alone reads the output takes off the mean: either way the mean of the
    output need not be fitted.
    """
    by_bias = update_bias and layer.view.module.bias is not None
    by_norm = update_batch_norm and layer.batch_norm is not None and layer.only_reader
    return gram.centred() if by_bias or by_norm else gram


def fit_layer(
    plan: Plan, gram: Gram, method: Method, update_bias: bool, update_batch_norm: bool
) -> tuple[LayerPruning, Tensor]:
    """Fit one layer and write it into its module, with its bias and the statistics of the batch norm behind it.

    Returns:
        What was done, and the mask in the shape of the weight.
    Raises:
        InvalidProblemError: weights, biases or statistics that are not finite, and what the method raises.
    """
    view, module = plan.layer.view, plan.layer.view.module
    bias = module.bias if update_bias else None
    norm = plan.layer.batch_norm if update_batch_norm else None
    free = without_mean(plan.layer, gram, update_bias, update_batch_norm)
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
