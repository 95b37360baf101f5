"""Random 2:4 transposable masks: each 4 x 4 block is any of the 90."""

from __future__ import annotations

import itertools

import torch

ROWS = [torch.tensor([i in kept for i in range(4)]) for kept in itertools.combinations(range(4), 2)]
BLOCKS = torch.stack(
    [block for rows in itertools.product(ROWS, repeat=4) if (block := torch.stack(rows)).sum(0).eq(2).all()]
)


def random_mask(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    chosen = torch.randint(len(BLOCKS), (rows // 4, cols // 4), generator=torch.Generator().manual_seed(seed))
    return BLOCKS[chosen].permute(0, 2, 1, 3).reshape(rows, cols)  # (row of blocks, row, column of blocks, column)
