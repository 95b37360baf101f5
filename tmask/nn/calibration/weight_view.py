"""A weight as matrix products, whatever stores it: what it multiplies, group by group.

Shapes: G groups, R outputs of a group, C inputs of a group, S samples. It computes y = x w^T + bias with x (G, S, C),
w (G, R, C), y (G, S, R).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class WeightView(ABC):
    """A weight and its data as matrices."""

    groups: int = 1
    positions: int = 1  # of a convolution's kernel

    @property
    @abstractmethod
    def parameter(self) -> Tensor:
        """Where it is stored, and written to."""

    @property
    @abstractmethod
    def bias(self) -> Tensor | None:
        """What is added to the products, (G * R,), where it is a parameter."""

    @property
    @abstractmethod
    def tiled_shape(self) -> tuple[int, ...]:
        """(outputs, inputs / groups, *kernel), in which it is cut into tiles."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of the whole parameter."""
        return tuple(self.parameter.shape)

    @abstractmethod
    def matrices(self, tensor: Tensor) -> Tensor:
        """A weight, score or mask as it is stored, as (G, R, C)."""

    @abstractmethod
    def tensor(self, matrices: Tensor) -> Tensor:
        """(G, R, C) as it is stored."""

    @abstractmethod
    def inputs(self, x: Tensor) -> Tensor:
        """What it is multiplied with, samples first, as (G, S, C)."""

    @abstractmethod
    def outputs(self, y: Tensor) -> Tensor:
        """What comes of that, samples first, as (G, S, R)."""

    @abstractmethod
    def of(self, model: nn.Module, name: str) -> WeightView:
        """The weight of this name in a copy of the model."""

    @property
    def rows(self) -> int:
        """R: outputs of a group."""
        return self.tiled_shape[0] // self.groups

    @property
    def channels(self) -> int:
        """Inputs of a group."""
        return self.tiled_shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(G, R, C) of the weight."""
        return self.groups, self.rows, self.channels * self.positions

    @property
    def weight(self) -> Tensor:
        """The weight as it is now, (G, R, C) float64."""
        return self.matrices(self.parameter.detach()).to(torch.float64)

    def position_major(self) -> list[int]:
        """The order of columns in which the inputs at one kernel position are neighbours.

        In it, m columns that a tile of a transposable mask spans stand side by side.
        """
        return [c * self.positions + k for k in range(self.positions) for c in range(self.channels)]
