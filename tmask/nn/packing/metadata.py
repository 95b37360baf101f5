"""The metadata of cuSPARSELt's matrices: which entries a mask keeps, along its rows and along its columns.

They are the codes of `tmask.nn.packing.values`, four bits each, in an order of their own. The library makes them when
it compresses a matrix, which takes 0.8 ms for both directions of 4096^2, on an H200. The order was read off there, from
matrices whose groups of four spelled their own numbers: squares of 64 rows by 32 columns, row by row; within one, from
the highest bit of an index to the lowest, bits 5, 4, 2, 1, 0 of the row, bits 1, 0, 2 of the group, and bit 3 of the
row. Nobody promises it: for each shape the library is asked once, and its word stands where the two differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 64  # of a square

# By device, dtype and shape: whether our order was seen to be the library's.
_alike: dict[tuple[torch.device, torch.dtype, tuple[int, ...]], bool] = {}


def metadata_of(mask: Tensor, codes: tuple[Tensor, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The part of a compressed matrix behind its values, of the mask and of its transpose.

    Args:
        mask: (rows, cols) bool, exactly 2:4 along rows and columns.
        codes: as `tmask.nn.packing.values.kept_codes` made them of it.
    """
    key = mask.device, dtype, tuple(mask.shape)
    if _alike.get(key):
        return _in_order(codes, dtype)
    found = _by_library(mask.to(dtype))
    if key not in _alike:
        _alike[key] = _agrees(codes, dtype, found)
    return found


def _by_library(ones: Tensor) -> list[Tensor]:
    # Ones under the mask: it finds a mask by what is not zero, and would miss the kept zeros of a weight.
    both = (torch._cslt_compress(one.contiguous()) for one in (ones, ones.t()))
    return [one.view(-1)[ones.numel() // 2 :].clone() for one in both]


def _in_order(codes: tuple[Tensor, Tensor], dtype: torch.dtype) -> list[Tensor]:
    by_rows, by_columns = codes
    return [_squares(by_rows).view(dtype), _squares(by_columns.t()).view(dtype)]


def _squares(codes: Tensor) -> Tensor:
    """The codes (rows, cols / 4) of one direction, two in a byte, as they lie in memory there."""
    rows, groups = codes.shape
    # Bits of the row: square, 5-4, 3, 2-0; of the group: square, 2, 1-0.
    lines = codes.view(rows // 64, 4, 2, 8, groups // 8, 2, 4)
    pairs = lines[:, :, 0] | lines[:, :, 1] << 4
    return pairs.permute(0, 3, 1, 2, 5, 4).reshape(-1)


def _agrees(codes: tuple[Tensor, Tensor], dtype: torch.dtype, expected: list[Tensor]) -> bool:
    rows, cols = codes[0].shape[0], codes[1].shape[1]
    if rows % _ROWS or cols % _ROWS:  # columns are the rows of the other direction
        return False
    return all(
        len(one) == len(other) and torch.equal(one.view(torch.int16), other.view(torch.int16))
        for one, other in zip(_in_order(codes, dtype), expected, strict=True)
    )
