"""Looking for weights that have become NaN or infinite, between renewals too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.distributed.ranks import Ranks, together
from tmask.nn.layers.layer import SparseLayer
from tmask.nn.mask.shards import is_sharded, local_part

_EVERY = 40  # steps, where a look makes the processor wait for a GPU


@torch.no_grad()
def check_finite(layers: Sequence[SparseLayer], step: int, every: int | None, ranks: Ranks | None) -> None:
    """Return if every dense weight is finite, or is not to be looked at after this step.

    Args:
        every: steps between two looks; 0 for never; None for each step where all weights are on the CPU, and every 40
            elsewhere.
        ranks: that share the weights where `fully_shard` has cut them; weights that are whole are alike on all.
    Raises:
        InvalidProblemError: names the step, the layer, and the place of the first number that is not.
    Cost: one reduction of each weight, and one synchronisation for each device and dtype.
    """
    if every == 0:
        return
    weights = {layer.name: layer.weight for layer in layers}
    if every is None:
        every = 1 if all(weight.device.type == "cpu" for weight in weights.values()) else _EVERY
    if step % every:
        return
    sharded = any(map(is_sharded, weights.values()))
    # Whole weights are alike on all ranks, which fail together without asking one another at every step.
    # Of a small weight a rank may hold nothing, and `aminmax` takes no empty tensor.
    with together(ranks if sharded else None):
        _check_own({name: part for name, weight in weights.items() if (part := local_part(weight)).numel()}, step)


def _check_own(parts: Mapping[str, Tensor], step: int) -> None:
    """As `check_finite`, for what this rank holds."""
    kinds: dict[tuple[torch.device, torch.dtype], list[str]] = defaultdict(list)
    for name, part in parts.items():
        kinds[part.device, part.dtype].append(name)
    for names in kinds.values():
        # Stacked, so that a GPU is waited for once, not once a layer; of a weight with a NaN both extremes are NaN.
        extremes = torch.stack([extreme for name in names for extreme in torch.aminmax(parts[name])])
        for name, finite in zip(names, extremes.isfinite().view(-1, 2).all(1).tolist(), strict=True):
            if not finite:
                bad = ~torch.isfinite(parts[name])
                raise InvalidProblemError(
                    f"step {step}, layer {name!r}: weight: {int(bad.sum())} NaN or infinite values after the "
                    f"optimizer's step, first at index {tuple(bad.nonzero()[0].tolist())}; a gradient overflowed, or "
                    "the learning rate is too high"
                )
