"""One block of a GPT, with a training step around it, to measure masks in their usual surroundings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

_HEAD = 64  # width of an attention head


class GptBlock(nn.Module):
    """Pre-norm attention and MLP on (batch, sequence, width); four linear layers, all without bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.projection = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm_attention(x)).view(batch, length, 3, width // _HEAD, _HEAD)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (batch, heads, sequence, 64)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).reshape(batch, length, width))
        x = x + self.down(functional.gelu(self.up(self.norm_mlp(x))))
        return x


def gradients(block: GptBlock, x: Tensor) -> Callable[[], None]:
    """Forward and backward on a fixed batch."""

    def passes() -> None:
        block(x).float().square().mean().backward()

    return passes


def training_step(block: GptBlock, optimizer: torch.optim.Optimizer, x: Tensor) -> Callable[[], None]:
    """A whole step on a fixed batch: forward, backward, optimizer with its hooks."""

    def step() -> None:
        block(x).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
