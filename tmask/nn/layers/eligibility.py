"""Which weights of a model can have a mask; what is left out is listed with its reason, never silently."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from tmask.errors import InvalidProblemError
from tmask.nn.layers.layer import Owner, SparseLayer
from tmask.nn.layers.renewals import LayerReport
from tmask.nn.layers.rules import LayerRules, matches
from tmask.nn.libraries import adapters
from tmask.nn.libraries.offloading import check_in_memory
from tmask.nn.mask.parametrization import Masked
from tmask.nn.mask.saved import layer_name
from tmask.nn.mask.shards import is_sharded

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def select_layers(model: nn.Module, rules: LayerRules) -> tuple[list[SparseLayer], list[LayerReport]]:
    """The weights to mask, each once however many modules share it, and rows for those left out.

    Raises:
        InvalidProblemError: a glob that matches nothing, a model that is sparsified already, tied weights that were
            given different patterns, nothing left to mask.
    """
    check_in_memory(model, "Load the model without offloading: weights that come and go cannot be trained")
    owners = list(_owners(model))
    rules.check_globs([owner.name for owner in owners])
    apart = adapters.adapter_weights(model, [owner.name for owner in owners], rules.include, matches)
    sharing: dict[int, list[Owner]] = defaultdict(list)
    for owner in owners:
        sharing[id(_tensor(owner))].append(owner)
    layers, skipped = [], []
    for group in sharing.values():
        reasons = {o.name: adapters.REASON if o.name in apart else _reason(o, rules) for o in group}
        if any(reasons.values()):
            skipped += [LayerReport(o.name, tuple(_shape(o)), reason=_with_ties(o.name, reasons)) for o in group]
        else:
            layers.append(_layer(group, rules))
    if not layers:
        reasons_text = "; ".join(f"{row.layer}: {row.reason}" for row in skipped[:10]) or "it has no weight matrices"
        raise InvalidProblemError(f"no layer of the model is eligible for a mask ({reasons_text})")
    return layers, skipped


def _owners(model: nn.Module) -> Iterator[Owner]:
    """Every parameter of two or more axes, as often as modules hold it; one that is not initialised has no axes yet."""
    for module_name, module in model.named_modules():
        if isinstance(module, Masked):
            raise InvalidProblemError(
                f"the model is sparsified already (layer {layer_name(module_name)!r} has a mask); call remove() on its "
                "Sparsifier first, or export the model"
            )
        for tensor, parameter in module._parameters.items():
            if parameter is not None and (is_lazy(parameter) or parameter.ndim >= 2) and tensor != "bias":
                name = f"{module_name}.{tensor}" if module_name else tensor
                yield Owner(module, tensor, name)


def _reason(owner: Owner, rules: LayerRules) -> str:
    """Why a weight gets no mask, or ""."""
    if isinstance(owner.module, ParametrizationList):
        others = ", ".join(type(step).__name__ for step in owner.module)
        return f"parametrized already, by {others}"
    groups = _groups(owner.module, owner.tensor)
    if isinstance(groups, str):
        return groups
    if refusal := rules.refusal(owner.module, owner.name):
        return refusal
    weight = _tensor(owner)
    if is_lazy(weight):
        return "not initialised yet: run the model once before sparsify"
    if weight.dtype not in _FLOATS:
        return f"dtype {str(weight.dtype).removeprefix('torch.')}"
    pattern = rules.pattern(owner.name)
    rows, cols = weight.shape[0] // groups, weight.shape[1]
    if pattern is not None and min(rows, cols) < pattern.m:
        per_group = " per group" if groups > 1 else ""
        return f"{rows} x {cols}{per_group} is smaller than a block of {pattern.m} x {pattern.m}"
    return ""


def _groups(module: nn.Module, tensor: str) -> int | str:
    """The groups that a module's weight is tiled in, or why it cannot have a mask.

    Transposing a weight transposes its masks, so layers that store (in, out), transposed convolutions and the Conv1D
    of GPT-2, need no other treatment.
    """
    if tensor == "weight":
        if isinstance(module, nn.Linear) or _is_gpt2_conv1d(module):
            return 1
        if isinstance(module, _ConvNd):
            return module.groups
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            return "a look-up table, which no matrix product multiplies"
    if isinstance(module, nn.MultiheadAttention):
        if tensor == "in_proj_weight":
            return 3  # query, key and value stand on top of one another; no block crosses from one to the next
        if tensor in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            return 1
    if isinstance(module, nn.RNNBase):
        return "recurrent layers read their weights from a buffer of their own, past any mask"
    return f"{tensor} of {type(module).__name__} is no weight that a mask is known for"


def _is_gpt2_conv1d(module: nn.Module) -> bool:
    """Whether it is the transformers library's Conv1D, without importing that library."""
    return hasattr(module, "nf") and any(cls.__name__ == "Conv1D" for cls in type(module).__mro__)


def _layer(group: list[Owner], rules: LayerRules) -> SparseLayer:
    first = group[0]
    if is_sharded(_tensor(first)):
        raise InvalidProblemError(
            f"layer {first.name!r} is sharded already: call sparsify on the whole model, then fully_shard, then make "
            "the optimizer"
        )
    pattern = rules.pattern(first.name)
    groups = _groups(first.module, first.tensor)
    for owner in group[1:]:
        other = rules.pattern(owner.name)
        if (other, _groups(owner.module, owner.tensor)) != (pattern, groups):
            raise InvalidProblemError(
                f"layers {first.name!r} and {owner.name!r} share one weight, which can have only one mask, but they "
                f"ask for {pattern} in {groups} group(s) and {other} in {_groups(owner.module, owner.tensor)}"
            )
    assert pattern is not None and isinstance(groups, int)  # noqa: PT018 - `_reason` has seen to both
    return SparseLayer(tuple(group), pattern, groups)


def _with_ties(name: str, reasons: Mapping[str, str]) -> str:
    """Its own reason, or that of the weight's other name."""
    if reasons[name]:
        return reasons[name]
    other, reason = next((other, reason) for other, reason in reasons.items() if reason)
    return f"tied to {other}: {reason}"


def _tensor(owner: Owner) -> Tensor:
    return owner.module._parameters[owner.tensor]  # type: ignore[return-value]


def _shape(owner: Owner) -> tuple[int, ...]:
    tensor = _tensor(owner)
    return () if is_lazy(tensor) else tuple(tensor.shape)
