"""Why a layer cannot be pruned, whatever the user wants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from tmask.nn.calibration.linear_view import CONVOLUTIONS
from tmask.nn.libraries.offloading import own_forward

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What computes the product of weight and input; a class that replaces one of these may compute something else.
_METHODS = ("forward", "_conv_forward")
_OWN = {getattr(kind, name, None) for kind in (nn.Linear, *CONVOLUTIONS) for name in _METHODS}


def owners(model: nn.Module) -> Counter[int]:
    """By the id of a parameter, how many modules hold it: a shared one would be changed under another layer's feet."""
    return Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)


def unfit(module: nn.Module, owned: Mapping[int, int]) -> str:
    """Why a new weight for a linear or convolution layer could not be written, or would mean nothing; or ""."""
    if is_parametrized(module, "weight"):
        return "its weight is parametrized"
    # Before the next reason, which would be true of it too, and would not say what to do.
    if "weight_mask" in module._buffers:
        return "torch.nn.utils.prune holds its weight; call torch.nn.utils.prune.remove(module, 'weight') first"
    weight = module._parameters.get("weight")
    if weight is None or weight.dtype not in _FLOATS:
        return "no floating-point weight of its own"
    # A method can be replaced in the object as well as in its class; accelerate's hooks call what they replace.
    if any(own_forward(module, name) not in _OWN for name in _METHODS):
        return "its class has a forward of its own, which may compute something else than weight times input"
    # A bias that is None counts 0.
    for what in ("weight", "bias"):
        if owned[id(module._parameters[what])] > 1:
            return f"its {what} is shared with another module"
    return ""


def attention(model: nn.Module) -> dict[str, str]:
    """Reasons for what torch's attention multiplies with without calling a layer: hooks see nothing of it."""
    reasons = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            dot = f"{name}." if name else ""
            reasons[f"{dot}in_proj"] = "MultiheadAttention has it as parameters, not as a layer"
            reasons[f"{dot}out_proj"] = "MultiheadAttention multiplies with its weight without calling it"
    return reasons
