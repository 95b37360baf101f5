"""A layer's calibration data in the form that least squares needs: sums of products, in float64.

    X^T X (G, C, C),  X^T Y (G, C, R),  sums of x, of y and of y^2

They take the same memory for any amount of data. The inputs X come from the model that is being pruned, the outputs Y
from the dense one. From them follow the error of any weight, and mean and variance of the layer's output under it,
which is what a batch norm behind the layer needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tmask.nn.calibration.weight_view import WeightView


@dataclass(slots=True)
class Gram:
    """Sums over S samples.

    Args:
        xx: (G, C, C) float64, X^T X.
        xy: (G, C, R) float64, X^T Y, Y without the layer's bias.
        x: (G, C) float64, sum of inputs.
        y: (G, R) float64, sum of outputs without bias.
        yy: (G, R) float64, sum of squared outputs without bias.
        samples: S.
        means: 1 if the mean has been taken off, which leaves sums of rank S - 1.
    """

    xx: Tensor
    xy: Tensor
    x: Tensor
    y: Tensor
    yy: Tensor
    samples: int = 0
    means: int = 0

    @classmethod
    def zeros(cls, view: WeightView) -> Gram:
        """Of no samples yet, on the layer's device."""
        groups, rows, cols = view.shape
        device = view.parameter.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        return cls(zeros(cols, cols), zeros(cols, rows), zeros(cols), zeros(rows), zeros(rows))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add samples: x (G, S, C) with the outputs y (G, S, R) that belong to them, without bias."""
        x, y = x.to(torch.float64), y.to(torch.float64)
        # In place: the matrices of a wide layer are too large for a second copy at every batch.
        self.xx.baddbmm_(x.transpose(1, 2), x)
        self.xy.baddbmm_(x.transpose(1, 2), y)
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.yy += y.square().sum(1)
        self.samples += x.shape[1]

    def centred(self) -> Gram:
        """The same sums of inputs and outputs less their means: what is left for the weight once a bias is free."""
        if not self.samples:
            return self
        mean, target = self.x / self.samples, self.y / self.samples
        return Gram(
            self.xx - self.x[:, :, None] * mean[:, None, :],
            self.xy - self.x[:, :, None] * target[:, None, :],
            torch.zeros_like(self.x),
            torch.zeros_like(self.y),
            # An output that does not vary can come out just below 0.
            (self.yy - self.y * target).clamp_min(0),
            self.samples,
            1,
        )

    def errors(self, weight: Tensor) -> Tensor:
        """(G, R) sums of squared differences between X w^T and Y, for weights (G, R, C) in float64."""
        fitted = (weight @ self.xx * weight).sum(2)
        # A difference of large sums: where nothing is left, rounding can fall below 0.
        return (self.yy - 2 * (weight * self.xy.transpose(1, 2)).sum(2) + fitted).clamp_min(0)

    def relative_error(self, weight: Tensor) -> float:
        """The errors of a weight in all, as a share of the squared outputs; 0 where these are 0."""
        squares = float(self.yy.sum())
        return float(self.errors(weight).sum()) / squares if squares else 0.0

    def better_rows(self, start: Tensor, found: Tensor) -> Tensor:
        """Row by row what was found, or the start where that has the smaller error."""
        worse = self.errors(found) > self.errors(start)
        return torch.where(worse[:, :, None], start, found)

    def moments(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (G, R) of X w^T over the samples; the variance is that of a population."""
        mean = (weight @ self.x[:, :, None])[:, :, 0] / self.samples
        square = (weight @ self.xx * weight).sum(2) / self.samples
        # An output that does not vary comes out as the difference of equal numbers, perhaps just below 0.
        return mean, (square - mean.square()).clamp_min(0)
