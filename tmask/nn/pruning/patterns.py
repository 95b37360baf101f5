"""From patterns to what each layer of a model is to become."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial

from torch import nn

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Calibration
from tmask.nn.calibration.weight_view import WeightView
from tmask.nn.fitting.fit import LayerMethod, Plan
from tmask.nn.fitting.layer_filter import LayerFilter
from tmask.nn.fitting.prunable import Prunable, find_layers, narrower_than, no_layer
from tmask.nn.fitting.pruning_report import PruningReport
from tmask.nn.names import full_name, parameter_of
from tmask.nn.pruning.layerwise import Settings, prune

LayerPatterns = Pattern | str | Mapping[str, Pattern | str]


def prune_to_patterns(
    model: nn.Module,
    calibration: Calibration,
    pattern: LayerPatterns,
    transposable: bool,
    wanted: LayerFilter,
    method: LayerMethod,
    settings: Settings,
) -> PruningReport:
    """Find the layers that are wanted, and prune each to the pattern, or to its own, in place.

    Raises:
        InvalidProblemError: what `find_layers`, `make_plans` and `prune` refuse.
    """
    if isinstance(pattern, Mapping):
        pattern = by_layer(model, pattern)
        # Whoever names a layer wants it pruned, wherever it stands.
        wanted = dataclasses.replace(wanted, named=pattern)
    layers, skipped = find_layers(model, calibration, wanted, partial(_narrow, pattern, transposable))
    plans, left = make_plans(layers, skipped, pattern, transposable)
    return prune(model, calibration, plans, skipped | left, method, settings)


def _narrow(pattern: LayerPatterns, transposable: bool, view: WeightView) -> str:
    return "" if isinstance(pattern, Mapping) else narrower_than(view, Pattern.parse(pattern), transposable)


def by_layer(model: nn.Module, patterns: Mapping[str, Pattern | str]) -> dict[str, Pattern | str]:
    """The same patterns by the full names of layers; a module's name stands for its weight's.

    Raises:
        InvalidProblemError: two patterns for one layer.
    """
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    found = dict[str, Pattern | str]()
    for name, text in patterns.items():
        layer = full_name(name, known)
        if layer in found:
            raise InvalidProblemError(f"layer {layer!r} is given two patterns; give one")
        found[layer] = text
    return found


def make_plans(
    layers: list[Prunable], skipped: Mapping[str, str], pattern: LayerPatterns, transposable: bool
) -> tuple[list[Plan], dict[str, str]]:
    """The layers that get the pattern, or each its own (by its full name), and reasons for those that get none.

    Raises:
        InvalidProblemError: a name that is no such layer, or no layer that is wide enough.
    """
    each = isinstance(pattern, Mapping)
    patterns = _by_layer([layer.name for layer in layers], skipped, pattern)
    plans, left = [], dict[str, str]()
    for layer in layers:
        chosen = patterns.get(layer.name, patterns.get(parameter_of(layer.name)))
        if chosen is None:
            left[layer.name] = "no pattern is given for it"
        elif reason := narrower_than(layer.view, chosen, transposable):
            # One pattern for all passes over what is too narrow; one that is meant for this layer is a mistake.
            if each:
                raise InvalidProblemError(f"layer {layer.name!r}: {reason}")
            left[layer.name] = reason
        else:
            plans.append(Plan(layer, chosen))
    if not plans:
        raise no_layer({**skipped, **left})
    return plans, left


def _by_layer(names: list[str], skipped: Mapping[str, str], pattern: LayerPatterns) -> dict[str, Pattern]:
    """The pattern of each layer, from one for all of these names or from a pattern each.

    Raises:
        InvalidProblemError: a pattern for a layer that is not among them.
    """
    if not isinstance(pattern, Mapping):
        return dict.fromkeys(names, Pattern.parse(pattern))
    patterns = {name: Pattern.parse(text) for name, text in pattern.items()}
    for name in patterns:
        # A pattern that is passed over in silence leaves a layer dense that somebody has asked to prune.
        if name not in names and name not in map(parameter_of, names):
            reason = skipped.get(name, f"the model has no such layer; those it could prune are {', '.join(names)}")
            raise InvalidProblemError(f"a pattern is given for layer {name!r}, which is not pruned: {reason}")
    return patterns
