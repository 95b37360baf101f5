"""Refit a model to masks from elsewhere; and the sums of its layers' data, which several prunings can share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration, Forward, evaluating
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.recording import collect
from tmask.nn.fitting.fit import Fitted, Plan
from tmask.nn.fitting.layer_masks import FoundMask
from tmask.nn.fitting.prunable import Choice, Prunable, find_layers
from tmask.nn.fitting.refit import LEARNING_RATE, STEPS, Refit, Refitting, check_settings
from tmask.nn.fitting.report import PruningReport
from tmask.nn.pruning.layerwise import Progress, Settings, prune

# How far X^T Y may be from X^T X w^T: TF32 and bfloat16 round the products of a layer by less than 1 %.
_ROUNDING = 0.03


def collect_grams(model: nn.Module, calibration: Iterable[Any], *, forward: Forward | None = None) -> dict[str, Gram]:
    """The sums over the calibration data of every linear and convolution layer that can be pruned, by name.

    Several prunings of one model (other patterns, scores, solvers) can share them: `adaprune(copy.deepcopy(model), ...,
    sequential=False, grams=grams)`.

    Raises:
        InvalidProblemError: unusable data, or no layer.
    Cost: one pass.
    """
    data = Calibration(calibration, forward)
    with evaluating(model):
        layers, _ = find_layers(model, data, Choice(skip_ends=False))
        return collect(data, model, {layer.name: layer.view for layer in layers})


def reconstruct(
    model: nn.Module,
    calibration: Iterable[Any],
    masks: Mapping[str, Tensor | npt.NDArray[np.bool_]],
    *,
    method: Refit = "least-squares",
    sequential: bool = True,
    damping: float = 1e-3,
    update_batch_norm: bool = True,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    grams: Mapping[str, Gram] | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> PruningReport:
    """The same refit for masks from elsewhere, of any kind of sparsity, in place.

    Args:
        masks: by the names of layers, bool tensors or arrays in the shape of the weight, True = kept.
    The other arguments, and what is raised, are those of `adaprune`. No means are folded: there are no groups.
    """
    check_settings(method, damping, steps, learning_rate)
    data = Calibration(calibration, forward)
    if not isinstance(masks, Mapping) or not masks:
        raise InvalidProblemError("masks must be a mapping of at least one layer's name to its mask")
    tensors = {name: torch.from_numpy(mask) if isinstance(mask, np.ndarray) else mask for name, mask in masks.items()}
    with evaluating(model):
        layers, skipped = find_layers(model, data, Choice(include=[_literal(name) for name in masks]))
    for name in masks:
        if name in skipped:
            raise InvalidProblemError(f"layer {name!r} cannot be pruned: {skipped[name]}")
    for layer in layers:
        mask, shape = tensors[layer.name], layer.view.module.weight.shape
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != shape:
            kind = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise InvalidProblemError(
                f"layer {layer.name!r}: its mask is {kind}; give a bool tensor or array of shape {tuple(shape)}"
            )
    check_grams(grams, layers, sequential)
    refit = Refitting(method, damping, False, steps, learning_rate)

    def fit(plan: Plan, gram: Gram, free: Gram, weight: Tensor) -> Fitted:
        mask = plan.layer.view.matrices(tensors[plan.layer.name]).to(weight.device)
        total = float(weight.abs().sum())
        retained = float((weight.abs() * mask).sum()) / total if total else 1.0
        return Fitted(refit(plan, free, weight, mask), FoundMask(mask, retained, None, ""))

    plans = [Plan(layer, None, False) for layer in layers]
    settings = Settings(sequential, update_batch_norm, progress, update_bias=method != "none", grams=grams)
    return prune(model, data, plans, skipped, fit, settings)


def check_grams(grams: Mapping[str, Gram] | None, layers: list[Prunable], sequential: bool) -> None:
    """Refuse sums that would be ignored, or belong to other layers."""
    if grams is None:
        return
    if sequential:
        raise InvalidProblemError("grams are those of the dense model; give sequential=False to use them")
    for layer in layers:
        groups, rows, cols = layer.view.shape
        gram = grams.get(layer.name)
        if gram is None or gram.xy.shape != (groups, cols, rows):
            raise InvalidProblemError(f"grams hold nothing for layer {layer.name!r}; collect them from the same model")
        # The model's own outputs are its weight times its inputs, up to how its dtype rounds.
        weight = layer.view.matrices(layer.view.module.weight.detach()).to(torch.float64)
        expected = gram.xx @ weight.transpose(1, 2)
        off = float((gram.xy - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float64).tiny))
        if off > _ROUNDING:
            raise InvalidProblemError(
                f"grams of layer {layer.name!r} are those of other weights (outputs are off by {off:.1%}); collect "
                "them from this very model before it is changed"
            )


def _literal(name: str) -> str:
    """A glob that matches this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
