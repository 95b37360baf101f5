"""Weights of a layer as they change in training: what a warm start of bench.matrix is measured on."""

from __future__ import annotations

import functools
from typing import Any

from bench.matrix_calls import Matrix


@functools.cache
def layer_in_training(optimizer: str) -> dict[int, Matrix]:
    """Weights of the middle layer of a network on scikit-learn's digits, by steps after the 200th."""
    import torch
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    hidden = torch.nn.Linear(1024, 1024)
    layers = (torch.nn.Linear(64, 1024), torch.nn.ReLU(), hidden, torch.nn.ReLU(), torch.nn.Linear(1024, 10))
    network = torch.nn.Sequential(*layers)
    settings: dict[str, Any] = {"lr": 0.05, "momentum": 0.9} if optimizer == "SGD" else {"lr": 1e-3}
    descent = getattr(torch.optim, optimizer)(network.parameters(), **settings)
    snapshots = {}
    for step in range(241):
        if step - 200 in (0, 1, 10, 40):
            # numpy() shares memory with the weight, which the next step changes.
            snapshots[step - 200] = hidden.weight.detach().numpy().copy()
        batch = torch.randint(len(images), (128,))
        loss = torch.nn.functional.cross_entropy(network(images[batch]), labels[batch])
        descent.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
    return snapshots
