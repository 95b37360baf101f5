"""One layer: what it is to become, its new weight, and what goes with that into its bias and batch norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.statistics import far_from, set_statistics
from tmask.nn.fitting.layer_masks import LayerMask
from tmask.nn.fitting.prunable import Prunable
from tmask.nn.fitting.pruning_report import LayerPruning

_FOREIGN = (
    "the batch norm behind it has running statistics that are not those of the calibration data; if these are the data "
    "that matter, `recalibrate` the model before it is pruned"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a layer is to become; pattern None for a mask from elsewhere."""

    layer: Prunable
    pattern: Pattern | None


@dataclass(frozen=True, slots=True)
class Fitted:
    """A method's answer for one layer: weights (G, R, C) float64, 0 off the mask."""

    weight: Tensor
    found: LayerMask


class LayerMethod(Protocol):
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
    by_bias = update_bias and layer.view.bias is not None
    by_norm = update_batch_norm and layer.batch_norm is not None and layer.only_reader
    return gram.centred() if by_bias or by_norm else gram


def fit_layer(
    plan: Plan, gram: Gram, method: LayerMethod, update_bias: bool, update_batch_norm: bool
) -> tuple[LayerPruning, Tensor]:
    """Fit one layer and write it into its module, with its bias and the statistics of the batch norm behind it.

    Returns:
        What was done, and the mask in the shape in which the weight is stored.
    Raises:
        InvalidProblemError: weights, biases or statistics that are not finite, and what the method raises.
    """
    layer, view = plan.layer, plan.layer.view
    norm = layer.batch_norm if update_batch_norm else None
    free = without_mean(layer, gram, update_bias, update_batch_norm)
    weight = view.weight
    check_finite("its weight", weight)
    fitted = method(plan, gram, free, weight)
    found = fitted.found
    # Before anything is written: the remark is of the outputs under the bias that the layer had.
    remarks = [_FOREIGN] if norm is not None and _foreign(norm, gram, view.bias) else []
    most = int(found.mask.sum(2).max())
    if gram.samples < most:
        remarks.append(f"{gram.samples} samples for {most} weights of each output: damping decides the rest")
    # Of a float64 weight this is the parameter itself, which is written over next.
    error_masked = free.relative_error(weight * found.mask)
    stored = _write(layer, fitted.weight, gram, update_bias, norm)
    row = LayerPruning(
        layer=layer.name,
        shape=view.tiled_shape,
        pattern="" if plan.pattern is None else str(plan.pattern),
        transposable=found.transposable,
        density=float(found.mask.to(torch.float64).mean()),
        retained=found.worth.retained,
        optimality_gap=found.worth.optimality_gap,
        solver=found.solver,
        # Both against the same sums, so that their difference is what the refit gained.
        error_masked=error_masked,
        error=free.relative_error(stored),
        samples=gram.samples,
        seconds=0.0,
        remark="; ".join(remarks),
    )
    return row, view.tensor(found.mask)


def _write(layer: Prunable, weight: Tensor, gram: Gram, update_bias: bool, norm: _BatchNorm | None) -> Tensor:
    """Write a weight (G, R, C) into its module, then what follows from it into the bias and the batch norm behind it.

    Returns:
        The weight as its dtype has rounded it, (G, R, C) float64: what the outputs are then made with.
    """
    parameter, bias = layer.view.parameter, layer.view.bias
    with torch.no_grad():
        parameter.copy_(layer.view.tensor(weight))
        stored = layer.view.weight
        # After the copy: a number that float64 holds can overflow in the dtype of the weight.
        check_finite(f"its new weight ({str(parameter.dtype).removeprefix('torch.')})", stored)
        mean, variance = gram.moments(stored)
        if bias is not None:
            if update_bias:
                # The dense bias is not in y, so what is missing comes on top of it.
                bias.add_((gram.y / gram.samples - mean).reshape(-1))
            check_finite("its bias", bias)
            mean = mean + bias.reshape(mean.shape).to(mean.dtype)
        # At once, not with all others at the end: the layers to come are fitted to what this batch norm gives.
        if norm is not None:
            set_statistics(norm, mean.reshape(-1), variance.reshape(-1), gram.samples)
    return stored


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
