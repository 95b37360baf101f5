"""The order in which cuSPARSELt keeps the codes of a mask, as it was read off an H200 with version 0.8.

Matrices were compressed whose groups of four spelled their own numbers. They lie in squares of 64 rows by 32 columns,
row by row. Within one, from the highest bit of a place to the lowest: bits 5, 4, 2, 1 and 0 of the row, bits 1, 0 and 2
of the group, and bit 3 of the row; two codes of four bits make a byte, the first one low.
"""

from __future__ import annotations

from torch import Tensor

SQUARE = 64  # whose multiples sides must be: each direction's columns are the other's rows


def ordered(codes: Tensor) -> Tensor:
    """The codes (rows, cols / 4) of one direction in that order, as bytes (rows * cols / 8,)."""
    rows, groups = codes.shape
    # Bits of the row: square, 5-4, 3, 2-0; of the group: square, 2, 1-0.
    lines = codes.view(rows // 64, 4, 2, 8, groups // 8, 2, 4)
    pairs = lines[:, :, 0] | lines[:, :, 1] << 4
    return pairs.permute(0, 3, 1, 2, 5, 4).reshape(-1)
