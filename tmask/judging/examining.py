"""The figures of masks on their device: by the kernel of a solver's libraries where those are loaded, else by torch.

Nothing here waits for the device: what comes back are tensors, which the caller fetches together.

Legend: values, masks (K, G, down, across, m, m), views; scores are |values|; prices (K, G, down, across, m).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tmask.blocks.tensor_blocks import pieces
from tmask.judging.compiled import find_device_kernels
from tmask.judging.tensor_judging import examine

if TYPE_CHECKING:
    from torch import Tensor

PIECE_ENTRIES = 1 << 25  # looked at together by torch, which bounds the memory for its copies


class Judged(NamedTuple):
    """Masks with the scores that they were made for, and the column prices that prove them, or None."""

    values: Tensor
    masks: Tensor
    n: int
    prices: Tensor | None


def examine_all(parts: Sequence[Judged]) -> Tensor:
    """(parts, 5) float64, see `tmask.judging.tensor_judging.examine`; all parts are on one device."""
    import torch

    kernels = find_device_kernels()
    if kernels is None:
        return torch.stack([_by_torch(part) for part in parts])
    taken = [kernels.takes(part.values.device.type, part.values.shape[-1]) for part in parts]
    own = [part for part, takes in zip(parts, taken, strict=True) if takes]
    if len(own) == len(parts):  # no more kernels than that one
        figures: Tensor = kernels.examine_all(own)
        return figures
    by_kernel = iter(kernels.examine_all(own).unbind() if own else ())
    return torch.stack(
        [next(by_kernel) if takes else _by_torch(part) for part, takes in zip(parts, taken, strict=True)]
    )


def _by_torch(part: Judged) -> Tensor:
    """(5,) of one part, in pieces, since what is looked at is copied: as float32, as differences, as counts."""
    import torch

    rows = []
    for index in pieces(part.values.shape[:4], PIECE_ENTRIES // part.values.shape[5] ** 2):
        v = None if part.prices is None else part.prices[index]
        rows.append(examine(part.values[index], part.masks[index], part.n, v))
    return torch.stack(rows).sum(0)
