"""Masks in a saved state: whether they are still ones that were found, and which layer they belong to.

Read from the state alone, so that a checkpoint can be judged without its model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.mask.shards import is_sharded
from tmask.nn.mask.terms import LENGTH, Terms


def check_saved(
    state: Mapping[str, Any], prefix: str, target: Pattern | None = None, shape: torch.Size | None = None
) -> None:
    """Return if the mask under a prefix of a state dict is one that was found under its terms.

    Shards cannot be judged, and are not; nor is what the state lacks, or what does not fit, which torch refuses.

    Args:
        target: the pattern that the model which loads it is to end with; None where there is no model.
        shape: of that model's mask.
    Raises:
        InvalidProblemError: it was trained with another pattern, or has no terms; names the layer.
        InvalidMaskError: it is no such mask.
    """
    mask, numbers = state.get(f"{prefix}mask"), state.get(f"{prefix}terms")
    # torch itself lists what is missing and what has another shape, for all layers at once.
    if mask is None or numbers is None or len(numbers) != LENGTH:
        return
    name = layer_name(prefix)
    terms = Terms.of(numbers.tolist(), name)
    if target is not None and terms.target != target:
        raise InvalidProblemError(
            f"layer {name!r}: the checkpoint was trained with pattern {terms.target}, this model with "
            f"{target}; call sparsify with the checkpoint's pattern before loading it. Loading has stopped "
            "here: layers before this one hold the checkpoint's weights by now"
        )
    if not is_sharded(mask) and shape in (None, mask.shape):
        terms.check(mask, name)


def layer_name(path: str) -> str:
    """The parameter's own name behind the path of its parametrization in the model."""
    return path.removesuffix(".").removesuffix(".0").replace("parametrizations.", "")
