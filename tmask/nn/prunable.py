"""Which layers of a model are pruned, in the order in which data passes them; what is left out comes with a reason."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from tmask.errors import InvalidProblemError
from tmask.nn.calibration import Calibration
from tmask.nn.linear_view import CONVOLUTIONS, LinearView
from tmask.pattern import Pattern

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class Prunable:
    """A layer to prune.

    Args:
        name: of the module.
        view: its weight as matrices.
        calls: of it in one forward pass.
        batch_norm: the module that reads its output directly, or None.
    """

    name: str
    view: LinearView
    calls: int
    batch_norm: _BatchNorm | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user wants pruned.

    Args:
        include, exclude: globs on names of modules (`*` crosses dots). A layer that `include` matches is pruned even
            at an end of the model; if `include` is given, no other layer is.
        skip_ends: leave the first convolution and the classifier (the layer that is called last) dense.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    skip_ends: bool = True

    def __post_init__(self) -> None:
        for option, globs in (("include", self.include), ("exclude", self.exclude)):
            if isinstance(globs, str):
                raise InvalidProblemError(f"{option} is the text {globs!r}; give a list of globs: [{globs!r}]")


@dataclass(slots=True)
class _Trace:
    """What a forward pass saw: the layers in order, and the batch norm that reads the output of each."""

    order: list[str] = field(default_factory=list)
    readers: dict[str, _BatchNorm] = field(default_factory=dict)


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
    trace = _trace(model, calibration, modules)
    order = list(dict.fromkeys(trace.order))
    first = next((name for name in order if isinstance(modules[name], CONVOLUTIONS)), None)
    ends = {first: "the first convolution", order[-1]: "the classifier"} if order and choice.skip_ends else {}
    owners = Counter(
        id(module._parameters.get("weight")) for module in model.modules() if "weight" in module._parameters
    )
    layers, skipped = [], {}
    calls = Counter(trace.order)
    for name in (*order, *(name for name in modules if name not in calls)):
        module = modules[name]
        if reason := _reason(name, module, choice, ends.get(name, ""), calls[name], owners):
            skipped[name] = reason
        else:
            layers.append(Prunable(name, LinearView(module), calls[name], trace.readers.get(name)))
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


def _reason(name: str, module: nn.Module, choice: Choice, end: str, calls: int, owners: Mapping[int, int]) -> str:
    """Why a layer is left dense, or ""."""
    included = any(fnmatch.fnmatchcase(name, glob) for glob in choice.include)
    if any(fnmatch.fnmatchcase(name, glob) for glob in choice.exclude):
        return "excluded"
    if choice.include and not included:
        return "not included"
    if end and not included:
        return f"{end} (include it to prune it)"
    if is_parametrized(module, "weight"):
        return "its weight is parametrized"
    weight = module._parameters.get("weight")
    if weight is None or weight.dtype not in _FLOATS:
        return "no floating-point weight of its own"
    if owners[id(weight)] > 1:
        return "its weight is shared with another module"
    if not calls:
        return "the first batch of the calibration data does not reach it"
    return ""


def _trace(model: nn.Module, calibration: Calibration, modules: Mapping[str, nn.Module]) -> _Trace:
    """What the first batch passes."""
    names = {module: name for name, module in modules.items()}
    trace = _Trace()
    made: dict[int, tuple[Tensor, int, str]] = {}  # the tensors are held, or their ids would be given away again
    reads: Counter[nn.Module] = Counter()

    def leaves(module: nn.Module, _: Any, output: Tensor) -> None:
        trace.order.append(names[module])
        made[id(output)] = output, output._version, names[module]

    def enters(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        reads[module] += 1
        output, version, name = made.get(id(inputs[0]), (None, 0, "")) if inputs else (None, 0, "")
        # A version that has moved on tells of an operation in place, such as an activation.
        if output is not None and output._version == version:
            trace.readers[name] = module  # type: ignore[assignment]

    handles = [module.register_forward_hook(leaves) for module in names]
    handles += [
        module.register_forward_pre_hook(enters) for module in model.modules() if isinstance(module, _BatchNorm)
    ]
    try:
        for _ in calibration.run(model):
            break
    finally:
        for handle in handles:
            handle.remove()
    calls = Counter(trace.order)
    # Where either is called again, the batch norm may see more than the outputs of this layer.
    trace.readers = {name: norm for name, norm in trace.readers.items() if calls[name] == reads[norm] == 1}
    return trace
