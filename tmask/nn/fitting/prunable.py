"""Which layers of a model are pruned, in the order in which data passes them; what is left out comes with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration, evaluating
from tmask.nn.calibration.linear_view import CONVOLUTIONS, LinearView
from tmask.nn.calibration.tracing import trace
from tmask.nn.fitting.layer_filter import LayerFilter, matches
from tmask.nn.fitting.unprunable import attention, owners, unfit
from tmask.nn.libraries import adapters
from tmask.nn.libraries.offloading import check_in_memory


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


def find_layers(
    model: nn.Module, calibration: Calibration, wanted: LayerFilter
) -> tuple[list[Prunable], dict[str, str]]:
    """The layers that are wanted and can be pruned, in the order of their first call; and why others are left dense.

    Raises:
        InvalidProblemError: a glob that matches no layer, no layer left, and what `Calibration.run` raises.
    Cost: one batch through the model, in evaluation mode.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, *CONVOLUTIONS))}
    check_in_memory(model, "Load the model without offloading, or give its directory to prune_blocks")
    # Before any data are read, which can take long.
    wanted.check(modules)
    with evaluating(model):
        found = trace(model, calibration, modules)
    calls = Counter(found.order)
    ends, owned = _ends(list(calls), modules), owners(model)
    layers, skipped = [], attention(model)
    apart = adapters.adapter_weights(model, modules, wanted.include, matches)
    # Layers that the batch does not reach last, since they have no place in the order.
    for name in (*calls, *(name for name in modules if name not in calls)):
        module = modules[name]
        # What the user wants goes first, since a layer that is excluded needs no other excuse.
        reason = wanted.reason(name, ends.get(name, "")) or unfit(module, owned)
        if name in apart:
            reason = adapters.REASON
        if not reason and not calls[name]:
            reason = "the first batch of the calibration data does not reach it"
        if reason:
            # What is said of attention's projections stands: that they are not called follows from it.
            skipped.setdefault(name, reason)
            continue
        norm = found.norms.get(name)
        only = norm is not None and name not in found.shared
        layers.append(Prunable(name, LinearView(module), calls[name], norm, only))
    # An error, and no empty report: a model that comes back unpruned would be taken for a pruned one.
    if not layers:
        raise no_layer(skipped)
    return layers, skipped


def narrower_than(view: LinearView, pattern: Pattern, transposable: bool) -> str:
    """Why no tile or group of the pattern is full in this layer, or ""."""
    sides = {"inputs": view.channels} | ({"outputs": view.rows} if transposable else {})
    narrow = [f"{count} {what}" for what, count in sides.items() if count < pattern.m]
    per_group = " in a group" if view.groups > 1 else ""
    return f"{' and '.join(narrow)}{per_group}, fewer than the {pattern.m} of {pattern}" if narrow else ""


def no_layer(skipped: Mapping[str, str]) -> InvalidProblemError:
    """The error for a model of which nothing is left to prune."""
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:10])
    return InvalidProblemError(
        f"the model has no eligible layer ({reasons or 'it has no linear or convolution layers'})"
    )


def _ends(order: Sequence[str], modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """What stays dense unless it is asked for: pruning it costs most and saves least."""
    ends = {}
    for name in order:
        if isinstance(modules[name], CONVOLUTIONS):
            ends[name] = "the first convolution"
            break
    # By the last call, and not the last definition, which can stand anywhere in a class.
    if order:
        ends[order[-1]] = "the classifier"
    return ends
