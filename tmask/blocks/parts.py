"""Matrices cut into parts that are solved at once: read where they lie, or copied into a small buffer.

Matrices (h, w) whose entries a solver can read as they are, float32 or float64 with rows of unit stride, are handed
over in bands of rows. All else (float16, bfloat16, the kernel positions of a convolution) is first copied into a stage,
part by part, and so are the masks on their way back. Which entries form a part does not depend on the number of
threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tmask.blocks.tiling import Mask

Values = npt.NDArray[Any]  # a float dtype, or uint16 for the bits of bfloat16
RowPrices = npt.NDArray[np.floating[Any]]

_STAGED_BYTES = 1 << 19  # of weights; with their mask, below 1 MiB a thread
_DIRECT_ENTRIES = 1 << 20  # 4 MiB of float32: little is lost at the ends of parts, and threads share evenly
_DIRECT_BLOCKS = 1 << 10  # enough to keep SIMD lanes busy that wait for a part's last blocks


def real_dtype(weights: Values) -> type[np.floating[Any]]:
    """The dtype that weights are solved in, whatever their byte order."""
    return np.float64 if weights.dtype.itemsize == 8 else np.float32


@dataclass(frozen=True, slots=True)
class Part:
    """What is solved together: of all matrices, one below the other, lines `first` to `last`, some columns of them."""

    first: int
    last: int
    across: slice

    def pieces(self, matrices: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Its part of each of the matrices (K, G, h, w) that it touches, in order: views."""
        groups, height = matrices.shape[1:3]
        line = self.first
        while line < self.last:
            matrix, row = divmod(line, height)
            stop = min(height, row + self.last - line)
            yield matrices[matrix // groups, matrix % groups, row:stop, self.across]
            line += stop - row

    def tiles(self, row_prices: RowPrices) -> RowPrices:
        """Those of its tiles, (down, across, m): a view."""
        m = row_prices.shape[2]
        return row_prices[self.first // m : self.last // m, self.across.start // m : self.across.stop // m]

    def put(self, mask: Mask, masks: Mask) -> None:
        """Its mask to where the pieces came from."""
        row = 0
        for piece in self.pieces(masks):
            piece[...] = mask[row : row + len(piece)]
            row += len(piece)


def is_direct(weights: Values, masks: Mask, m: int) -> bool:
    """Whether a solver can take the matrices as they are.

    Read-only arrays would be another type to numba, and compile again. Small matrices are gathered, so that each of
    them is not a part of its own.
    """
    matrices, groups, height, width = weights.shape
    plain = weights.dtype in (np.float32, np.float64) and weights.dtype.isnative
    down, across = weights.strides[2:]
    rows = across == weights.itemsize and down >= width * across and down % across == 0
    large = matrices * groups == 1 or height * width >= _DIRECT_BLOCKS * m * m
    return plain and rows and weights.flags.aligned and weights.flags.writeable and masks.strides[3] == 1 and large


def direct_parts(weights: Values, m: int) -> Iterator[Part]:
    """Bands of rows of each matrix."""
    matrices, groups, height, width = weights.shape
    # Blocks count, too: at m = 32 so few entries would be too few tiles.
    step = max(1, max(_DIRECT_ENTRIES, _DIRECT_BLOCKS * m * m) // (width * m)) * m
    # No part goes from one matrix to the next: rows of unit stride lie in one of them.
    for top in range(0, matrices * groups * height, height):
        for line in range(top, top + height, step):
            yield Part(line, min(line + step, top + height), slice(0, width))


def staged_parts(weights: Values, m: int) -> Iterator[Part]:
    """What fits the stage, cut at multiples of m."""
    matrices, groups, height, width = weights.shape
    # At least one row of tiles fits. Columns are cut at 16 tiles, so that lanes, 16 blocks, come out even.
    room = _STAGED_BYTES // np.dtype(real_dtype(weights)).itemsize
    columns = min(width, room // m // (16 * m) * 16 * m)
    lines = matrices * groups * height
    for col in range(0, width, columns):
        across = slice(col, min(col + columns, width))
        step = room // (across.stop - across.start) // m * m
        for line in range(0, lines, step):
            yield Part(line, min(line + step, lines), across)


class Stage:
    """Room for a part that is copied."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        entries = _STAGED_BYTES // np.dtype(dtype).itemsize
        self.weight, self.mask = np.empty(entries, dtype), np.empty(entries, np.bool_)

    def fetch(self, part: Part, weights: Values) -> tuple[Values, Mask]:
        """The part's pieces below one another, and a mask to write."""
        height, width = part.last - part.first, part.across.stop - part.across.start
        weight = self.weight[: height * width].reshape(height, width)
        row = 0
        for piece in part.pieces(weights):
            target = weight[row : row + len(piece)]
            if piece.dtype == np.uint16:  # bfloat16 is the upper half of float32
                np.left_shift(piece, np.uint32(16), out=target.view(np.uint32), dtype=np.uint32)
            else:
                target[...] = piece
            row += len(piece)
        return weight, self.mask[: height * width].reshape(height, width)
