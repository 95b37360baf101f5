"""Small models and data for the tests of pruning."""

from __future__ import annotations

import torch
from torch import nn


class ConvNet(nn.Module):
    """Images (B, 3, 8, 8) -> (B, 5): two convolutions with batch norms, a grouped one with bias, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.bn0(self.stem(x)))
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.conv2(x))
        return self.head(x.mean((2, 3)))


def conv_net(seed: int = 0) -> ConvNet:
    """In evaluation mode, batch norms away from their initial state."""
    torch.manual_seed(seed)
    model = ConvNet()
    for norm in (model.bn0, model.bn1):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


def images(count: int = 48, batch: int = 16, seed: int = 1) -> list[torch.Tensor]:
    """Batches of images, smooth enough that neighbouring inputs depend on one another."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, 10, 10, generator=generator)
    return list(nn.functional.avg_pool2d(noise, 3, 1).split(batch))


def mlp(seed: int = 0, width: int = 16) -> nn.Sequential:
    """Rows (B, width) -> (B, 4), three linear layers."""
    torch.manual_seed(seed)
    layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width, bias=False), nn.ReLU(), nn.Linear(width, 4)]
    return nn.Sequential(*layers).eval()


def rows(count: int = 200, width: int = 16, batch: int = 50, seed: int = 1) -> list[torch.Tensor]:
    """Batches of rows whose entries depend on one another."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return list((mixed / 4).split(batch))
