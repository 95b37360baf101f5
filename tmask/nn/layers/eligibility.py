"""Which weights of a model can have a mask; what is left out is listed with its reason, never silently."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.layers.cutting import cutting_of
from tmask.nn.layers.layer import Owner, SparseLayer
from tmask.nn.layers.renewals import LayerReport
from tmask.nn.layers.rules import LayerRules, matches
from tmask.nn.libraries import adapters
from tmask.nn.libraries.offloading import check_in_memory
from tmask.nn.libraries.roles import ModelRoles
from tmask.nn.mask.cutting import Cutting
from tmask.nn.mask.parametrization import Masked
from tmask.nn.mask.saved import layer_name
from tmask.nn.mask.shards import is_sharded

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def select_layers(
    model: nn.Module, rules: LayerRules, named: Collection[str] = ()
) -> tuple[list[SparseLayer], list[LayerReport]]:
    """The weights to mask, each once however many modules share it, and rows for those left out.

    Args:
        named: weights that the user has asked for by name, in another way than by the rules.
    Raises:
        InvalidProblemError: a glob that matches nothing, a model that is sparsified already, tied weights that were
            given different patterns, nothing left to mask.
    """
    check_in_memory(model, "Load the model without offloading: weights that come and go cannot be trained")
    owners = list(_owners(model))
    rules.check_globs([owner.name for owner in owners])
    apart = adapters.adapter_weights(model, [owner.name for owner in owners], rules.include, matches)
    choice = _Choice(rules, ModelRoles(model), named)
    sharing: dict[int, list[Owner]] = defaultdict(list)
    for owner in owners:
        sharing[id(_tensor(owner))].append(owner)
    layers, skipped = [], []
    for group in sharing.values():
        reasons = {o.name: adapters.REASON if o.name in apart else choice.reason(o) for o in group}
        # Last: advice to include it is given only where that helps.
        if not any(reasons.values()):
            reasons = {o.name: choice.held_back(o.name) for o in group}
        if any(reasons.values()):
            skipped += [LayerReport(o.name, tuple(_shape(o)), reason=_with_ties(o.name, reasons)) for o in group]
        else:
            layers.append(choice.layer(group))
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


class _Choice:
    """Which weights get a mask, by what the user wants and by what is known of the model.

    Args:
        named: as of `select_layers`.
    """

    def __init__(self, rules: LayerRules, roles: ModelRoles, named: Collection[str]) -> None:
        self._rules, self._roles = rules, roles
        self._asked = [*rules.asked, *named]

    def reason(self, owner: Owner) -> str:
        """Why a weight gets no mask, or ""."""
        cutting = self._cutting(owner)
        if isinstance(cutting, str):
            return cutting
        refusal = self._rules.refusal(owner.module, owner.name)
        return refusal or _unfit(_tensor(owner), cutting, self._rules.pattern(owner.name))

    def held_back(self, name: str) -> str:
        """Why a weight stays dense as long as nobody asks for it, as in files and in pruning; or ""."""
        reason = self._roles.held_back(name, self._asked, matches)
        return f"{reason} ({self._roles.advice(name)} to mask it)" if reason else ""

    def layer(self, group: list[Owner]) -> SparseLayer:
        """The layer of a weight, which some modules share."""
        first = group[0]
        if is_sharded(_tensor(first)):
            raise InvalidProblemError(
                f"layer {first.name!r} is sharded already: call sparsify on the whole model, then fully_shard, then "
                "make the optimizer"
            )
        pattern, cutting = self._rules.pattern(first.name), self._cutting(first)
        for owner in group[1:]:
            other, otherwise = self._rules.pattern(owner.name), self._cutting(owner)
            if (other, otherwise) != (pattern, cutting):
                raise InvalidProblemError(
                    f"layers {first.name!r} and {owner.name!r} share one weight, which can have only one mask, but "
                    f"they ask for {pattern} in {cutting} and {other} in {otherwise}"
                )
        assert pattern is not None and isinstance(cutting, Cutting)  # noqa: PT018 - `reason` has seen to both
        return SparseLayer(tuple(group), pattern, cutting)

    def _cutting(self, owner: Owner) -> Cutting | str:
        if isinstance(owner.module, ParametrizationList):
            return f"parametrized already, by {', '.join(type(step).__name__ for step in owner.module)}"
        return cutting_of(owner.module, owner.tensor, owner.name, self._roles)


def _unfit(weight: Tensor, cutting: Cutting, pattern: Pattern | None) -> str:
    """Why a weight cannot have a mask of the pattern, or ""."""
    if is_lazy(weight):
        return "not initialised yet: run the model once before sparsify"
    if weight.dtype not in _FLOATS:
        return f"dtype {str(weight.dtype).removeprefix('torch.')}"
    rows, cols = cutting.sides(weight.shape)
    if pattern is not None and min(rows, cols) < pattern.m:
        per_group = " per group" if cutting.groups > 1 else ""
        return f"{rows} x {cols}{per_group} is smaller than a block of {pattern.m} x {pattern.m}"
    return ""


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
