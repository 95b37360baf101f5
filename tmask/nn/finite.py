"""Looking for weights that have become NaN or infinite, between renewals too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.layer import SparseLayer
from tmask.nn.parametrization import is_sharded, local_part
from tmask.nn.ranks import Ranks, together

_EVERY = 40  # steps, where a look makes the processor wait for a GPU


def is_due(layers: Sequence[SparseLayer], step: int, every: int | None) -> bool:
    """Whether weights are looked at after this step.

    Args:
        every: steps between two looks; 0 for never; None for each step where all weights are on the CPU, and every 40
            elsewhere.
    """
    if every is None:
        every = 1 if all(layer.weight.device.type == "cpu" for layer in layers) else _EVERY
    return every > 0 and step % every == 0


@torch.no_grad()
def check_finite(layers: Sequence[SparseLayer], step: int, ranks: Ranks | None) -> None:
    """Return if every dense weight is finite, on all ranks where `fully_shard` has cut it; others are alike on all.

    Raises:
        InvalidProblemError: names the step, the layer, and the place of the first number that is not.
    Cost: one reduction of each weight, and one synchronisation for each device.
    """
    sharded = any(is_sharded(layer.weight) for layer in layers)
    with together(ranks if sharded else None):
        _check_own(layers, step)


def _check_own(layers: Sequence[SparseLayer], step: int) -> None:
    """As `check_finite`, for what this rank holds."""
    found: dict[torch.device, list[tuple[SparseLayer, Tensor]]] = defaultdict(list)
    for layer in layers:
        part = local_part(layer.weight)
        if part.numel():
            low, high = torch.aminmax(part)  # a NaN is both
            found[part.device].append((layer, torch.isfinite(low) & torch.isfinite(high)))
    for pairs in found.values():
        for (layer, _), finite in zip(pairs, torch.stack([flag for _, flag in pairs]).tolist(), strict=True):
            if not finite:
                bad = ~torch.isfinite(local_part(layer.weight))
                raise InvalidProblemError(
                    f"step {step}, layer {layer.name!r}: weight: {int(bad.sum())} NaN or infinite values after the "
                    f"optimizer's step, first at index {tuple(bad.nonzero()[0].tolist())}; a gradient overflowed, or "
                    "the learning rate is too high"
                )
