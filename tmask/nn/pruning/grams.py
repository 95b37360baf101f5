"""The sums of a dense model's layers, from one pass, which several prunings of it can share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration, Forward, evaluating
from tmask.nn.calibration.experts import one_by_one
from tmask.nn.calibration.gram import Gram
from tmask.nn.calibration.recording import collect
from tmask.nn.fitting.layer_filter import LayerFilter
from tmask.nn.fitting.prunable import Prunable, find_layers
from tmask.nn.libraries.offloaded import on_offloaded_too
from tmask.nn.names import ByLayer, full_name

# How far X^T Y may be from X^T X w^T: TF32 and bfloat16 round the products of a layer by less than 1 %.
_ROUNDING = 0.03


@on_offloaded_too
def collect_grams(model: nn.Module, calibration: Iterable[Any], *, forward: Forward | None = None) -> dict[str, Gram]:
    """The sums over the calibration data of every layer that can be pruned, by name.

    Several prunings of one model (other patterns, scores, solvers) can share them: `adaprune(copy.deepcopy(model), ...,
    sequential=False, grams=grams)`. The arguments are those of `adaprune`.

    Raises:
        InvalidProblemError: unusable data, or no layer.
    Cost: one pass.
    """
    data = Calibration(calibration, forward)
    # The ends too: a pruning that shares the sums may include them.
    layers, _ = find_layers(model, data, LayerFilter(skip_ends=False))
    return ByLayer(dense_grams(model, data, layers, None))


def dense_grams(
    model: nn.Module, calibration: Calibration, layers: Sequence[Prunable], grams: Mapping[str, Gram] | None
) -> Mapping[str, Gram]:
    """The sums of these layers of a model as it is: those of an earlier pass, checked, or of one that is made now.

    Raises:
        InvalidProblemError: sums of other layers or other weights, and what `collect` raises.
    """
    names = {layer.name for layer in layers}
    if grams is None:
        # As when pruning: dropout, or batch norms that learn, would give other sums at every pass.
        with evaluating(model), one_by_one(model):
            return collect(calibration, model, {layer.name: layer.view for layer in layers})
    by_name = ByLayer({full_name(name, names): gram for name, gram in grams.items()})
    for layer in layers:
        _check(by_name, layer)
    return by_name


def _check(grams: Mapping[str, Gram], layer: Prunable) -> None:
    groups, rows, cols = layer.view.shape
    gram = grams.get(layer.name)
    if gram is None or gram.xy.shape != (groups, cols, rows):
        raise InvalidProblemError(f"grams hold nothing for layer {layer.name!r}; collect them from the same model")
    # The model's own outputs are its weight times its inputs, up to how its dtype rounds.
    expected = gram.xx @ layer.view.weight.transpose(1, 2)
    off = float((gram.xy - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float64).tiny))
    if off > _ROUNDING:
        raise InvalidProblemError(
            f"grams of layer {layer.name!r} are those of other weights (outputs are off by {off:.1%}); collect "
            "them from this very model before it is changed"
        )
