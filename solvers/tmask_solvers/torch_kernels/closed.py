"""1:4, 2:4 and 3:4 masks of 4-by-4 blocks in closed form, in torch, all blocks of a stack at once.

The same formulas and the same two rules as on the CPU, where they are derived: `cpu_kernels.closed.two_four` (90 masks
as three pairings of rows), `cpu_kernels.closed.permutation` (24 masks as six pairs of columns, in two orders a half)
and `cpu_kernels.closed.solve` (when rounding cannot have changed the answer: nothing was rounded, or each comparison
that matters is won by more than a guard). The guard is 2^-20 of a block's sum in float32 and 2^-49 in float64. Torch
rounds each operation once, on every device. Blocks that neither rule covers are left to the caller.

It takes half of the time of rounds, on a CPU (rows `small` of bench/results/torch_choices.csv). Choices are made by
and, or, xor of booleans, which take a byte an entry; `where`, `argmax` and look-ups in tables are slower. Blocks lie
last: w is (4, 4, B), row, column, block.
"""

from __future__ import annotations

from functools import reduce
from operator import and_, or_

import torch
from torch import Tensor

_GUARD = {torch.float32: 2.0**-20, torch.float64: 2.0**-49}
_PAIRINGS = (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))
_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))  # the k-th from the end holds the other columns


def solve_closed(w: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Masks (4, 4, B) with n = 1, 2 or 3 in each row and column, and (B,) bool, whether each is proven optimal.

    Args:
        w: (4, 4, B) float32 or float64, >= 0.
    """
    p, q, r, s = ((row[0] + row[1]) + (row[2] + row[3]) for row in w)
    total = ((p + q) + r) + s  # (B,)
    guard = total * _GUARD[w.dtype]
    if n == 2:
        masks, sure = _two_four(w, guard)
    elif n == 1:
        masks, sure = _permutation(w, guard)
    else:
        pruned, sure = _permutation(-w, guard)
        masks = ~pruned
    exact = reduce(and_, ((x + total) - total == x for row in w for x in row))
    return masks, (sure | exact) & (total < torch.finfo(w.dtype).max / 2)


def _two_four(w: Tensor, guard: Tensor) -> tuple[Tensor, Tensor]:
    p, q, r, s = w[:, 0] + w[:, 1], w[:, 2] + w[:, 3], w[:, 0] - w[:, 1], w[:, 2] - w[:, 3]  # (4, B)
    abc = (p - q, r + s, r - s)
    pairs = [[_best_of_pair(abc, *pair) for pair in pairing] for pairing in _PAIRINGS]
    values = [one[0] + two[0] for one, two in pairs]
    best = reduce(torch.maximum, values)
    masks = torch.zeros(w.shape, dtype=torch.bool, device=w.device)
    for chosen, pairing, found in zip(_first(values, best), _PAIRINGS, pairs, strict=True):
        for (i, k), (_, _, row) in zip(pairing, found, strict=True):
            masks[i] |= row & chosen
            masks[k] |= ~row & chosen
    proofs = []
    for pairing, (one, two), value in zip(_PAIRINGS, pairs, values, strict=True):
        opposite = reduce(and_, (column for i, k in pairing for column in masks[i] ^ masks[k]))
        proofs.append((best - value > guard) | (opposite & (torch.minimum(one[1], two[1]) > guard)))
    return masks, reduce(and_, proofs)


def _best_of_pair(abc: tuple[Tensor, Tensor, Tensor], i: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """D_ik, the largest of the magnitudes |abc_i - abc_k|; by how much it exceeds the next; and row i's mask (4, B)."""
    differences = [x[i] - x[k] for x in abc]
    a, b, c = (x.abs() for x in differences)
    high = torch.maximum(a, b)
    top = torch.maximum(high, c)
    lead = top - torch.maximum(torch.minimum(a, b), torch.minimum(high, c))
    on = _first([a, b, c], top)
    plus = reduce(or_, (here & (x > 0) for here, x in zip(on, differences, strict=True)))
    # A = ++--, B = +-+-, C = +--+, or the opposite: the first column has the sign, another has it where its row is on.
    return top, lead, torch.stack([plus, *(~(plus ^ here) for here in on)])


def _permutation(w: Tensor, guard: Tensor) -> tuple[Tensor, Tensor]:
    """1:4 masks, w being all >= 0 or all <= 0."""
    halves = []
    for (p, q), (r, s) in zip(_PAIRS, reversed(_PAIRS), strict=True):
        halves.append(((w[0, p] + w[1, q], w[0, q] + w[1, p]), (w[2, r] + w[3, s], w[2, s] + w[3, r])))
    values = [torch.maximum(*upper) + torch.maximum(*lower) for upper, lower in halves]
    best = reduce(torch.maximum, values)
    masks = torch.zeros(w.shape, dtype=torch.bool, device=w.device)
    sure = torch.ones_like(best, dtype=torch.bool)
    choices = zip(_first(values, best), values, halves, _PAIRS, reversed(_PAIRS), strict=True)
    for chosen, value, orders, upper_columns, lower_columns in choices:
        clear = [(straight - crossed).abs() > guard for straight, crossed in orders]
        sure &= torch.where(chosen, clear[0] & clear[1], best - value > guard)
        for row, (straight, crossed), (p, q) in zip((0, 2), orders, (upper_columns, lower_columns), strict=True):
            first = chosen & (straight >= crossed)
            second = chosen ^ first
            masks[row, p] |= first
            masks[row + 1, q] |= first
            masks[row, q] |= second
            masks[row + 1, p] |= second
    return masks, sure


def _first(values: list[Tensor], best: Tensor) -> list[Tensor]:
    """Where each value is the first that equals the best; the last one where none does, which NaN brings about."""
    free = torch.ones_like(best, dtype=torch.bool)
    on = []
    for value in values[:-1]:
        on.append(free & (value == best))
        free = free ^ on[-1]
    return [*on, free]
