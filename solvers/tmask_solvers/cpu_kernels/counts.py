"""Whether a mask keeps n in each row and column of each tile: the last look before it is returned."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tmask_solvers.cpu_kernels.compiling import lean_kernel
from tmask_solvers.cpu_kernels.late import late_kernel
from tmask_solvers.cpu_kernels.vector import address

Array = npt.NDArray[Any]

STEP = 64  # entries looked at together


@lean_kernel
def wrong_lines(mask: Array, at: int, stride: int, cols: int, ns: tuple[int, ...], ms: tuple[int, ...]) -> int:
    """0 if all tiles of the m rows from mask[at] on are n-regular; reads them once, in vectors if m is 4, 8, 16, 32."""
    m = len(ms)
    # Vectors are for tiles that fill them, of rows that fill words: then no word holds entries of two tiles.
    whole = cols // STEP * STEP if STEP % m == 0 and m % 4 == 0 else 0
    wrong = 0  # summed, not returned early: nearly all masks are right, and a branch a step would cost all of them
    for c in range(0, whole, STEP):
        wrong += _wrong_step(mask, at + c, stride, ns, ms)
    return wrong + _wrong_rest(mask, at, stride, whole, cols, ns, ms) if whole < cols else wrong


@late_kernel
def _wrong_rest(
    mask: Array, at: int, stride: int, whole: int, cols: int, ns: tuple[int, ...], ms: tuple[int, ...]
) -> int:
    """`wrong_lines` of the columns from `whole` on, entry by entry; most matrices have none."""
    n, m = len(ns), len(ms)
    wrong = 0
    for c in range(whole, cols):
        count = 0
        for i in range(m):
            count += mask[at + i * stride + c]
        wrong += count != n
    for i in range(m):
        for c in range(whole, cols, m):
            count = 0
            for j in range(m):
                count += mask[at + i * stride + c + j]
            wrong += count != n
    return wrong


@intrinsic
def _wrong_step(typingctx, mask, at, stride, ns, ms):  # type: ignore[no-untyped-def]
    """Nonzero if some row or column of the STEP / m tiles from mask[at] on does not count n.

    A row's bytes are added within words of 4 or 8 bytes by a multiplication, whose top byte is their sum.
    """
    n, m = ns.count, ms.count
    width = 32 if m == 4 else 64

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = ir.IntType(width)
        packed = ir.VectorType(word, STEP * 8 // width)
        ones = ir.Constant(packed, [ir.Constant(word, int("01" * (width // 8), 16))] * packed.count)
        shift = ir.Constant(packed, [ir.Constant(word, width - 8)] * packed.count)
        columns = wrong = None
        place = args[1]
        for _ in range(m):
            row = builder.load(address(context, builder, sig.args[0], args[0], place, packed), align=1)
            place = builder.add(place, args[2])
            columns = row if columns is None else builder.add(columns, row)  # bytes do not overflow: m <= 32
            sums = builder.lshr(builder.mul(row, ones), shift)
            span = width // 8
            while span < m:  # add neighbouring words, until each holds the sum of its whole row
                turned = [k ^ (span * 8 // width) for k in range(packed.count)]
                picks = ir.Constant(ir.VectorType(ir.IntType(32), packed.count), turned)
                sums = builder.add(sums, builder.shuffle_vector(sums, ir.Constant(packed, ir.Undefined), picks))
                span *= 2
            off = builder.icmp_unsigned("!=", sums, ir.Constant(packed, [ir.Constant(word, n)] * packed.count))
            wrong = off if wrong is None else builder.or_(wrong, off)
        expected = ir.Constant(packed, [ir.Constant(word, n * int("01" * (width // 8), 16))] * packed.count)
        wrong = builder.or_(wrong, builder.icmp_unsigned("!=", columns, expected))
        return builder.zext(builder.bitcast(wrong, ir.IntType(packed.count)), ir.IntType(64))

    return types.int64(mask, types.int64, types.int64, ns, ms), codegen
