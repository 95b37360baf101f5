"""The metadata of cuSPARSELt's matrices: which entries a mask keeps, along its rows and along its columns.

The library's own compression finds the mask by what is nonzero. It is given ones under the mask: of a weight it would
miss the kept zeros. It took 0.46 ms for one direction of 4096^2, on an H200, where torch's tile kernel took 0.08 ms for
both. That kernel's format was made out from another generation of cards, so it is taken where both were compared.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TILE = 128  # of whose multiples the kernel wants both sides

# By device, dtype and shape: whether the kernel writes what the library does.
_alike: dict[tuple[torch.device, torch.dtype, tuple[int, ...]], bool] = {}


def metadata_of(mask: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The part of a compressed matrix behind its values, of the mask and of its transpose.

    Args:
        mask: (rows, cols) bool, exactly 2:4 along rows and columns.
    """
    ones = mask.to(dtype).contiguous()
    key = mask.device, dtype, tuple(mask.shape)
    if _alike.get(key):
        return _by_kernel(ones)
    found = _by_library(ones)
    if key not in _alike:
        _alike[key] = _kernel_agrees(ones, found)
    return found


def _by_library(ones: Tensor) -> list[Tensor]:
    return [_behind_values(torch._cslt_compress(one.contiguous()), ones) for one in (ones, ones.t())]


def _by_kernel(ones: Tensor) -> list[Tensor]:
    # It chooses a mask itself, by value: of ones and zeros that can be filled completely, all the ones.
    rows, _, columns, *_ = torch._sparse_semi_structured_tile(
        ones, algorithm="largest_values_greedy", use_cutlass=False
    )
    return [_behind_values(rows, ones), _behind_values(columns, ones)]


def _behind_values(compressed: Tensor, ones: Tensor) -> Tensor:
    return compressed.view(-1)[ones.numel() // 2 :].clone()


def _kernel_agrees(ones: Tensor, expected: list[Tensor]) -> bool:
    if any(side % _TILE for side in ones.shape):
        return False
    try:
        found = _by_kernel(ones)
    except RuntimeError:  # a private operator, which not every card and build has
        return False
    return all(
        len(one) == len(other) and torch.equal(one.view(torch.int16), other.view(torch.int16))
        for one, other in zip(found, expected, strict=True)
    )
