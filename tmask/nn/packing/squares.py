"""A Triton kernel over a matrix, a program for each square of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tmask.nn.mask.believed import made_current

SIDE = 64  # 128 bytes of a line of two-byte numbers, and 64 of a packed one


def over(matrix: Tensor, kernel: Any, *arguments: Any, **constants: Any) -> None:
    """Launch a kernel whose programs are counted across, then down; it gets SIDE beside its arguments."""
    rows, cols = matrix.shape
    squares = -(-cols // SIDE), -(-rows // SIDE)
    with made_current(matrix.device):
        kernel[squares](*arguments, SIDE=SIDE, **constants)
