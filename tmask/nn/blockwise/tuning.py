"""A pruned block tuned as a whole: gradient steps on its kept weights, norms and biases, to what the dense block gives.

Matrices are pruned one after the other, each to its own outputs; what counts for the model is what leaves the block.

Source: block-wise fine-tuning on the outputs of the dense block, EBFT, arXiv 2402.12419.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.blockwise.calls import BlockCall
from tmask.nn.blockwise.collecting import Twin
from tmask.nn.blockwise.states import States


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a block is tuned.

    Args:
        epochs: over the calibration data.
        learning_rate: of Adam at the start, in units of each parameter's own root mean square, so that one number
            serves parameters of any scale; it falls to 0 along a cosine.
    """

    epochs: int = 2
    learning_rate: float = 0.02

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or isinstance(self.epochs, bool) or self.epochs < 1:
            raise InvalidProblemError(f"epochs {self.epochs!r} must be a whole number, at least 1")
        if not 0 < self.learning_rate < float("inf"):
            raise InvalidProblemError(f"learning_rate {self.learning_rate!r} must be a number above 0")


def tune_block(
    pruned: Twin, targets: States, calls: Sequence[BlockCall], masks: Mapping[str, Tensor], settings: Tuning
) -> tuple[float, float]:
    """Tune the parameters of a block in place; what masks prune stays 0.

    Args:
        targets: what the dense block gives, batch by batch.
        masks: by the names of the block's parameters.
    Returns:
        The relative squared error of the block's outputs in the first and in the last epoch, as they ran.
    """
    parameters = {name: p for name, p in pruned.block.named_parameters() if p.is_floating_point()}
    optimizer = torch.optim.Adam(_groups(parameters, masks, settings.learning_rate), betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * len(calls))
    history: list[float] = []
    with _training(parameters), torch.enable_grad():
        for _ in range(settings.epochs):
            missed = square = 0.0
            for number, call in enumerate(calls):
                target = targets[number]
                lost = (call.on(pruned.block, pruned.states[number]) - target).float().square().sum()
                size = float(target.float().square().sum())
                torch.autograd.backward(lost / size if size > 0 else lost)
                _step(optimizer, parameters, masks)
                schedule.step()
                missed, square = missed + float(lost.detach()), square + size
            history.append(missed / square if square > 0 else 0.0)
    return history[0], history[-1]


def _groups(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], rate: float) -> list[dict[str, Any]]:
    groups = []
    for name, parameter in parameters.items():
        kept = parameter.detach()[masks[name]] if name in masks else parameter.detach()
        size = float(kept.float().square().mean().sqrt()) if kept.numel() else 0.0
        groups.append({"params": [parameter], "lr": rate * (size or 1.0)})
    return groups


def _step(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        grad = parameters[name].grad
        if grad is not None:
            grad.mul_(mask)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0.0)


@contextmanager
def _training(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """All take gradients inside, and those that did so before afterwards."""
    wanted = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(wanted[name])
            parameter.grad = None
