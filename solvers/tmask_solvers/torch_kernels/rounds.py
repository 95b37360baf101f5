"""The rounds of the midpoint iteration in torch, all blocks of a stack at once.

Blocks lie last: scores are (m, m, B), row, column, block, so that the entries of all blocks at one place are
contiguous, and so are a line's order statistics: a min-max network (`shared.selection`) runs on whole tensors, wire by
wire, with no sort and no traffic between blocks. On a CPU it takes a fifteenth (m = 4) to a fifth (m = 32) of the time
of `torch.sort`, and less than that of `torch.topk` (rows `order` of bench/results/torch_choices.csv).

Why a balanced round proves its mask, and why that needs a plain subtraction and a strict comparison alone, is in
docs: exactness, section 1. Torch rounds each of these operations once, on every device: nothing here is compiled or
fused, and prices are tensors in memory, the same numbers for every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from tmask_solvers.shared.constants import EARLY_ROUNDS, momentum, most_rounds
from tmask_solvers.shared.selection import order_pair


@dataclass(frozen=True, slots=True)
class Rounds:
    """What became of a stack of B blocks.

    Args:
        masks: (m, m, B) bool, where `done`: n in each row and column.
        u, v: (m, B) the row prices that led to `v`, and the column prices; those that prove the mask where `done`.
        done: (B,) bool, whether the columns balanced.
        tied: (B,) bool, whether some row had no n largest: its n-th and (n+1)-th tied.
    """

    masks: Tensor
    u: Tensor
    v: Tensor
    done: Tensor
    tied: Tensor

    def __getitem__(self, index: Tensor) -> Rounds:
        """Of some of the blocks."""
        masks, u, v = (part.index_select(-1, index) for part in (self.masks, self.u, self.v))
        return Rounds(masks, u, v, self.done[index], self.tied[index])


def iterate(scores: Tensor, n: int) -> Rounds:
    """Alternate row and column prices, half way between kept and pruned, until each block balances, ties or runs out.

    Args:
        scores: (m, m, B) float32 or float64, >= 0.
    """
    m, _, num_blocks = scores.shape
    result = Rounds(
        torch.zeros(scores.shape, dtype=torch.bool, device=scores.device),
        torch.zeros_like(scores[0]),
        torch.zeros_like(scores[0]),
        torch.zeros(num_blocks, dtype=torch.bool, device=scores.device),
        torch.zeros(num_blocks, dtype=torch.bool, device=scores.device),
    )
    limit = most_rounds(m)
    todo = torch.arange(num_blocks, device=scores.device)
    v = target = _midpoint(*order_statistics(list(scores.unbind(0)), n))  # (m, B)
    for age in range(1, limit + 1):
        x = scores - v
        a, b = order_statistics(list(x.unbind(1)), n)  # (m, b) each
        kept = x > b.unsqueeze(1)
        done = (kept.sum(0, dtype=torch.uint8) == n).all(0)  # (b,)
        u = _midpoint(a, b)
        tied = (a == b).any(0)
        leaving = done if age < EARLY_ROUNDS else done | tied if age < limit else torch.ones_like(done)
        # The one look at the device's results in a round: how many blocks stay.
        out, stay = leaving.nonzero()[:, 0], (~leaving).nonzero()[:, 0]
        if len(out):
            at = todo[out]
            result.masks.index_copy_(2, at, kept[:, :, out])
            result.u.index_copy_(1, at, u[:, out])
            result.v.index_copy_(1, at, v[:, out])
            result.done[at], result.tied[at] = done[out], tied[out]
        if not len(stay):
            break
        if len(out):
            todo, scores, u, target = todo[stay], scores[:, :, stay], u[:, stay], target[:, stay]
        before, target = target, _midpoint(*order_statistics(list((scores - u.unsqueeze(1)).unbind(0)), n))
        v = target + momentum(m) * (target - before)
    return result


def order_statistics(wires: list[Tensor], n: int) -> tuple[Tensor, Tensor]:
    """The n-th and the (n+1)-th largest over the wires, elementwise."""
    values: dict[int, Tensor] = dict(enumerate(wires))
    del wires
    operations, a, b = order_pair(len(values), n)
    for (kind, out, p, q), dead in zip(operations, _dead(len(values), n), strict=True):
        values[out] = (torch.minimum if kind == "min" else torch.maximum)(values[p], values[q])
        for wire in dead:
            del values[wire]
    return values[a], values[b]


@cache
def _dead(m: int, n: int) -> list[tuple[int, ...]]:
    """After each operation of the network, the values that nobody reads any more: their memory is used again."""
    operations, a, b = order_pair(m, n)
    seen = {a, b}
    dead: list[tuple[int, ...]] = []
    for _, _, p, q in reversed(operations):
        last = {p, q} - seen
        seen |= last
        dead.append(tuple(last))
    return dead[::-1]


def _midpoint(a: Tensor, b: Tensor) -> Tensor:
    return 0.5 * a + 0.5 * b
