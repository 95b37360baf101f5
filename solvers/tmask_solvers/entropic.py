"""Entropy-regularised optimal transport with capped entries, rounded, then 2-swaps: the method of TSENOR, in torch.

Start from X = exp(tau * score). Repeat: scale rows to sum n, scale columns to sum n, cap entries at 1; the cap is
projected with a Dykstra correction, the scalings need none, since they are projections on affine sets [Benamou2015]. X
tends to the optimum of score + entropy / tau over the fractional masks. All steps are done on logarithms, so that
large tau does not overflow. Rounding is greedy on X with repair, then swaps of kept (i, j), (k, c) for free (i, c),
(k, j) that gain. Batched over blocks on any torch device: no loop goes over blocks.

Cost: O(B m^2) an iteration; rounding O(m^2) steps of O(B m); a pass of swaps O(B m^3). Source: [Meng2025, section 3],
its reference for capped transport [Benamou2015], [Cuturi2013].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from tmask.arrays import Scores
from tmask.errors import InvalidProblemError
from tmask.solver import Answer, Solver
from tmask_solvers._settings import check_count

_MAX_SWAPS = 1000
# Entries (i, k, c) of the swaps' temporaries at once, which bounds memory.
_SWAP_ENTRIES = 1 << 24


@dataclass(frozen=True)
class Entropic(Solver):
    """Heuristic; exactly n per line.

    Args:
        tau: inverse temperature, relative to a block's largest score; larger is sharper and converges slower.
        iterations: of the scalings.
        device: torch device to compute on; "cpu" uses torch's own threads.
        dtype: "float32" or "float64" to compute in, or None for that of the scores.
    """

    tau: float = 100.0
    iterations: int = 300
    device: str = "cpu"
    dtype: str | None = None

    name: ClassVar[str] = "entropic"
    exact: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("torch",)
    chunk: ClassVar[int] = 1 << 9

    def __post_init__(self) -> None:
        if not 0 < self.tau < float("inf"):
            raise InvalidProblemError(f"tau must be positive and finite, got {self.tau}")
        check_count("iterations", self.iterations)
        if self.dtype not in (None, "float32", "float64"):
            raise InvalidProblemError(f"dtype must be 'float32', 'float64' or None, got {self.dtype!r}")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise InvalidProblemError(f"device {self.device!r} is no torch device: {error}") from error
        try:
            torch.zeros(1, device=device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA fails an assertion
            raise InvalidProblemError(f"device {self.device!r} cannot be used here: {error}") from error

    def _solve(self, scores: Scores, n: int) -> Answer:
        # A power of two first: one over a subnormal overflows. Float64, so that no bit is lost on the way.
        exponents = np.frexp(scores.max((1, 2), keepdims=True))[1]
        scaled = np.ldexp(scores.astype(np.float64), -exponents)
        largest = scaled.max((1, 2), keepdims=True)
        scaled /= np.where(largest > 0, largest, 1)
        dtype = getattr(torch, self.dtype or scores.dtype.name)
        s = torch.tensor(scaled, dtype=dtype, device=self.device)  # (B, m, m)
        kept = round_greedily(transport(self.tau * s, n, self.iterations), n)
        repair(s, kept, n)
        size = max(1, _SWAP_ENTRIES // s.shape[1] ** 3)
        for start in range(0, len(s), size):
            swap(s[start : start + size], kept[start : start + size])
        return Answer(np.asarray(kept.cpu().numpy()))


def transport(log_x: torch.Tensor, n: int, iterations: int) -> torch.Tensor:
    """Logarithms (B, m, m) of the entropic solution with line sums n and entries at most 1."""
    log_n = torch.log(torch.tensor(float(n), dtype=log_x.dtype, device=log_x.device))
    correction = torch.zeros_like(log_x)
    for _ in range(iterations):
        log_x = log_x - torch.logsumexp(log_x, 2, keepdim=True) + log_n
        log_x = log_x - torch.logsumexp(log_x, 1, keepdim=True) + log_n
        free = log_x + correction
        log_x = free.clamp_max(0)
        correction = free - log_x
    return log_x


def round_greedily(values: torch.Tensor, n: int) -> torch.Tensor:
    """(B, m, m) bool: from the largest value down, kept where row and column have room."""
    num_blocks, side = values.shape[:2]
    kept = torch.zeros_like(values, dtype=torch.bool)
    rows = torch.full((num_blocks, side), n, device=values.device)
    cols = rows.clone()
    every = torch.arange(num_blocks, device=values.device)
    for place in values.flatten(1).argsort(dim=1, descending=True, stable=True).T:
        i, j = place // side, place % side
        room = (rows[every, i] > 0) & (cols[every, j] > 0)
        kept[every, i, j] = room
        rows[every, i] -= room.to(rows.dtype)
        cols[every, j] -= room.to(cols.dtype)
    return kept


def repair(s: torch.Tensor, kept: torch.Tensor, n: int) -> None:
    """Fill short lines, in place: row i and column j each gain one when kept (k, c) is traded for (k, j) and (i, c).

    Such an entry exists for every short pair: see `_rounding`, which does the same in numpy.
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


def swap(s: torch.Tensor, kept: torch.Tensor) -> None:
    """The best 2-swap of every block, in place, until no block has one that gains."""
    todo = torch.arange(len(s), device=s.device)
    for _ in range(_MAX_SWAPS):
        part, mask = s[todo], kept[todo]  # (b, m, m)
        # moves[i, k, c]: what row i gains and row k loses by taking column c over, for c kept by k alone
        takes = ~mask[:, :, None, :] & mask[:, None, :, :]
        moves = (part[:, :, None, :] - part[:, None, :, :]).masked_fill(~takes, -torch.inf)
        gain, column = moves.max(3)  # (b, m, m)
        total = (gain + gain.transpose(1, 2)).flatten(1)
        best, pair = total.max(1)
        better = best > 1e-6  # scores are scaled to at most 1; below this, rounding could go round in circles
        todo, pair, column = todo[better], pair[better], column[better]
        if not len(todo):
            return
        i, k = pair // s.shape[1], pair % s.shape[1]
        at = torch.arange(len(todo), device=s.device)
        c, j = column[at, i, k], column[at, k, i]
        kept[todo, i, c] = True
        kept[todo, k, c] = False
        kept[todo, k, j] = True
        kept[todo, i, j] = False
