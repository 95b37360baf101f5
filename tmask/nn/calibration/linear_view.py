"""A linear or convolution layer as matrix products, see `WeightView`.

Samples are the rows of a linear layer's input, and of a convolution each image and output position. Column c * K + k of
w is input channel c at kernel position k of K, so a weight and its matrices are one array under two shapes, and so are
their masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from tmask.nn.calibration.weight_view import WeightView

# Those with a weight (outputs, inputs / groups, *kernel); transposed convolutions have another.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class LinearView(WeightView):
    """A layer's weight and data as matrices.

    Args:
        module: `torch.nn.Linear`, `Conv1d`, `Conv2d` or `Conv3d`.
    """

    module: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d

    @property
    def groups(self) -> int:  # type: ignore[override]
        """G: 1 for a linear layer."""
        return 1 if isinstance(self.module, nn.Linear) else self.module.groups

    @property
    def positions(self) -> int:  # type: ignore[override]
        """K: kernel positions, 1 for a linear layer."""
        return math.prod(self.module.weight.shape[2:])

    @property
    def parameter(self) -> Tensor:
        return self.module.weight

    @property
    def bias(self) -> Tensor | None:
        return self.module.bias

    @property
    def tiled_shape(self) -> tuple[int, ...]:
        return tuple(self.module.weight.shape)

    def matrices(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(self.shape)

    def tensor(self, matrices: Tensor) -> Tensor:
        return matrices.reshape(self.module.weight.shape)

    def of(self, model: nn.Module, name: str) -> LinearView:
        return LinearView(model.get_submodule(name.rpartition(".")[0]))  # type: ignore[arg-type]

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
