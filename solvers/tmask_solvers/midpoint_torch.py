"""The midpoint iteration in batched torch operations, on any torch device.

The same steps as `midpoint`, one operation for all blocks at a time: rounds of row and column prices
(`torch_kernels.rounds`); what ties there goes through the rounds again with its ties parted, and is proven on the true
scores (`torch_kernels.grid`); what is left is balanced along shortest augmenting paths (`torch_kernels.paths`). All of
it stays on the device: nothing but the numbers of blocks that are left is looked at from outside, once a round. Blocks
of side 4 have closed forms instead (`torch_kernels.closed`), which leave near-ties to the rounds; they give no prices,
but a slack.

`torch.compile` is not used. On a CPU the rounds that it compiles take 4 to 5 times as long as these, after 9 to 18 s of
compiling (rows `round` of bench/results/torch_choices.csv), and on a GPU its kernels may fuse a multiplication with an
addition or flush subnormals, under which a balanced round would be no proof.

Cost: O(m^2 log^2 m) a round and block, 2 rounds at m = 4 to 10 at m = 32; each operation of a round reads and writes
memory. Float16 and bfloat16 are computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tmask.solving.tensor_solver import TensorAnswer, TensorSolver
from tmask_solvers.shared.parting import OF_LARGEST, OF_LEAST, amounts
from tmask_solvers.torch_kernels.closed import solve_closed
from tmask_solvers.torch_kernels.grid import Grid, prove
from tmask_solvers.torch_kernels.paths import balance
from tmask_solvers.torch_kernels.rounds import Rounds, iterate

# Entries solved at once: what a core's cache holds, or enough to keep a GPU busy in little of its memory.
_ENTRIES_ON_CPU = 1 << 18
_ENTRIES = 1 << 26


@dataclass(frozen=True)
class MidpointTorch(TensorSolver):
    """Exact; up to n * m * 2^-45 of the largest score in blocks that need paths and have scores off their grid."""

    name: ClassVar[str] = "midpoint-torch"
    exact: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("torch",)

    def solve_tensor(self, scores: Tensor, n: int) -> TensorAnswer:
        num_blocks, m = scores.shape[:2]
        masks = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
        slack = torch.zeros((), dtype=torch.float64, device=scores.device)
        prices = slack.new_empty((2, 0 if m == 4 else num_blocks, m))
        size = max(1, (_ENTRIES_ON_CPU if scores.device.type == "cpu" else _ENTRIES) // (m * m))
        for start in range(0, num_blocks, size):
            part = slice(start, start + size)
            wide = scores[part] if scores.dtype == torch.float64 else scores[part].float()
            # Blocks last, as all kernels have them (`torch_kernels.rounds`): one copy here, contiguous reads after it.
            stack = wide.permute(1, 2, 0).contiguous()
            if m == 4:
                kept, lost = _solve_small(stack, n)
                slack += lost
            else:
                solved = _solve(stack, n)
                kept, prices[0, part], prices[1, part] = solved.masks, solved.u.T, solved.v.T
            masks[part] = kept.permute(2, 0, 1)
        return TensorAnswer(masks, slack=slack) if m == 4 else TensorAnswer(masks, *prices)


class _Solved(NamedTuple):
    """Optimal masks (m, m, B), their prices u, v (m, B) float64, and (B,) by how much they may fall short at most."""

    masks: Tensor
    u: Tensor
    v: Tensor
    lost: Tensor


def _solve_small(scores: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Masks (4, 4, B) for scores (4, 4, B), and the sum of what they may fall short: closed forms, then rounds."""
    masks, sure = solve_closed(scores, n)
    lost = torch.zeros((), dtype=torch.float64, device=scores.device)
    left = (~sure).nonzero()[:, 0]
    if len(left):
        part = scores[:, :, left]
        if part.dtype == torch.float64:
            again, *_, short = _solve(part, n)
            lost = short.sum()
        else:  # where float32 sums tie or nearly do, float64 sums mostly do not round
            again, lost = _solve_small(part.double(), n)
        masks.index_copy_(2, left, again)
    return masks, lost


def _solve(scores: Tensor, n: int) -> _Solved:
    """Scores are (m, m, B) float32 or float64."""
    rounds = iterate(scores, n)
    solved = _Solved(
        rounds.masks, rounds.u.double(), rounds.v.double(), rounds.done.new_zeros(len(rounds.done)).double()
    )
    left = (~rounds.done).nonzero()[:, 0]
    if len(left):
        finished = _finish(scores[:, :, left], rounds[left], n)
        for whole, part in zip(solved, finished, strict=True):
            whole.index_copy_(-1, left, part)
    return solved


def _finish(scores: Tensor, rounds: Rounds, n: int) -> _Solved:
    """The same for blocks that did not balance, from what the rounds left."""
    grid = Grid.of(scores)
    masks, start = rounds.masks, grid.to_units(rounds.v)
    u, v = torch.zeros_like(start), start.clone()
    proven = torch.zeros_like(rounds.done)
    tied = (rounds.tied & grid.exact).nonzero()[:, 0]
    if len(tied):
        # A mask that is found with ties parted is optimal for other scores: a candidate, to be proven on the true ones.
        again, own = iterate(_parted(scores[:, :, tied], n), n), grid[tied]
        start[:, tied] = own.to_units(again.v)
        masks[:, :, tied] = again.masks
        u[:, tied], v[:, tied], good = prove(own.units, again.masks, start[:, tied])
        proven[tied] = good & again.done
    # From the prices of whichever rounds came last: the nearer a start, the fewer paths.
    left = (~proven).nonzero()[:, 0]
    if len(left):
        units = grid.units[:, :, left]
        kept, price = balance(units, n, start[:, left])
        masks[:, :, left], v[:, left] = kept, price
        u[:, left] = (units - price).masked_fill(kept, -torch.inf).amax(1)
    lost = grid.from_units(torch.where(grid.exact, 0.0, float(n * len(scores))))
    return _Solved(masks, grid.from_units(u), grid.from_units(v), lost)


def _parted(scores: Tensor, n: int) -> Tensor:
    """Scores with their ties broken by small distinct amounts (`shared.parting`)."""
    largest = scores.amax((0, 1))
    least = scores.masked_fill(scores == 0, torch.inf).amin((0, 1))
    scale = torch.maximum(torch.where(least.isfinite(), least, 0) * OF_LEAST, largest * OF_LARGEST)
    noise = torch.from_numpy(amounts(n, len(scores))).to(scores.device, scores.dtype)
    return scores + noise.unsqueeze(2) * scale
