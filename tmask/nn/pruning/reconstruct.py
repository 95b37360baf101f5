"""RefitMethod a model to masks from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.files.masks import MaskRecord
from tmask.judging.worth import Worth
from tmask.nn.calibration.batches import Calibration, Forward
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.stored_matrix import StoredMatrix
from tmask.nn.fitting.fit import Fitted, Plan
from tmask.nn.fitting.layer_filter import LayerFilter, literal
from tmask.nn.fitting.layer_masks import LayerMask
from tmask.nn.fitting.prunable import Prunable, find_layers
from tmask.nn.fitting.pruning_report import PruningReport
from tmask.nn.fitting.refit import DAMPING, LEARNING_RATE, STEPS, RefitMethod, Refitting
from tmask.nn.libraries.offloaded import on_offloaded_too
from tmask.nn.names import full_name, parameter_of
from tmask.nn.pruning.layerwise import Settings, prune
from tmask.showing.progress import Progress

GivenMasks = Mapping[str, Tensor | npt.NDArray[np.bool_] | MaskRecord]


@on_offloaded_too
def reconstruct(
    model: nn.Module,
    calibration: Iterable[Any],
    masks: GivenMasks,
    *,
    method: RefitMethod = "least-squares",
    sequential: bool = True,
    damping: float = DAMPING,
    update_batch_norm: bool = True,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    grams: Mapping[str, Gram] | None = None,
    forward: Forward | None = None,
    progress: Progress = None,
) -> PruningReport:
    """The same refit for masks from elsewhere, of any kind of sparsity, in place.

    Args:
        masks: by the names of layers, bool tensors or arrays in the shape of the parameter, True = kept.
    The other arguments, and what is raised, are those of `adaprune`. No means are folded: there are no groups.
    """
    refit = Refitting(method, damping, False, steps, learning_rate)
    if not isinstance(masks, Mapping) or not masks:
        raise InvalidProblemError("masks must be a mapping of at least one layer's name to its mask")
    data = Calibration(calibration, forward)
    # Included, so that masks at the ends of the model count.
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    given = {
        full_name(name, known): mask.mask if isinstance(mask, MaskRecord) else mask for name, mask in masks.items()
    }
    layers, skipped = find_layers(model, data, LayerFilter(include=[literal(name) for name in given]))
    # A layer that is left out is no error elsewhere; here somebody has made a mask for it.
    for name in given:
        if name in skipped:
            raise InvalidProblemError(f"layer {name!r} cannot be pruned: {skipped[name]}")
    fit = MaskedRefit({layer.name: _checked(given[parameter_of(layer.name)], layer) for layer in layers}, refit)
    settings = Settings(sequential, update_batch_norm, progress, update_bias=method != "none", grams=grams)
    return prune(model, data, [Plan(layer, None) for layer in layers], skipped, fit, settings)


@dataclass(frozen=True, slots=True)
class MaskedRefit:
    """The way with a layer whose mask is given, by name, in the shape of its weight."""

    masks: Mapping[str, Tensor]
    refit: Refitting

    def __call__(self, plan: Plan, gram: Gram, free: Gram, weight: Tensor) -> Fitted:
        mask = plan.layer.view.matrices(self.masks[plan.layer.name]).to(weight.device)
        kept = weight.abs() * mask
        # By which score the mask was found is not known; |weight| is what can be said of any.
        worth = Worth(float(kept.sum()), float(weight.abs().sum()), None)
        return Fitted(self.refit(plan, free, weight, mask), LayerMask(mask, worth, "", transposable=False))


def _checked(mask: object, layer: Prunable) -> Tensor:
    """The mask as a tensor.

    Raises:
        InvalidProblemError: no bool tensor or array, or of another shape than the layer's weight.
    """
    # Checked before any layer is changed, and with a message that says which one.
    found, shape = torch.from_numpy(mask) if isinstance(mask, np.ndarray) else mask, layer.view.stored_shape
    if isinstance(found, Tensor) and found.dtype == torch.bool and found.shape == shape:
        return found[layer.view.key.index] if isinstance(layer.view, StoredMatrix) and layer.view.routed else found
    kind = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise InvalidProblemError(
        f"layer {layer.name!r}: its mask is {kind}; give a bool tensor or array of shape {tuple(shape)}"
    )
