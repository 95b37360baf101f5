"""What a mask removes from a group of weights, folded into those that it keeps."""

from __future__ import annotations

from torch import Tensor

from tmask.nn.methods.adaprune import fold


def fold_means(weight: Tensor, mask: Tensor, m: int, positions: int) -> Tensor:
    """The kept weights, each with its share of those that were removed from its group; (G, R, C) in and out.

    A group is m consecutive inputs of one output at one kernel position, see `fold`.
    """
    by_channel = (*weight.shape[:2], weight.shape[2] // positions, positions)

    # Inputs at one position side by side, as `fold` has them.
    def lines(matrices: Tensor) -> Tensor:
        return matrices.reshape(by_channel).transpose(2, 3).reshape(-1, by_channel[2])

    folded = fold(lines(weight), lines(mask), m).reshape(*by_channel[:2], positions, by_channel[2])
    return folded.transpose(2, 3).reshape(weight.shape)
