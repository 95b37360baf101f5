"""The greedy that keeps, and its repair, in torch: no loop goes over blocks, and all steps stay on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_in_order(order: Tensor, n: int, side: int) -> Tensor:
    """(B, m, m) bool: entries are kept in the order given, where row and column have room.

    Args:
        order: (B, m * m) int64, indices i * m + j of each block.
    """
    num_blocks = len(order)
    kept = torch.zeros(order.shape, dtype=torch.bool, device=order.device)
    room = torch.full((num_blocks, 2 * side), n, dtype=torch.int32, device=order.device)  # of rows, then of columns
    for place in order.T.contiguous().unsqueeze(2):  # (B, 1)
        lines = torch.cat((place // side, side + place % side), 1)  # (B, 2)
        fits = room.gather(1, lines).amin(1, keepdim=True) > 0
        kept.scatter_(1, place, fits)
        room.scatter_add_(1, lines, fits.to(room.dtype).neg().expand(-1, 2))
    return kept.view(num_blocks, side, side)


def repair(s: Tensor, kept: Tensor, n: int) -> None:
    """Fill short lines, in place: row i and column j each gain one when kept (k, c) is traded for (k, j) and (i, c).

    Such an entry exists for every short pair: see `shared.rounding`, which does the same in numpy.
    """
    while True:
        rows, cols = n - kept.sum(2), n - kept.sum(1)  # (B, m)
        short = rows.any(1).nonzero()[:, 0]
        if not len(short):
            return
        at = torch.arange(len(short), device=s.device)
        i, j = (rows[short] > 0).int().argmax(1), (cols[short] > 0).int().argmax(1)
        mask, part = kept[short], s[short]
        usable = mask & ~mask[at, i][:, None, :] & ~mask[at, :, j][:, :, None]
        gain = part[at, i][:, None, :] + part[at, :, j][:, :, None] - part
        best = gain.masked_fill(~usable, -torch.inf).flatten(1).argmax(1)
        k, c = best // s.shape[2], best % s.shape[2]
        direct = ~mask[at, i, j]
        kept[short, k, c] = kept[short, k, c] & direct
        kept[short, i, c] = kept[short, i, c] | ~direct
        kept[short, k, j] = kept[short, k, j] | ~direct
        kept[short, i, j] = True
