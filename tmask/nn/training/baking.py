"""The dense layout of a saved state: masked weights under their original names, from the state alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.mask.masking import apply_mask
from tmask.nn.mask.saved import check_saved, layer_name
from tmask.nn.mask.smoothing import shrink

# `.0`: weights that are parametrized already get no mask, so that it is the first step of its list.
_MASK, _TERMS, _ORIGINAL = ".0.mask", ".0.terms", ".original"
_THRESHOLD, _SCALE = ".0.threshold", ".0.scale"  # of smooth masks alone


@torch.no_grad()
def bake(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a sparsified model's state dict becomes when its masks are baked in; needs no model.

    It takes what `model.state_dict()` gives, or what a checkpoint of any trainer holds of it: prefixes do not matter.
    Other entries stay as they are; tied weights share one tensor.

    Raises:
        InvalidProblemError: there is no mask in it, or a weight has other parametrizations beside its mask.
        InvalidMaskError: a mask is not one that was found; its state was averaged or edited.
    """
    baked = dict(state)
    shared: dict[tuple[int, torch.Size], Tensor] = {}
    for key in [key for key in state if "parametrizations." in key and key.endswith(_MASK)]:
        path = key.removesuffix(_MASK)
        if others := [k for k in state if k.startswith(f"{path}.") and k not in _own(path)]:
            raise InvalidProblemError(f"{layer_name(path)!r} has other parametrizations beside its mask: {others}")
        # Without a model to compare with: any pattern is right, if the mask keeps to it.
        check_saved(state, f"{path}.0.")
        original = state[path + _ORIGINAL]
        # Tied weights are there under every name; each baked for itself, they would be untied, and saved twice.
        # The shape too, since a view can begin where its base does.
        place = (original.data_ptr(), original.shape)
        if place not in shared:
            shared[place] = _effective(state, path)
        for own in _own(path):
            baked.pop(own, None)
        baked[layer_name(path)] = shared[place]
    if not shared:
        raise InvalidProblemError("the state has no masks: its model was not sparsified, or was exported already")
    return baked


def _effective(state: Mapping[str, Tensor], path: str) -> Tensor:
    weight, mask = state[path + _ORIGINAL], state[path + _MASK]
    if path + _THRESHOLD not in state:
        return apply_mask(weight, mask)
    return shrink(weight, mask, state[path + _THRESHOLD], state[path + _SCALE])


def _own(path: str) -> tuple[str, ...]:
    return tuple(path + part for part in (_ORIGINAL, _MASK, _TERMS, _THRESHOLD, _SCALE))
