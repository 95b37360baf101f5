"""Smooth masks: kept weights shrink by a share of the price at which they would be pruned, and are scaled up again.

Under a hard mask an entry that changes sides at a renewal changes the product by its whole weight. [Hu2024b] (S-STE)
subtracts the largest pruned magnitude of each group from what is kept, so that an entry is near 0 when it changes
sides. In a transposable block the row and column prices of the linear program take that magnitude's place: entry (i, j)
is kept where |W_ij| > u_i + v_j, and pruned where it is less.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tmask.blocks.pattern import Pattern
from tmask.blocks.tensor_blocks import cut_region, cut_tiles, join_padded, padded_blocks, to_matrices
from tmask.blocks.tiling import Tiling
from tmask.nn.mask.cutting import Cutting
from tmask.nn.mask.masking import apply_mask

# Midpoints come close to the optimal prices in a few rounds; what is left only moves thresholds a little.
_ROUNDS = 8


def midpoint_prices(score: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Row and column prices by alternating midpoints, the iteration of docs/explanation/exactness.md.

    Args:
        score: (B, m, m), >= 0.
        n: entries kept per row and column, below m.
    Returns:
        u (B, m) and v (B, m), continuous functions of the score.
    """
    v = _midpoint(score.mT, n)
    u = torch.zeros_like(v)
    for _ in range(_ROUNDS):
        u = _midpoint(score - v[:, None, :], n)
        v = _midpoint((score - u[:, :, None]).mT, n)
    return u, v


def _midpoint(lines: Tensor, n: int) -> Tensor:
    """Half way between the n-th and the (n+1)-th largest of each line (B, m, m)."""
    best = lines.topk(n + 1, dim=2).values
    return best[..., n - 1 : n + 1].mean(2)


@torch.no_grad()
def thresholds(weight: Tensor, pattern: Pattern | None, cutting: Cutting) -> Tensor:
    """The price u_i + v_j of every entry, of the weight's shape and dtype; at least 0, and 0 where all are kept."""
    result = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    if pattern is None or pattern.n == pattern.m:
        return result
    tiling = Tiling(tuple(weight.shape), pattern, cutting.groups, cutting.layout)
    # Half types would round midpoints to the values between which they lie.
    score = to_matrices(tiling, weight.abs().to(torch.promote_types(weight.dtype, torch.float32)).contiguous())
    out = to_matrices(tiling, result)
    for region in tiling.regions():
        blocks = (
            cut_tiles(cut_region(region, score), region.height, region.width).reshape(-1, region.side, region.side)
            if region.full
            else padded_blocks(region, score)
        )
        u, v = midpoint_prices(blocks, pattern.n)
        join_padded(region, (u[:, :, None] + v[:, None, :]).clamp(min=0).to(weight.dtype), out)
    return result


@torch.no_grad()
def fitting_scale(weight: Tensor, shrunk: Tensor) -> Tensor:
    """The factor of what is shrunk that comes closest to the weight, in squares; 1 where nothing is left.

    Source: [Hu2024b], which also keeps it fixed from there on.
    """
    whole, part = weight.double().flatten(), shrunk.double().flatten()
    square = part @ part
    return torch.where(square > 0, whole @ part / square, 1.0)


def shrink(weight: Tensor, mask: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
    """scale * sign(W) * max(|W| - threshold, 0) where the mask keeps, +0.0 elsewhere."""
    return apply_mask(scale * (weight - weight.clamp(-threshold, threshold)), mask)


class ShrunkStraightThrough(torch.autograd.Function):
    """`shrink`, whose gradient passes to the weight whole."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, mask: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
        return shrink(weight, mask, threshold, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is saved: the gradient depends on none of them."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None, None, None]:
        return grads[0], None, None, None
