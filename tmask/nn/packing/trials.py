"""Masks for trials: products are verified and timed under one, when there is no layer yet whose own could serve."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def random_mask(rows: int, cols: int, device: torch.device, seed: int = 0) -> Tensor:
    """A 2:4 transposable mask for trials, (rows, cols) bool; every kind of block occurs."""
    # Drawn on the CPU, which may not be the default device: on every device the same mask.
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(_BLOCKS), (rows // 4, cols // 4), generator=generator, device="cpu")
    blocks = _BLOCKS.to(device)[chosen.to(device)]  # (rows / 4, cols / 4, 4, 4)
    return blocks.transpose(1, 2).reshape(rows, cols)


def _all_blocks() -> Tensor:
    """The 90 blocks with two entries in every row and column, (90, 4, 4) bool."""
    pairs = [sum(1 << i for i in kept) for kept in itertools.combinations(range(4), 2)]
    bits = torch.tensor(list(itertools.product(pairs, repeat=4)), device="cpu")  # (6^4, 4): a row's bits
    blocks = (bits[..., None] >> torch.arange(4, device="cpu") & 1).bool()
    return blocks[(blocks.sum(1) == 2).all(1)]


_BLOCKS = _all_blocks()
