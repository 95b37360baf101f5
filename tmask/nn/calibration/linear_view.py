"""A linear or convolution layer as matrix products: what it multiplies its weight with, group by group.

Shapes: G groups, R outputs of a group, C inputs of a group times kernel positions, S samples: one per row of a linear
layer's input, one per image and output position of a convolution. The layer computes y = x w^T + bias with
x (G, S, C), w (G, R, C), y (G, S, R). Column c * K + k of w is input channel c at kernel position k of K, so a weight
and its matrices are one array under two shapes, and so are their masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# Those with a weight (outputs, inputs / groups, *kernel); transposed convolutions have another.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class LinearView:
    """A layer's weight and data as matrices.

    Args:
        module: `torch.nn.Linear`, `Conv1d`, `Conv2d` or `Conv3d`.
    """

    module: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d

    @property
    def groups(self) -> int:
        """G: 1 for a linear layer."""
        return 1 if isinstance(self.module, nn.Linear) else self.module.groups

    @property
    def rows(self) -> int:
        """R: outputs of a group."""
        return int(self.module.weight.shape[0]) // self.groups

    @property
    def channels(self) -> int:
        """Inputs of a group."""
        return int(self.module.weight.shape[1])

    @property
    def positions(self) -> int:
        """K: kernel positions, 1 for a linear layer."""
        return math.prod(self.module.weight.shape[2:])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(G, R, C) of the weight."""
        return self.groups, self.rows, self.channels * self.positions

    @property
    def weight(self) -> Tensor:
        """The weight as it is now, (G, R, C) float64."""
        return self.matrices(self.module.weight.detach()).to(torch.float64)

    def matrices(self, tensor: Tensor) -> Tensor:
        """A weight, score or mask (outputs, inputs / groups, *kernel) as (G, R, C)."""
        return tensor.reshape(self.shape)

    def tensor(self, matrices: Tensor) -> Tensor:
        """(G, R, C) in the shape of the weight."""
        return matrices.reshape(self.module.weight.shape)

    def batched(self, data: Tensor) -> Tensor:
        """The layer's input or output with its batch axis, which torch lets a caller leave out."""
        least = 2 if isinstance(self.module, nn.Linear) else self.module.weight.ndim
        return data[None] if data.ndim < least else data

    def inputs(self, x: Tensor) -> Tensor:
        """The layer's input, with a batch axis, as (G, S, C), patches of a convolution unfolded."""
        module = self.module
        if isinstance(module, nn.Linear):
            return x.reshape(1, -1, x.shape[-1])
        axes = module.weight.ndim - 2
        # torch's two names for one thing.
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = functional.pad(x, _padding(module), mode=mode)
        for axis, (size, stride, dilation) in enumerate(
            zip(module.kernel_size, module.stride, module.dilation, strict=True)
        ):
            # A window of the dilated kernel's whole width, of which every dilation-th entry is kept.
            x = x.unfold(2 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        # The patches are views until the reshape at the end, which copies.
        # (B, inputs, *outputs' positions, *kernel) -> (B, *outputs' positions, inputs, *kernel)
        x = x.movedim(1, 1 + axes)
        samples = math.prod(x.shape[: 1 + axes])
        return x.reshape(samples, self.groups, -1).movedim(1, 0)

    def outputs(self, y: Tensor) -> Tensor:
        """The layer's output, with a batch axis, as (G, S, R)."""
        if not isinstance(self.module, nn.Linear):
            y = y.movedim(1, -1)
        return y.reshape(-1, self.groups, self.rows).movedim(1, 0)

    def position_major(self) -> list[int]:
        """The order of columns in which the inputs at one kernel position are neighbours.

        In it, m columns that a tile of a transposable mask spans stand side by side.
        """
        return [c * self.positions + k for k in range(self.positions) for c in range(self.channels)]


def _padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Sequence[int]:
    """For `functional.pad`: before and after each axis, the last axis first."""
    sides: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "same":
            # With an odd total, torch puts the extra one behind.
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            sides += [total // 2, total - total // 2]
        elif isinstance(module.padding, str):
            sides += [0, 0]
        else:
            sides += [module.padding[axis]] * 2
    return sides
