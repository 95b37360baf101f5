"""The kept values of a weight, gathered along its rows and along its columns into memory that stays.

This is all that packing does at a step of the optimizer once the mask's metadata are there. It is in torch's own
operations; a kernel that writes both directions at once would take the place of `write_kept`.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_INT32 = 2**31


def kept_places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where the kept entries of a mask (rows, cols) lie in a contiguous weight: row by row, and column by column.

    Two vectors of rows * cols / 2 places, int32 where that suffices: they stay in memory as long as the mask.
    """
    rows, cols = mask.shape
    dtype = torch.int32 if mask.numel() <= _MOST_INT32 else torch.int64
    by_rows = mask.reshape(-1).nonzero()[:, 0]
    transposed = mask.t().reshape(-1).nonzero()[:, 0]
    by_columns = transposed % rows * cols + transposed // rows
    return by_rows.to(dtype), by_columns.to(dtype)


def write_kept(weight: Tensor, places: Tensor, out: Tensor) -> None:
    """Write the entries at these places of a contiguous weight to a vector, in the memory that it has."""
    torch.index_select(weight.view(-1), 0, places, out=out)
