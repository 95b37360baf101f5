"""From layers and patterns to what each layer is to become."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.fitting.fit import Plan
from tmask.nn.fitting.prunable import Prunable, narrower_than

Patterns = Pattern | str | Mapping[str, Pattern | str]


def by_module(model: nn.Module, pattern: Patterns) -> Patterns:
    """The same patterns, those of a mapping by the names of modules; a weight's name stands for its module's.

    Raises:
        InvalidProblemError: two patterns for one layer.
    """
    if not isinstance(pattern, Mapping):
        return pattern
    modules, patterns = dict(model.named_modules()), dict[str, Pattern | str]()
    for name, text in pattern.items():
        layer = name if name in modules else str(name).removesuffix(".weight")
        if layer in patterns:
            raise InvalidProblemError(f"layer {layer!r} is given two patterns; give one")
        patterns[layer] = text
    return patterns


def make_plans(
    layers: list[Prunable], skipped: dict[str, str], pattern: Patterns, transposable: bool
) -> tuple[list[Plan], dict[str, str]]:
    """The layers that get the pattern, or each its own (by the module's name), and reasons for those that get none.

    Raises:
        InvalidProblemError: a name that is no such layer, or no layer that is wide enough.
    """
    each = isinstance(pattern, Mapping)
    patterns = (
        {name: Pattern.parse(text) for name, text in pattern.items()}
        if isinstance(pattern, Mapping)
        else dict.fromkeys((layer.name for layer in layers), Pattern.parse(pattern))
    )
    names = {layer.name for layer in layers}
    for name in patterns:
        if name not in names:
            reason = skipped.get(name, f"the model has no such layer; those it could prune are {', '.join(names)}")
            raise InvalidProblemError(f"a pattern is given for layer {name!r}, which is not pruned: {reason}")
    plans, left = [], dict(skipped)
    for layer in layers:
        chosen = patterns.get(layer.name)
        if chosen is None:
            left[layer.name] = "no pattern is given for it"
        elif reason := narrower_than(layer.view, chosen, transposable):
            if each:
                raise InvalidProblemError(f"layer {layer.name!r}: {reason}")
            left[layer.name] = reason
        else:
            plans.append(Plan(layer, chosen, transposable))
    if not plans:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:10])
        raise InvalidProblemError(f"the model has no eligible layer ({reasons})")
    return plans, left
