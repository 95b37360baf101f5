"""Why a layer cannot be pruned, whatever the user wants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from tmask.nn.calibration.linear_view import CONVOLUTIONS
from tmask.nn.calibration.stored_matrix import StoredMatrix
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


def unfit_matrix(view: StoredMatrix, owned: Mapping[int, int]) -> str:
    """The same for a matrix that no layer holds."""
    whole = view.model.get_parameter(view.key.parameter)
    if owned[id(whole)] > 1:
        return "its weight is shared with another module"
    bias = view.model.get_submodule(view.key.parameter.rpartition(".")[0])._parameters.get("bias")
    return "its bias is shared with another module" if bias is not None and owned[id(bias)] > 1 else ""


def attention(model: nn.Module) -> dict[str, str]:
    """Reasons for what torch's attention multiplies with without calling a layer: hooks see nothing of it."""
    reasons = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            dot = f"{name}." if name else ""
            for own in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
                if module._parameters.get(own) is not None:
                    reasons[dot + own] = "MultiheadAttention has it as parameters, not as a layer"
            reasons[f"{dot}out_proj.weight"] = "MultiheadAttention multiplies with its weight without calling it"
    return reasons


def left_out(model: nn.Module, name: str, known: Collection[str]) -> str:
    """Why a parameter of two axes or more is no layer to prune; "" if that is told of the layer that it belongs to.

    Args:
        known: names of weights of which something is told already.
    """
    module_name, _, leaf = name.rpartition(".")
    # Of a weight that a parametrization, or torch.nn.utils.prune, computes.
    if name.replace("parametrizations.", "").rpartition(".original")[0] in known or name.removesuffix("_orig") in known:
        return ""
    module = model.get_submodule(module_name)
    kind = type(module).__name__
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "a look-up table, which no matrix product multiplies"
    if isinstance(module, nn.RNNBase):
        return f"{kind} multiplies with it inside one function of torch, where nothing can be seen of it"
    if isinstance(module, _ConvTransposeNd):
        return "a transposed convolution"
    parameter = model.get_parameter(name)
    if leaf.endswith("bias"):
        return "a bias"
    if parameter.dtype not in _FLOATS:
        return f"dtype {str(parameter.dtype).removeprefix('torch.')}"
    return f"no product of a whole matrix with it was seen ({leaf} of {kind})"
