"""What a mask removes from a group of weights, folded into those that it keeps."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad


def fold_means(weight: Tensor, mask: Tensor, m: int, positions: int) -> Tensor:
    """The kept weights, each with its share of those that were removed from its group; (G, R, C) in and out.

    A group is m consecutive inputs of one output at one kernel position. The sum of its weights stays as it was, spread
    evenly over those that are kept: exact for inputs that are all equal.

    Source: [Hubara2021], AdaPrune.
    """
    groups, rows, cols = weight.shape
    channels = cols // positions
    padding = -channels % m

    def grouped(matrices: Tensor) -> Tensor:
        by_channel = matrices.reshape(groups, rows, channels, positions)
        # What fills the last group up weighs 0 and is not kept, so that it changes no sum.
        padded = pad(by_channel, (0, 0, 0, padding))
        return padded.reshape(groups, rows, -1, m, positions)

    kept = grouped(mask.to(weight.dtype))
    values = grouped(weight)
    removed = (values * (1 - kept)).sum(3, keepdim=True)
    # A group that keeps nothing has nobody to take its share; the 1 only avoids 0 / 0.
    folded = kept * (values + removed / kept.sum(3, keepdim=True).clamp_min(1))
    return folded.reshape(groups, rows, channels + padding, positions)[:, :, :channels].reshape(weight.shape)
