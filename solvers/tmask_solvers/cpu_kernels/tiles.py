"""One m-by-m tile of a matrix in and out of a lane.

Indices are unsigned, because numba looks at the sign of others to count from the end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.lib.stride_tricks import as_strided

from tmask_solvers.cpu_kernels.compiling import inlined, lean_kernel
from tmask_solvers.cpu_kernels.vector import Vector, address, constant
from tmask_solvers.shared.constants import LARGEST_TAME

Array = npt.NDArray[Any]


class Window(NamedTuple):
    """A part of a matrix and of its mask, rows and cols being multiples of m.

    Entry (r, c) is weight[r*stride + c] and mask[r*mask_stride + c]: 1-D arrays that start at the part's first entry,
    so that one compiled version serves matrices and parts of them. Weights are float32 or float64 of any sign, the
    mask is uint8.
    """

    weight: Array
    stride: int
    mask: Array
    mask_stride: int
    rows: int
    cols: int


def make_window(weight: Array, mask: Array) -> Window:
    """Of a weight (rows, cols) and its bool mask, both with rows of unit stride."""
    flat, stride = _flat(weight)
    flat_mask, mask_stride = _flat(mask.view(np.uint8))
    return Window(flat, stride, flat_mask, mask_stride, *weight.shape)


def _flat(matrix: Array) -> tuple[Array, int]:
    """All entries from the first to the last in one dimension, and the distance of rows in it."""
    rows, cols = matrix.shape
    if matrix.flags.c_contiguous:
        return matrix.reshape(-1), cols
    stride = matrix.strides[0] // matrix.itemsize
    return as_strided(matrix, ((rows - 1) * stride + cols,), (matrix.itemsize,)), stride


@lean_kernel
def extremes(window: Window, at: int, ms: tuple[int, ...]) -> tuple[Any, Any, bool]:
    """The least and the largest |entry| of a tile, and whether all are finite."""
    m = len(ms)
    low = high = abs(window.weight[np.uint64(at)])
    finite = True
    for i in range(m):
        for j in range(m):
            x = abs(window.weight[np.uint64(at + i * window.stride + j)])
            low, high = min(low, x), max(high, x)
            finite &= x < np.inf  # which NaN is not either
    return low, high, finite


@inlined
def load(window: Window, at: int, lane: int, to: Array, ms: tuple[int, ...]) -> bool:
    """|entries| of a tile into a lane; whether all are at most `LARGEST_TAME`, which NaN is not."""
    m = len(ms)
    wild = 0
    lanes = np.uint64(64 // to.itemsize)
    place = np.uint64(lane)
    for i in range(m):
        row = np.uint64(at + i * window.stride)
        # Apart from the copy, which cannot be a vector operation: it writes each entry to another place.
        wild |= _wild_row(window.weight, at + i * window.stride, ms)
        for j in range(m):
            to[place] = abs(window.weight[row + np.uint64(j)])
            place += lanes
    return wild == 0


@inlined
def store(kept: Array, lane: int, lanes: int, window: Window, at: int, ms: tuple[int, ...]) -> None:
    """The mask in a lane into a tile."""
    m = len(ms)
    words = (m + 3) // 4
    for i in range(m):
        row = at + i * window.mask_stride
        # Else a row's last word would reach into the next tile.
        if m % 4 == 0:
            for k in range(words):
                _put_word(window.mask, row + 4 * k, kept[np.uint64((i * words + k) * lanes + lane)])
        else:
            for j in range(m):
                word = kept[np.uint64((i * words + (j >> 2)) * lanes + lane)]
                window.mask[np.uint64(row + j)] = (word >> (8 * (j & 3))) & 1


@lean_kernel
def store_circulant(window: Window, at: int, ns: tuple[int, ...], ms: tuple[int, ...]) -> None:
    """A mask for a tile whose entries are all equal: each row keeps the n entries that follow the last row's."""
    n, m = len(ns), len(ms)
    # Going round, m rows of n entries pass every column n times; and no other mask of such a tile keeps more.
    first = 0
    for i in range(m):
        for j in range(m):
            turn = j - first
            window.mask[np.uint64(at + i * window.mask_stride + j)] = (turn if turn >= 0 else turn + m) < n
        first = (first + n) % m


@intrinsic
def _wild_row(typingctx, weight, at, ms):  # type: ignore[no-untyped-def]
    """Bits of those among m entries in a row that are not at most `LARGEST_TAME` in magnitude; one vector for speed."""
    m = ms.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.VectorType(context.get_value_type(sig.args[0].dtype), m)
        place = address(context, builder, sig.args[0], args[0], args[1], kind)
        x = abs(Vector(builder, builder.load(place, align=4)))
        limit = constant(x, kind.element, LARGEST_TAME)
        wild = builder.fcmp_unordered(">", x.value, limit.value)  # unordered: NaN too
        return builder.zext(builder.bitcast(wild, ir.IntType(m)), ir.IntType(64))

    return types.int64(weight, types.int64, ms), codegen


@intrinsic
def _put_word(typingctx, mask, at, word):  # type: ignore[no-untyped-def]
    """Store the four bytes of an int32 at mask[at], wherever that lies."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = address(context, builder, sig.args[0], args[0], args[1], args[2].type)
        builder.store(args[2], place, align=1)
        return context.get_dummy_value()

    return types.void(mask, types.int64, types.int32), codegen
