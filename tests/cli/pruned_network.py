"""Models that `tmask convert` builds by name in the tests."""

from __future__ import annotations

import torch
from torch import nn


def network() -> nn.Sequential:
    """Rows (B, 16) -> (B, 4)."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Linear(32, 4))


def sparse_network(zeros: float = 0.6) -> nn.Sequential:
    """With zeros anywhere in the first two weights."""
    model = network().eval()
    for layer in (model[0], model[2]):
        mask = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(1)) >= zeros
        with torch.no_grad():
            layer.weight.copy_(torch.where(mask, layer.weight, 0))
    return model


class Language(nn.Module):
    """Ids of tokens (B, T) -> scores of the next (B, T, 40), by the weight of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.a, self.b = nn.Embedding(40, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The scores."""
        scores: torch.Tensor = self.head(self.b(torch.relu(self.a(self.tokens(ids)))))
        return scores


def language() -> Language:
    """With zeros anywhere in the layer between."""
    torch.manual_seed(0)
    model = Language().eval()
    with torch.no_grad():
        model.a.weight *= torch.rand(model.a.weight.shape) >= 0.6
    return model


def not_a_model() -> str:
    return "text"
