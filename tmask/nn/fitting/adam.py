"""Refit the kept weights of a layer by Adam, the way of the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from tmask.nn.calibration.gram import Gram


def adam(gram: Gram, start: Tensor, mask: Tensor, steps: int, learning_rate: float) -> Tensor:
    """The weights (G, R, C) that Adam reaches from the start, projected on the mask at every step.

    As AdaPrune of [Hubara2021], except that the gradient is that of all samples, through the Gram matrix, where the
    paper draws 50 cached inputs a step: no activations are held, and nothing is random.

    Args:
        gram, start, mask: as in `least_squares`.
        steps: of Adam.
        learning_rate: of the weights.
    Cost: R C^2 multiplications a step.
    """
    weight = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=learning_rate)
    # The gradient of the mean over samples, so that a learning rate means the same for any amount of data.
    scale = 2 / max(1, gram.samples)
    for _ in range(steps):
        with torch.no_grad():
            # In closed form from the sums, so that no graph is built for a step.
            weight.grad = scale * (weight @ gram.xx - gram.xy.transpose(1, 2)) * mask
        optimizer.step()
    # Adam promises no descent: a row that it made worse stays at its start.
    return gram.better_rows(start, weight.detach() * mask)
