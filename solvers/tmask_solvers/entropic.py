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

import torch

from tmask.errors import InvalidProblemError
from tmask.solving.tensor_solver import TensorAnswer, TensorSolver
from tmask_solvers.shared.settings import check_count
from tmask_solvers.torch_kernels.greedy import keep_in_order, repair
from tmask_solvers.torch_kernels.grid import times_power_of_two

_MAX_SWAPS = 1000
# Scores solved at once on a device, and entries (i, k, c) of the swaps' temporaries, which bounds memory.
_ENTRIES = 1 << 26
_SWAP_ENTRIES = 1 << 24


@dataclass(frozen=True)
class Entropic(TensorSolver):
    """Heuristic; exactly n per line.

    Args:
        tau: inverse temperature, relative to a block's largest score; larger is sharper and converges slower.
        iterations: of the scalings.
        device: torch device to compute on, or None for where the scores are: "cpu" for arrays, on torch's threads.
        dtype: "float32" or "float64" to compute in, or None for that of the scores.
    """

    tau: float = 100.0
    iterations: int = 300
    device: str | None = None
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
        if self.device is None:
            return
        # By using it: torch knows the names of devices that it was built without, or that are not plugged in.
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise InvalidProblemError(f"device {self.device!r} is no torch device: {error}") from error
        try:
            torch.zeros(1, device=device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA fails an assertion
            raise InvalidProblemError(f"device {self.device!r} cannot be used here: {error}") from error

    def solve_tensor(self, scores: torch.Tensor, n: int) -> TensorAnswer:
        side = scores.shape[1]
        masks = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
        size = max(1, _ENTRIES // side**2)
        for start in range(0, len(scores), size):
            part = slice(start, start + size)
            masks[part] = self._masks(scores[part].to(self.device or scores.device), n)
        return TensorAnswer(masks)

    def _masks(self, scores: torch.Tensor, n: int) -> torch.Tensor:
        dtype = getattr(torch, self.dtype) if self.dtype else torch.promote_types(scores.dtype, torch.float32)
        s = _scaled(scores).to(dtype)  # (B, m, m)
        values = transport(self.tau * s, n, self.iterations)
        kept = keep_in_order(values.flatten(1).argsort(dim=1, descending=True, stable=True), n, s.shape[1])
        repair(s, kept, n)
        # Swaps compare all pairs of rows in each column: m times the memory of the scores.
        size = max(1, _SWAP_ENTRIES // s.shape[1] ** 3)
        for start in range(0, len(s), size):
            swap(s[start : start + size], kept[start : start + size])
        return kept


def _scaled(scores: torch.Tensor) -> torch.Tensor:
    """Scores (B, m, m) as float64, divided by each block's largest."""
    # A power of two first: one over a subnormal overflows. Float64, so that no bit is lost on the way.
    wide = scores.double()
    wide = times_power_of_two(wide, -torch.frexp(wide.amax((1, 2), keepdim=True))[1].long())
    largest = wide.amax((1, 2), keepdim=True)
    return wide / torch.where(largest > 0, largest, 1)


def transport(log_x: torch.Tensor, n: int, iterations: int) -> torch.Tensor:
    """Logarithms (B, m, m) of the entropic solution with line sums n and entries at most 1."""
    log_n = torch.log(torch.tensor(float(n), dtype=log_x.dtype, device=log_x.device))
    correction = torch.zeros_like(log_x)  # what capping took away, given back before the next time
    for _ in range(iterations):
        log_x = log_x - torch.logsumexp(log_x, 2, keepdim=True) + log_n
        log_x = log_x - torch.logsumexp(log_x, 1, keepdim=True) + log_n
        free = log_x + correction
        log_x = free.clamp_max(0)
        correction = free - log_x
    return log_x


def swap(s: torch.Tensor, kept: torch.Tensor) -> None:
    """The best 2-swap of every block, in place, until no block has one that gains."""
    todo = torch.arange(len(s), device=s.device)
    for _ in range(_MAX_SWAPS):
        part, mask = s[todo], kept[todo]  # (b, m, m)
        # moves[i, k, c]: what row i gains and row k loses by taking column c over, for c kept by k alone
        takes = ~mask[:, :, None, :] & mask[:, None, :, :]
        moves = (part[:, :, None, :] - part[:, None, :, :]).masked_fill(~takes, -torch.inf)
        gain, column = moves.max(3)  # (b, m, m)
        # Rows i and k each choose a column apart from the other, so the best swap is the sum of two best moves.
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
