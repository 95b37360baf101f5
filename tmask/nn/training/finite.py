"""Looking for weights that have become NaN or infinite, between renewals too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from tmask.errors import InvalidProblemError
from tmask.nn.layers.layer import SparseLayer
from tmask.nn.mask.shards import local_part

_EVERY = 40  # steps, where a look makes the processor wait for a GPU


def looks_at(layers: Sequence[SparseLayer], step: int, every: int | None) -> bool:
    """Whether weights are looked at after this step.

    Args:
        every: steps between two looks; 0 for never; None for each step where all weights are on the CPU, and every 40
            elsewhere.
    """
    if every is None:
        every = 1 if all(layer.weight.device.type == "cpu" for layer in layers) else _EVERY
    return every > 0 and step % every == 0


@torch.no_grad()
def check_finite(layers: Sequence[SparseLayer], step: int) -> None:
    """Return if what this rank holds of every dense weight is finite.

    Raises:
        InvalidProblemError: names the step, the layer, and the place of the first number that is not.
    Cost: one reduction of each weight, and one synchronisation for each device and dtype.
    """
    # Of a small weight a rank may hold nothing, and `aminmax` takes no empty tensor.
    parts = {layer.name: part for layer in layers if (part := local_part(layer.weight)).numel()}
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
