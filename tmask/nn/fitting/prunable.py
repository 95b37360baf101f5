"""Which layers of a model are pruned, in the order in which data passes them; what is left out comes with a reason."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration
from tmask.nn.calibration.linear_view import CONVOLUTIONS, LinearView
from tmask.nn.calibration.tracing import trace

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What computes the product of weight and input; a class that replaces one of these may compute something else.
_METHODS = ("forward", "_conv_forward")
_OWN = {getattr(kind, name, None) for kind in (nn.Linear, *CONVOLUTIONS) for name in _METHODS}


@dataclass(frozen=True, slots=True)
class Prunable:
    """A layer to prune.

    Args:
        name: of the module.
        view: its weight as matrices.
        calls: of it in one forward pass.
        batch_norm: the module that reads its output directly, or None.
        only_reader: whether nothing but the batch norm reads the output.
    """

    name: str
    view: LinearView
    calls: int
    batch_norm: _BatchNorm | None = None
    only_reader: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user wants pruned.

    Args:
        include, exclude: globs on names of modules (`*` crosses dots). A layer that `include` matches is pruned even
            at an end of the model; if `include` is given, no other layer is.
        skip_ends: leave the first convolution and the classifier (the layer that is called last) dense.
        named: names of modules that count as included, and leave all others as they would be without them.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    skip_ends: bool = True
    named: Collection[str] = ()

    def __post_init__(self) -> None:
        for option, globs in (("include", self.include), ("exclude", self.exclude)):
            if isinstance(globs, str):
                raise InvalidProblemError(f"{option} is the text {globs!r}; give a list of globs: [{globs!r}]")
            if not isinstance(globs, Sequence):
                raise InvalidProblemError(f"{option} is {globs!r}; give a list of globs")


def find_layers(model: nn.Module, calibration: Calibration, choice: Choice) -> tuple[list[Prunable], dict[str, str]]:
    """The layers that can be pruned, in the order of their first call, and reasons by name for those left out.

    Raises:
        InvalidProblemError: a glob that matches no layer, no layer left, and what `Calibration.run` raises.
    Cost: one batch through the model.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, *CONVOLUTIONS))}
    for glob in (*choice.include, *choice.exclude):
        if not fnmatch.filter(modules, glob):
            shown = ", ".join(list(modules)[:10]) or "none"
            raise InvalidProblemError(f"{glob!r} matches no linear or convolution layer; the model has {shown}")
    found = trace(model, calibration, modules)
    order = list(dict.fromkeys(found.order))
    first = next((name for name in order if isinstance(modules[name], CONVOLUTIONS)), None)
    ends = {first: "the first convolution", order[-1]: "the classifier"} if order and choice.skip_ends else {}
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    layers, skipped = [], _attention(model)
    calls = Counter(found.order)
    for name in (*order, *(name for name in modules if name not in calls)):
        module = modules[name]
        if reason := _reason(name, module, choice, ends.get(name, ""), calls[name], owners):
            skipped.setdefault(name, reason)
        else:
            norm = found.norms.get(name)
            only = norm is not None and name not in found.shared
            layers.append(Prunable(name, LinearView(module), calls[name], norm, only))
    if not layers:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:10])
        raise InvalidProblemError(
            f"the model has no eligible layer ({reasons or 'it has no linear or convolution layers'})"
        )
    return layers, skipped


def narrower_than(view: LinearView, pattern: Pattern, transposable: bool) -> str:
    """Why no tile or group of the pattern is full in this layer, or ""."""
    sides = {"inputs": view.channels} | ({"outputs": view.rows} if transposable else {})
    narrow = [f"{count} {what}" for what, count in sides.items() if count < pattern.m]
    per_group = " in a group" if view.groups > 1 else ""
    return f"{' and '.join(narrow)}{per_group}, fewer than the {pattern.m} of {pattern}" if narrow else ""


def _attention(model: nn.Module) -> dict[str, str]:
    """Reasons for what torch's attention multiplies with without calling a layer."""
    reasons = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            dot = f"{name}." if name else ""
            reasons[f"{dot}in_proj"] = "MultiheadAttention has it as parameters, not as a layer"
            reasons[f"{dot}out_proj"] = "MultiheadAttention multiplies with its weight without calling it"
    return reasons


def _reason(name: str, module: nn.Module, choice: Choice, end: str, calls: int, owners: Mapping[int, int]) -> str:
    """Why a layer is left dense, or ""."""
    included = name in choice.named or any(fnmatch.fnmatchcase(name, glob) for glob in choice.include)
    if any(fnmatch.fnmatchcase(name, glob) for glob in choice.exclude):
        return "excluded"
    if choice.include and not included:
        return "not included"
    if end and not included:
        return f"{end} (include it to prune it)"
    if is_parametrized(module, "weight"):
        return "its weight is parametrized"
    if "weight_mask" in module._buffers:
        return "torch.nn.utils.prune holds its weight; call torch.nn.utils.prune.remove(module, 'weight') first"
    weight = module._parameters.get("weight")
    if weight is None or weight.dtype not in _FLOATS:
        return "no floating-point weight of its own"
    if any(name in vars(module) or getattr(type(module), name, None) not in _OWN for name in _METHODS):
        return "its class has a forward of its own, which may compute something else than weight times input"
    for what in ("weight", "bias"):
        if owners[id(module._parameters[what])] > 1:
            return f"its {what} is shared with another module"
    if not calls:
        return "the first batch of the calibration data does not reach it"
    return ""
