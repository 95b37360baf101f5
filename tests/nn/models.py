"""Small seeded models with every kind of layer that matters, and a step of training."""

from __future__ import annotations

import torch
from torch import nn


def mlp(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Two layers, (16, 8) and (12, 16)."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 12)).to(dtype)


class Attention(nn.Module):
    """Attention alone, called as torch calls it in its layers."""

    def __init__(self, **kwargs):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **kwargs)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Conv1D(nn.Module):
    """GPT-2's linear layer, as the transformers library has it: a weight (in, out), named like a convolution."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, self.nx), self.weight).view(*x.shape[:-1], self.nf)


class Tied(nn.Module):
    """Two linear layers that share a weight, and a head that shares one with an embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(self.embed(tokens))))))


def batch(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> list[float]:
    """The losses of some steps on batches (4, 8) numbered from `first`."""
    losses = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss = model(batch((4, 8), step)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
