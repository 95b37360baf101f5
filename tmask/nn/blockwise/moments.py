"""Sums over the inputs of matrices that read the same: what every method needs of the data.

They take the same memory for ten sequences as for a million.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(slots=True)
class Moments:
    """Sums over S samples of inputs x, and of the inputs d that the dense model has in their place; at last, means.

    Args:
        xx: (C, C) sum of x x^T.
        xd: (C, C) sum of x d^T, or None where the dense model is not run beside.
        x, d: (C,) sums.
        samples: S.
    """

    xx: Tensor
    x: Tensor
    xd: Tensor | None = None
    d: Tensor | None = None
    samples: int = 0

    @classmethod
    def zeros(cls, width: int, like: Tensor, paired: bool = False) -> Moments:
        """Of no samples yet; float64 for float64 data, else float32."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32

        def new(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=like.device)

        if not paired:
            return cls(new(width, width), new(width))
        return cls(new(width, width), new(width), new(width, width), new(width))

    def add(self, x: Tensor, d: Tensor | None = None) -> None:
        """Add samples x (S, C), with the dense model's d (S, C)."""
        x = x.to(self.xx.dtype)
        self.xx.addmm_(x.T, x)
        self.x += x.sum(0)
        if self.xd is not None:
            assert d is not None
            assert self.d is not None
            d = d.to(self.xx.dtype)
            self.xd.addmm_(x.T, d)
            self.d += d.sum(0)
        self.samples += len(x)

    def average(self) -> None:
        """Means in place of the sums, which are not kept beside: such matrices are the largest of a block."""
        for total in (self.xx, self.x, self.xd, self.d):
            if total is not None:
                total /= max(1, self.samples)

    def centred(self) -> Moments:
        """Of means, less the means of x and d: what is left where a bias takes up the mean of the outputs."""
        xx = self.xx.addr(self.x, self.x, alpha=-1)
        xx.diagonal().clamp_(min=0)  # an input that is always the same comes out as rounding, below 0 as often as not
        if self.xd is None or self.d is None:
            return Moments(xx, torch.zeros_like(self.x), samples=self.samples)
        xd = self.xd.addr(self.x, self.d, alpha=-1)
        return Moments(xx, torch.zeros_like(self.x), xd, torch.zeros_like(self.d), self.samples)

    def add_up(self) -> None:
        """Of all processes of torch.distributed, each with its part of the samples."""
        for total in (self.xx, self.x, self.xd, self.d):
            if total is not None:
                dist.all_reduce(total)
        samples = torch.tensor(self.samples, device=self.x.device)
        dist.all_reduce(samples)
        self.samples = int(samples)
