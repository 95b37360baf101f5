"""Triton kernels over a weight or its mask in squares: the kept values along rows and columns, and where they lie.

Each program takes one square and reads it once. A thread holds whole groups of four, so that numbers come and go
sixteen bytes at a time, and which two of four are kept is chosen in registers; for the columns the square is turned on
the chip. Places are two bits each, a byte for the two of a group, so that they cost an eighth of what the values do.
Triton comes with torch's builds for CUDA; this file is imported where it is there.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]
from torch import Tensor

from tmask.nn.packing.squares import SIDE, over


def write(weight: Tensor, codes: Tensor, codes_t: Tensor, out: Tensor, out_t: Tensor) -> None:
    """As `tmask.nn.packing.values.write_both`, for tensors on a device that Triton compiles for."""
    rows, cols = weight.shape
    # Halves and quarters by themselves, so that Triton sees of which powers of two they are multiples.
    over(weight, _write, weight, codes, codes_t, out, out_t, rows, cols, rows // 2, cols // 2, cols // 4)


def encode(mask: Tensor, codes: Tensor, codes_t: Tensor, order: Tensor, order_t: Tensor) -> None:
    """As `tmask.nn.packing.values.kept_codes`, and in the order of `tmask.nn.packing.code_order` for sides in 64s.

    Args:
        order, order_t: uint8, rows * cols / 8 each; for other sides they are not written to.
    """
    rows, cols = mask.shape
    ordered = rows % SIDE == 0 and cols % SIDE == 0
    over(mask, _encode, mask.view(torch.uint8), codes, codes_t, order, order_t, rows, cols, cols // 4, ORDERED=ordered)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _write(weight, codes, codes_t, out, out_t, rows, cols, half_rows, half_cols, groups, SIDE: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    top, left = tl.program_id(1) * SIDE, tl.program_id(0) * SIDE
    down, across = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    # 64 bits for the corner of a square, since places of a large weight do not fit into 32.
    corner = top.to(tl.int64) * cols + left
    square = tl.load(
        weight + corner + (down * cols + across), mask=(top + down < rows) & (left + across < cols), other=0
    )
    square = square.to(out.dtype.element_ty)

    group = tl.arange(0, SIDE // 4)[None, :]
    inside = (top + down < rows) & (left // 4 + group < groups)
    code = tl.load(codes + (top.to(tl.int64) * groups + left // 4) + (down * groups + group), mask=inside, other=0)
    kept = tl.arange(0, SIDE // 2)[None, :]
    inside = (top + down < rows) & (left // 2 + kept < half_cols)
    at = out + (top.to(tl.int64) * half_cols + left // 2) + (down * half_cols + kept)
    tl.store(at, _two_of_four(square, code, SIDE), mask=inside)

    group = tl.arange(0, SIDE // 4)[:, None]
    inside = (top + 4 * group < rows) & (left + across < cols)
    code = tl.load(codes_t + ((top // 4).to(tl.int64) * cols + left) + (group * cols + across), mask=inside, other=0)
    inside = (left + down < cols) & (top // 2 + kept < half_rows)
    at = out_t + (left.to(tl.int64) * half_rows + top // 2) + (down * half_rows + kept)
    tl.store(at, _two_of_four(tl.trans(square), tl.trans(code), SIDE), mask=inside)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _two_of_four(square, code, SIDE: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    a, b, c, d = _fours(square, SIDE)
    first, second = code & 3, code >> 2
    low = tl.where(first == 0, a, tl.where(first == 1, b, c))
    high = tl.where(second == 1, b, tl.where(second == 2, c, d))
    return tl.reshape(tl.join(low, high), [SIDE, SIDE // 2])


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _encode(mask, codes, codes_t, order, order_t, rows, cols, groups, SIDE: tl.constexpr, ORDERED: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    top, left = tl.program_id(1) * SIDE, tl.program_id(0) * SIDE
    down, across = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    corner = top.to(tl.int64) * cols + left
    inside = (top + down < rows) & (left + across < cols)
    square = tl.load(mask + corner + (down * cols + across), mask=inside, other=0)

    group = tl.arange(0, SIDE // 4)[None, :]
    inside = (top + down < rows) & (left // 4 + group < groups)
    at = codes + (top.to(tl.int64) * groups + left // 4) + (down * groups + group)
    code = _code(square, SIDE)
    tl.store(at, code, mask=inside)
    if ORDERED:
        _store_order(order + (top.to(tl.int64) * groups + left * 16) // 2, code, SIDE)

    group = tl.arange(0, SIDE // 4)[:, None]
    inside = (top + 4 * group < rows) & (left + across < cols)
    at = codes_t + ((top // 4).to(tl.int64) * cols + left) + (group * cols + across)
    code = _code(tl.trans(square), SIDE)
    tl.store(at, tl.trans(code), mask=inside)
    if ORDERED:
        _store_order(order_t + (left.to(tl.int64) * (rows // 4) + top * 16) // 2, code, SIDE)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _store_order(at, code, SIDE: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    # Bits 5-4, 3 and 2-0 of the row; square of 32 columns, bits 2 and 1-0 of the group; in the end bit 3 comes last.
    split = tl.reshape(code, [SIDE // 16, 2, 8, SIDE // 32, 2, 4])
    low, high = tl.split(tl.permute(split, 3, 0, 2, 5, 4, 1))
    pairs = tl.reshape(low | high << 4, [SIDE * SIDE // 8])
    tl.store(at + tl.arange(0, SIDE * SIDE // 8), pairs)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _code(square, SIDE: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    a, b, c, d = _fours(square, SIDE)
    first = tl.where(a != 0, 0, tl.where(b != 0, 1, 2))
    second = tl.where(d != 0, 3, tl.where(c != 0, 2, 1))
    return (first | second << 2).to(tl.uint8)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _fours(square, SIDE: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    even, odd = tl.split(tl.reshape(square, [SIDE, SIDE // 4, 2, 2]))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d
