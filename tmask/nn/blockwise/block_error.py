"""How far the hidden states behind a block have come from the dense model's, when all is done to it."""

from __future__ import annotations

import torch
from torch import distributed as dist

from tmask.nn.blockwise.memory.states import States
from tmask.nn.distributed.ranks import Ranks


def block_error(pruned: States, dense: States, ranks: Ranks | None = None) -> float:
    """||pruned - dense||^2 / ||dense||^2 over the batches of all processes; 0 where the dense states are 0.

    After tuning and rounding, and with what the blocks before have lost: unlike the errors of matrices, which are
    taken when each is pruned.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    for number in range(len(dense)):
        target = dense[number].double()
        missed = (pruned[number].double() - target).square().sum()
        sums += torch.stack([missed, target.square().sum()]).cpu()
    if ranks is not None:
        # On the states' device: not every way to communicate takes tensors on the CPU.
        sums = sums.to(dense[0].device)
        dist.all_reduce(sums)
    missed_all, size = sums.tolist()
    return float(missed_all / size) if size > 0 else 0.0
