"""The Triton kernel that transposes a matrix square by square. Triton comes with torch's builds for CUDA."""

from __future__ import annotations

import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]
from torch import Tensor

from tmask.nn.packing.squares import over


def turn(matrix: Tensor, turned: Tensor) -> None:
    """Write a matrix (rows, cols), whose lines may have room behind them, to a contiguous one (cols, rows)."""
    rows, cols = matrix.shape
    over(matrix, _turn, matrix, turned, rows, cols, matrix.stride(0))


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _turn(matrix, turned, rows, cols, apart, SIDE: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    top, left = tl.program_id(1) * SIDE, tl.program_id(0) * SIDE
    down, across = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    inside = (top + down < rows) & (left + across < cols)
    # 64 bits for the corner of a square, since places of a large matrix do not fit into 32.
    square = tl.load(matrix + (top.to(tl.int64) * apart + left) + (down * apart + across), mask=inside, other=0)
    inside = (left + down < cols) & (top + across < rows)
    tl.store(turned + (left.to(tl.int64) * rows + top) + (down * rows + across), tl.trans(square), mask=inside)
