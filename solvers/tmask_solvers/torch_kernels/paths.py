"""Blocks balanced along shortest augmenting paths in torch, one path in every block at a time.

Each row takes its n best of units - v. Columns then count too much or too little. While some do, every such block
searches a cheapest way to pass an entry from an over-full column to a deficient one: a kept (i, j) is given up for
(i, k), and so on. Bellman-Ford finds it for all blocks at once: in the worst case m rounds, mostly three or four. With
the column prices raised as in successive shortest paths [Ahuja1993, section 9.7], the mask stays the best one for its
column counts, so the balanced mask is optimal.

All numbers are integers in float64 (`grid`). With m <= 64, a path's sum is below m 2^46 <= 2^52, and prices
below 2^48: a price that is raised stays within a score of a deficient column's, which has kept its start. So nothing is
rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor


def balance(units: Tensor, n: int, v: Tensor) -> tuple[Tensor, Tensor]:
    """Optimal masks (m, m, B) bool with n in each row and column, and column prices (m, B) that prove them.

    Args:
        units: (m, m, B) float64 integers, at least 0 and below 2^46.
        v: (m, B) float64 integers of at most 2^47 in magnitude: prices to start from.
    """
    kept = _take_rows(units, n, v)
    v = v.clone()
    masks = kept.clone()
    prices = v.clone()
    todo = torch.arange(units.shape[2], device=units.device)
    while True:
        counts = kept.sum(0)  # (m, b)
        done = (counts == n).all(0)
        out, stay = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
        if len(out):
            masks[:, :, todo[out]], prices[:, todo[out]] = kept[:, :, out], v[:, out]
        if not len(stay):
            return masks, prices
        if len(out):
            todo, units, kept, v, counts = todo[stay], units[:, :, stay], kept[:, :, stay], v[:, stay], counts[:, stay]
        _augment(units, kept, v, counts, n)


def _take_rows(units: Tensor, n: int, v: Tensor) -> Tensor:
    """(m, m, B) bool: the n best of each row; ties in order of the columns, from column i * n on, going round.

    Blocks of equal entries are so balanced from the start.
    """
    m = units.shape[0]
    line = torch.arange(m, device=units.device)
    turned = (line + n * line[:, None]) % m  # (m, m): the columns of each row in its order
    x = units - v
    order = x.gather(1, turned.unsqueeze(2).expand_as(x)).argsort(dim=1, descending=True, stable=True)
    best = (order[:, :n] + n * line[:, None, None]) % m  # (m, n, B)
    return torch.zeros(x.shape, dtype=torch.bool, device=x.device).scatter_(1, best, True)


def _augment(units: Tensor, kept: Tensor, v: Tensor, counts: Tensor, n: int) -> None:
    """One entry of each block from an over-full to a deficient column, in place."""
    m, _, num_blocks = units.shape
    give, take = units.masked_fill(~kept, torch.inf), units.masked_fill(kept, torch.inf).neg()
    take = take.masked_fill(kept, torch.inf)
    # cost[j]: of the cheapest way found from an over-full column to j, less the price of where it begins
    cost = torch.where(counts > n, -v, torch.inf)  # (m, b)
    row_cost = torch.full_like(cost, torch.inf)
    from_column, from_row = torch.zeros_like(counts), torch.zeros_like(counts)
    for _ in range(m):
        value, column = (give + cost).min(1)  # (m, b) by row
        better = value < row_cost
        row_cost, from_column = torch.where(better, value, row_cost), torch.where(better, column, from_column)
        value, row = (take + row_cost.unsqueeze(1)).min(0)  # (m, b) by column
        better = value < cost
        if not better.any():
            break
        cost, from_row = torch.where(better, value, cost), torch.where(better, row, from_row)
    distance = cost + v
    length, column = distance.masked_fill(counts >= n, torch.inf).min(0)  # (b,)
    v += (length - distance).clamp_min(0)
    every = torch.arange(num_blocks, device=units.device)
    for _ in range(m):
        row = from_row[column, every]
        before = from_column[row, every]
        kept[row, column, every] = True
        kept[row, before, every] = False
        column = before
        # An over-full column is where paths begin; a path of its own that came back to it would be no shortest one.
        walking = counts[column, every] <= n
        every, column = every[walking], column[walking]
        if not len(every):
            return
