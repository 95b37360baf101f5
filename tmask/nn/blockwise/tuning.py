"""A pruned block tuned as a whole: gradient steps on its kept weights, norms and biases, to what the dense block gives.

Matrices are pruned one after the other, each to its own outputs; what counts for the model is what leaves the block.

Source: [EBFT]: block-wise fine-tuning on the outputs of the dense block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.blockwise.blocks import BlockCall
from tmask.nn.blockwise.collecting import Twin
from tmask.nn.blockwise.states import States


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a block is tuned.

    Args:
        epochs: over the calibration data.
        learning_rate: of Adam at the start; it falls to 0 along a cosine.
        relative: whether each weight matrix's rate is in units of its own root mean square, so that one number serves
            matrices of any scale.
    """

    epochs: int = 2
    learning_rate: float = 0.02

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or isinstance(self.epochs, bool) or self.epochs < 1:
            raise InvalidProblemError(f"epochs {self.epochs!r} must be a whole number, at least 1")
        if not 0 < self.learning_rate < float("inf"):
            raise InvalidProblemError(f"learning_rate {self.learning_rate!r} must be a number above 0")


def tune_block(
    pruned: Twin,
    targets: States,
    calls: Sequence[BlockCall],
    counted: Sequence[Tensor | None],
    masks: Mapping[str, Tensor],
    settings: Tuning,
) -> tuple[float, float]:
    """Tune the parameters of a block in place; what masks prune stays 0.

    Args:
        targets: what the dense block gives, batch by batch.
        masks: by the names of the block's parameters.
    Returns:
        The relative squared error of the block's outputs before and after, each over an epoch as it ran.
    """
    block = pruned.block
    parameters = {name: p for name, p in block.named_parameters() if p.is_floating_point()}
    wanted = {name: p.requires_grad for name, p in parameters.items()}
    groups = []
    for name, parameter in parameters.items():
        parameter.requires_grad_(True)
        kept = parameter.detach()[masks[name]] if name in masks else parameter.detach()
        size = float(kept.float().square().mean().sqrt()) or 1.0
        groups.append({"params": [parameter], "lr": settings.learning_rate * size})
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    steps = settings.epochs * len(calls)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history: list[float] = []
    try:
        with torch.enable_grad():
            for _ in range(settings.epochs):
                missed = square = 0.0
                for number, call in enumerate(calls):
                    target = targets[number]
                    out = call.on(block, pruned.states[number])
                    keep = counted[number]
                    difference = (out - target).flatten(0, -2)
                    whole = target.flatten(0, -2)
                    if keep is not None:
                        difference, whole = difference[keep], whole[keep]
                    lost, size = difference.float().square().sum(), float(whole.float().square().sum())
                    torch.autograd.backward(lost / size)
                    for name, mask in masks.items():
                        grad = parameters[name].grad
                        if grad is not None:
                            grad.mul_(mask)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad(set_to_none=True)
                    with torch.no_grad():
                        for name, mask in masks.items():
                            parameters[name].masked_fill_(~mask, 0.0)
                    missed, square = missed + float(lost.detach()), square + size
                history.append(missed / square if square else 0.0)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(wanted[name])
    return history[0], history[-1]
