"""How the weights of the common modules are read: cut into which matrices, or why no mask is known for them."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from tmask.nn.libraries.roles import ModelRoles
from tmask.nn.mask.cutting import WHOLE, Cutting


def cutting_of(module: nn.Module, tensor: str, name: str, roles: ModelRoles) -> Cutting | str:
    """How a module's weight is cut, or why it cannot have a mask.

    Transposing a weight transposes its masks, so that layers that store (in, out), transposed convolutions, the Conv1D
    of GPT-2 and stacks of experts, need no other treatment.

    Args:
        name: of the parameter in the model.
    """
    found = _of_module(module, tensor)
    if found is not None:
        return found
    if roles.is_matrix(name):
        return WHOLE
    role = roles.of(name)
    if role is not None:  # the bias of each expert is a row of a matrix, too
        return role.reason
    if roles.is_stack(name):
        return Cutting(stacked=True)
    return f"{tensor} of {type(module).__name__} is no weight that a mask is known for"


def _of_module(module: nn.Module, tensor: str) -> Cutting | str | None:
    """What a module of a known kind says of its weight."""
    if tensor == "weight":
        if isinstance(module, nn.Linear) or _is_gpt2_conv1d(module):
            return WHOLE
        if isinstance(module, _ConvNd):
            return Cutting(module.groups)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            return "a look-up table, which no matrix product multiplies"
    if isinstance(module, nn.MultiheadAttention):
        if tensor == "in_proj_weight":
            return Cutting(3)  # query, key and value stand on top of one another; no block crosses from one to the next
        if tensor in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            return WHOLE
    if isinstance(module, nn.RNNBase):
        return "recurrent layers read their weights from a buffer of their own, past any mask"
    return None


def _is_gpt2_conv1d(module: nn.Module) -> bool:
    """Whether it is the transformers library's Conv1D, without importing that library."""
    return hasattr(module, "nf") and any(cls.__name__ == "Conv1D" for cls in type(module).__mro__)
