"""Mask diversity of the layers of a model as it stands in memory."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from tmask.blocks.pattern import Pattern
from tmask.diversity import CONSTRAINTS, Diversity
from tmask.diversity import model_diversity as diversity_of_shapes
from tmask.errors import InvalidProblemError
from tmask.nn.calibration.linear_view import CONVOLUTIONS
from tmask.nn.names import ByLayer, weight_name


def model_diversity(
    model: nn.Module, pattern: Pattern | str, constraints: Iterable[str] = CONSTRAINTS
) -> ByLayer[dict[str, Diversity]]:
    """The diversity of each linear and convolution layer, under each constraint, at one pattern.

    Args:
        model: its weights are not read, only their shapes and the groups of convolutions.
    Returns:
        By the full name of the layer's weight (a module's name finds it too), then by constraint, as
        `tmask.diversity.model_diversity`.
    Raises:
        InvalidProblemError: no such layer, and what `tmask.diversity.model_diversity` raises.
    """
    layers = {
        weight_name(name): module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS))
    }
    if not layers:
        raise InvalidProblemError("the model has no linear or convolution layer")
    found = diversity_of_shapes(
        {name: tuple(module.weight.shape) for name, module in layers.items()},
        pattern,
        constraints,
        # No tile crosses the groups of a convolution.
        groups={name: module.groups for name, module in layers.items() if isinstance(module, CONVOLUTIONS)},
        layouts=dict.fromkeys(layers, "convolution"),
    )
    return ByLayer(found)
