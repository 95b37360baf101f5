"""A pruned block tuned as a whole: gradient steps on its kept weights, norms and biases, to what the dense block gives.

Matrices are pruned one after the other, each to its own outputs; what counts for the model is what leaves the block.

Source: block-wise fine-tuning on the outputs of the dense block, EBFT, arXiv 2402.12419.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from tmask.errors import InvalidProblemError
from tmask.nn.blockwise.calls import BlockCall
from tmask.nn.blockwise.collecting import Twin
from tmask.nn.blockwise.memory.states import States
from tmask.nn.distributed.ranks import Ranks
from tmask.nn.methods.settings import at_least


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a block is tuned.

    Args:
        epochs: over the calibration data.
        learning_rate: of Adam at the start, in units of each parameter's own root mean square, so that one number
            serves parameters of any scale; it falls to 0 along a cosine.
        batches: of the calibration data in each step. Several processes share these out among themselves, so that with
            fewer than there are processes some of them wait; what comes out does not depend on the processes.
    """

    epochs: int = 2
    learning_rate: float = 0.02
    batches: int = 1

    def __post_init__(self) -> None:
        at_least("epochs", self.epochs, 1)
        at_least("batches", self.batches, 1)
        if not 0 < self.learning_rate < float("inf"):
            raise InvalidProblemError(f"learning_rate {self.learning_rate!r} must be a number above 0")


def tune_block(
    pruned: Twin,
    targets: States,
    calls: Sequence[BlockCall],
    masks: Mapping[str, Tensor],
    settings: Tuning,
    ranks: Ranks | None = None,
) -> tuple[float, float]:
    """Tune the parameters of a block in place; what masks prune stays 0.

    Args:
        targets: what the dense block gives, batch by batch.
        masks: by the names of the block's parameters.
        ranks: the processes, each with every world-th of the batches. Gradients are added up, so that all take the
            steps of one process with all batches.
    Returns:
        The relative squared error of the block's outputs in the first and in the last epoch, as they ran.
    """
    parameters = {name: p for name, p in pruned.block.named_parameters() if p.is_floating_point()}
    steps = _Steps.of(targets, len(calls), settings.batches, ranks)
    optimizer = torch.optim.Adam(_groups(parameters, masks, settings.learning_rate), betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * len(steps.sizes))
    history: list[float] = []
    with _training(parameters), torch.enable_grad():
        for _ in range(settings.epochs):
            missed = 0.0
            for size, own in zip(steps.sizes, steps.own, strict=True):
                with _failing_alike(ranks, targets[0].device):
                    for number in own:
                        output = calls[number].on(pruned.block, pruned.states[number])
                        lost = (output - targets[number]).float().square().sum()
                        torch.autograd.backward(lost / size if size > 0 else lost)
                        missed += float(lost.detach())
                if ranks is not None:
                    _add_up(parameters.values())
                with _failing_alike(ranks, targets[0].device):
                    _step(optimizer, parameters, masks)
                schedule.step()
            history.append(missed)
    if ranks is not None:
        total = torch.tensor(history, dtype=torch.float64, device=targets[0].device)
        dist.all_reduce(total)
        history = total.tolist()
    square = sum(steps.sizes)
    return (history[0] / square, history[-1] / square) if square > 0 else (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps of an epoch: squares of their targets, and which of this process's batches belong to each."""

    sizes: list[float]
    own: list[list[int]]

    @classmethod
    def of(cls, targets: States, count: int, batches: int, ranks: Ranks | None) -> _Steps:
        squares = [float(targets[number].float().square().sum()) for number in range(count)]
        world, rank = (1, 0) if ranks is None else (ranks.size, ranks.index)
        shares = [squares] if ranks is None else ranks.gather(squares)
        # The batches were dealt out one by one, see `share`.
        every = [shares[k % world][k // world] for k in range(sum(map(len, shares)))]
        begins = range(0, len(every), batches)
        sizes = [sum(every[begin : begin + batches]) for begin in begins]
        own = [
            [k // world for k in range(begin, min(begin + batches, len(every))) if k % world == rank]
            for begin in begins
        ]
        return cls(sizes, own)


@contextmanager
def _failing_alike(ranks: Ranks | None, device: torch.device) -> Iterator[None]:
    """What fails inside on one rank is raised on all: one number on the wire, where steps are many and small."""
    if ranks is None:
        yield
        return
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    ranks.check_none_failed(failed, device)


def _add_up(parameters: Iterable[nn.Parameter]) -> None:
    """The gradients of all processes; a parameter that no process has come to has none, as in one process."""
    for parameter in parameters:
        found = torch.tensor(int(parameter.grad is not None), device=parameter.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        if found.item():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(gradient)
            parameter.grad = gradient


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
