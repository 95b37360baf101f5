"""The running statistics of batch norms: read, compared with those of data, and written."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmask.errors import InvalidProblemError


@dataclass(slots=True)
class ChannelSums:
    """Of what one batch norm has read."""

    count: int = 0
    calls: int = 0
    total: Tensor | None = None
    squares: Tensor | None = None

    def add(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add inputs (B, features, ...); their own mean and (population) variance."""
        x = x.detach()
        # In float64, since the variance is a difference that float32 loses where the mean is large.
        axes = [axis for axis in range(x.ndim) if axis != 1]
        # Values of each feature: rows, or images times positions.
        count = x.numel() // x.shape[1]
        total, squares = x.sum(axes, dtype=torch.float64), x.to(torch.float64).square().sum(axes)
        self.count += count
        self.calls += 1
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares
        return _moments(count, total, squares)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean, and the variance of a population, of all that was added."""
        assert self.total is not None
        assert self.squares is not None
        return _moments(self.count, self.total, self.squares)


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Those that keep running statistics, by name."""
    return {
        name: module
        # Without running statistics it uses each batch's own, and there is nothing to recompute.
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def running(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Mean and variance as they are kept, for `batch_norms` have both."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def write_running(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Copy a mean and a variance into those that are kept."""
    running_mean, running_variance = running(norm)
    running_mean.copy_(mean)
    running_variance.copy_(variance)


def set_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Write a mean and a population's variance; the running variance is the unbiased one of `count` samples."""
    # As torch does in training: it normalises by the population's variance, and keeps the unbiased one.
    # One sample has none, and keeps its 0.
    write_running(norm, mean, variance * (count / max(1, count - 1)))


def set_from_sums(name: str, norm: _BatchNorm, sums: ChannelSums) -> None:
    """Write the statistics of all that a batch norm has read.

    Raises:
        InvalidProblemError: they are not finite; names the batch norm.
    """
    mean, variance = sums.moments()
    if not bool(torch.isfinite(mean).all() and torch.isfinite(variance).all()):
        raise InvalidProblemError(
            f"batch norm {name!r}: its inputs hold NaN or infinite values on the calibration data; look at the data "
            "and at the layers before it"
        )
    set_statistics(norm, mean, variance, sums.count)


def far_from(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> bool:
    """Whether running statistics are far from these, by more than a sampling error of a few hundred values explains.

    True if for half of the features the variance differs by a factor above 3, or the mean by more than a standard
    deviation of the running statistics.
    """
    running_mean, running_variance = running(norm)
    spread = running_variance.to(torch.float64).clamp_min(norm.eps)
    # With eps on both sides: features that hardly vary at all differ by any factor, and the batch norm does not see it.
    factors = ((variance + norm.eps) / spread).log().abs()
    shifts = (mean - running_mean.to(torch.float64)).abs() / spread.sqrt()
    return bool(((factors > math.log(3)) | (shifts > 1)).to(torch.float64).mean() > 0.5)


def _moments(count: int, total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0)
