"""Blocks in units of a grid on which float64 computes exactly, and proofs there: Bellman-Ford on the column prices.

The unit of a block is 2^(e-46), with 2^e above its largest score. In that unit scores are integers below 2^46, if the
block is *on the grid*: all float32 scores of at least 2^-22 of 2^e are. Prices are integers too, and as long as they
stay below 2^52, no sum or difference of a score and a price is rounded (docs/explanation/exactness.md, section 2).

Blocks lie last, as in `rounds`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tmask_solvers.shared.constants import GRID_BITS, PRICE_BITS

# Beyond this, a start is as good as infinite (scores are below 2^46); balancing adds little to it (`paths`).
_LARGEST_START = 2.0**47


@dataclass(frozen=True, slots=True)
class Grid:
    """Scores in units of their grid.

    Args:
        units: (m, m, B) float64 integers below 2^46, rounded to the nearest.
        shift: (B,) int64: a score is units * 2^-shift.
        exact: (B,) bool, whether nothing was rounded.
    """

    units: Tensor
    shift: Tensor
    exact: Tensor

    @classmethod
    def of(cls, scores: Tensor) -> Grid:
        """Scores (m, m, B), float32 or float64."""
        wide = scores.double()
        shift = GRID_BITS - torch.frexp(wide.amax((0, 1)))[1].long()  # (B,)
        scaled = times_power_of_two(wide, shift)
        units = scaled.round()
        return cls(units, shift, (times_power_of_two(units, -shift) == wide).all(0).all(0))

    def to_units(self, prices: Tensor) -> Tensor:
        """Prices (m, B) as integers to start from: NaN becomes 0, what is wild or infinite is cut."""
        units = times_power_of_two(prices.double(), self.shift).round()
        return units.nan_to_num(nan=0.0).clamp(-_LARGEST_START, _LARGEST_START)

    def from_units(self, units: Tensor) -> Tensor:
        """Prices (m, B) float64."""
        return times_power_of_two(units, -self.shift)

    def __getitem__(self, index: Tensor) -> Grid:
        return Grid(self.units[:, :, index], self.shift[index], self.exact[index])


def times_power_of_two(x: Tensor, exponent: Tensor) -> Tensor:
    """x * 2^exponent for int64 exponents between -2044 and 2044, with x float64; exact unless the result is subnormal.

    In two factors, since one may overflow, and made of their bits: libraries round their powers as they like.
    """
    half = exponent.div(2, rounding_mode="floor")
    return x * _power_of_two(half) * _power_of_two(exponent - half)


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent + 1023) << 52).view(torch.float64)


def prove(units: Tensor, masks: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Prices that prove masks (m, m, B) with n in each row and column optimal, where they are.

    Bellman-Ford, as docs: exactness, section 2, has it. If a mask is not optimal, prices fall for ever; so after 2m
    rounds without rest, or with prices too large to be exact, there is no proof.

    Returns:
        u, v (m, B), and (B,) bool, whether they are a proof.
    """
    m, _, num_blocks = units.shape
    v = v.clone()
    u = torch.zeros_like(v)
    proven = torch.zeros(num_blocks, dtype=torch.bool, device=units.device)
    todo = torch.arange(num_blocks, device=units.device)
    low, high = units.masked_fill(masks, -torch.inf), units.masked_fill(~masks, torch.inf)
    price = v
    # Unlike on a CPU, all rows at once and then all columns: a row after another would be m operations a round.
    for _ in range(2 * m):
        row = (low - price).amax(1)  # (m, b): the largest pruned
        lower = torch.minimum(price, (high - row.unsqueeze(1)).amin(0))
        rest = (lower == price).all(0)
        out, stay = rest.nonzero()[:, 0], (~rest).nonzero()[:, 0]
        if len(out):
            at = todo[out]
            u[:, at], v[:, at] = row[:, out], price[:, out]
            proven[at] = True
        if not len(stay):
            break
        todo, low, high, price = todo[stay], low[:, :, stay], high[:, :, stay], lower[:, stay]
    bounded = torch.maximum(u.abs(), v.abs()).amax(0) < 2.0**PRICE_BITS
    return u, v, proven & bounded
