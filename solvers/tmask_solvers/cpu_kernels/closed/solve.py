# mypy: disable-error-code="no-untyped-call"
# (numba has no types inside)
"""2:4, 1:4 and 3:4 masks of a float32 matrix of 4-by-4 blocks in closed form, exact.

16 blocks of a block row at once, a SIMD lane each, by `two_four` or `permutation`. A float32 answer stands where
nothing was rounded, or where it wins each of its comparisons by more than 2^-20 of the block's sum, which is more than
rounding can have done. Else the blocks are done again in float64, 8 at once.

Nothing was rounded. Let T be a block's sum, t = T as computed (5 roundings an entry), u = 2^-24 or 2^-53. If all
entries are multiples of the last place of t, no operation of the closed forms rounds: signed sums of entries are such
multiples too, of magnitude T < 2^(k + 1) where 2^k <= t < 2^(k + 1). (T cannot be 2^(k + 1) or more: rounding is
monotone and would have made t so.) An entry is such a multiple if adding it to t is exact, that is if (x + t) - t gives
back x. So ties among small integers cost nothing extra; and float64 rounds nothing in blocks whose nonzero entries span
less than 2^25.

The guard. The closed forms need that a computed lead d > fl(2^-20 t) implies a difference of computed values above
12 u T. Scaling by 2^-20 is exact unless the result is subnormal, and then off by at most half of 2^-149; but leads and
guards are multiples of 2^-149, so that d > fl(2^-20 t) implies d > 2^-20 t all the same. The lead is itself a rounded
difference, so the difference is above 2^-20 t / (1 + u) >= 16 u (1 - u)^6 T > 12 u T. Nothing may overflow: no term
exceeds (1 + u)^4 T, so t < 2^127 is asked for, which also leaves NaN and infinity to float64. There the guard is 2^-49
of t by the same argument, and nothing is subnormal or overflows.

What is neither rounded nor proven in float64 was decided by values that are off by at most e = ((1 + u)^4 - 1) T, so
what is kept falls short of the optimum by at most 2 e < 2^-49 t; with room for the rounding of the sum of such bounds.

Cost: reading the matrix and writing the mask; two to three times that where every group holds ties that round.
"""

from __future__ import annotations

from functools import reduce
from operator import and_
from typing import Any

import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tmask_solvers.cpu_kernels.closed.permutation import permutation
from tmask_solvers.cpu_kernels.closed.two_four import two_four
from tmask_solvers.cpu_kernels.compiling import lean_entry, rare_kernel
from tmask_solvers.cpu_kernels.examining import examine_band
from tmask_solvers.cpu_kernels.sums import ROOM, close_sums
from tmask_solvers.cpu_kernels.vector import F32, F64, I8, I64, Vector, address, constant, prefetch

Array = npt.NDArray[Any]
Rows = list[list[Vector]]

LANES = 16  # blocks a step; a block row must hold as many
_WIDE_LANES = 8
_SIDE = (0, 0, 0, 0)
_ALL = 0x01010101
# Lanes of the 128-bit quarters of two vectors x and y (whose lanes follow those of x): x0 y0 x1 y1, and x2 y2 x3 y3;
# then x0 x1 y0 y1 and x2 x3 y2 y3.
_QUARTER = 4
_STARTS = range(0, LANES, _QUARTER)
_LOW, _HIGH, _LEFT, _RIGHT = (
    [start + lane for start in _STARTS for lane in lanes]
    for lanes in ((0, 16, 1, 17), (2, 18, 3, 19), (0, 1, 16, 17), (2, 3, 18, 19))
)
_TURNED = [4 * (lane % 4) + lane // 4 for lane in range(LANES)]  # block k is in lane _TURNED[k], and the reverse
_AHEAD = 256  # entries of a row: four groups
_FIRST_HALF = 0x3333  # lanes of the first 8 blocks; those of the others are two further up
GUARD = 2.0**-20
_WIDE_GUARD = 2.0**-49
LARGEST = 2.0**127


@intrinsic
def _solve_group(typingctx, weight, at, stride, mask, place, mask_stride, ns):  # type: ignore[no-untyped-def]
    """Masks of the 16 blocks from weight[at] on, in float32; bits 0 and 1 say that in the first and in the second 8 of
    them one is not proven optimal."""
    n = ns.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = _load(context, builder, sig, args)
        total = total_of(rows)
        words, sure = masks_of(rows, n, total * GUARD)
        _store(context, builder, sig, args, [word.pick(_TURNED) for word in words])
        lanes = ir.IntType(LANES)
        doubt = cgutils.alloca_once_value(builder, builder.bitcast((sure ^ 1).value, lanes))
        wild = builder.bitcast(((constant(total, F32, LARGEST) > total) ^ 1).value, lanes)
        # A branch, since most groups are sure without it, and it takes a fifth of all operations.
        with builder.if_then(builder.icmp_unsigned("!=", builder.load(doubt), ir.Constant(lanes, 0)), likely=False):
            rounded = builder.bitcast((nothing_rounded(rows, total) ^ 1).value, lanes)
            builder.store(builder.and_(builder.load(doubt), rounded), doubt)
        wrong = builder.or_(builder.load(doubt), wild)
        halves = [builder.and_(wrong, ir.Constant(lanes, _FIRST_HALF << 2 * half)) for half in (0, 1)]
        first, second = (builder.zext(builder.icmp_unsigned("!=", half, ir.Constant(lanes, 0)), I64) for half in halves)
        return builder.or_(first, builder.shl(second, ir.Constant(I64, 1)))

    return types.int64(weight, at, stride, mask, place, mask_stride, ns), codegen


@intrinsic
def _solve_group_wide(typingctx, weight, at, stride, mask, place, mask_stride, ns):  # type: ignore[no-untyped-def]
    """Masks of the 8 blocks from weight[at] on, in float64; by how much, at most, they fall short of their optimum."""
    n = ns.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = [[x.wide() for x in row] for row in _load_wide(context, builder, sig, args)]
        total = total_of(rows)
        guard = total * _WIDE_GUARD
        words, sure = masks_of(rows, n, guard)
        _store(context, builder, sig, args, words)
        slack = (sure | nothing_rounded(rows, total)).where(constant(total, F64, 0.0), guard)
        lanes = [slack.lane(k) for k in range(_WIDE_LANES)]
        return reduce(builder.fadd, lanes)

    return types.float64(weight, at, stride, mask, place, mask_stride, ns), codegen


@rare_kernel
def _solve_doubtful(
    doubt: int, weight: Array, at: int, stride: int, mask: Array, place: int, mask_stride: int, ns: tuple[int, ...]
) -> float:
    """In float64, those halves of a group of which there is a bit."""
    slack = 0.0
    half = 0  # halves apart: in float64, the entries of 16 blocks would fill all registers that there are
    while doubt:
        if doubt & 1:
            slack += _solve_group_wide(weight, at + half, stride, mask, place + half, mask_stride, ns)
        half += 4 * _WIDE_LANES
        doubt >>= 1
    return slack


@lean_entry
def solve_closed(
    weight: Array,
    stride: int,
    mask: Array,
    mask_stride: int,
    rows: int,
    cols: int,
    ns: tuple[int, ...],
    room: Array,
) -> tuple[float, float, float, bool]:
    """Write the masks that keep the most |w| with n entries in each row and column of each block, and examine them.

    Args:
        weight: 1-D float32, from a matrix's first entry on; entry (r, c) is weight[r * stride + c].
        mask: 1-D uint8; entry (r, c) becomes mask[r * mask_stride + c], 1 = kept. No other byte is touched.
        rows, cols: multiples of 4, cols at least 64.
        ns: a tuple of length n, which is 1, 2 or 3; its length is what counts.
        room: `ROOM` float64 of scratch.
    Returns:
        A bound on (optimum - kept), summed over all blocks; then what `examine_window` returns, of each block row while
        it is in the cache. The bound is 0, so that the masks are exactly optimal, unless a block holds nearly tied
        masks and entries that span more than 2^25; see above. If an entry is NaN or infinite, masks are valid but mean
        nothing, as does the bound.
    """
    room[:ROOM] = 0.0
    slack = 0.0
    wrong = 0
    for r in range(0, rows, 4):
        first, first_place = r * stride, r * mask_stride
        for c in range(0, cols, 4 * LANES):
            # The last group overlaps the one before. What both lose is counted twice, which a bound may be.
            col = c if c < cols - 4 * LANES else cols - 4 * LANES
            at, place = first + col, first_place + col
            doubt = _solve_group(weight, at, stride, mask, place, mask_stride, ns)
            if doubt:
                slack += _solve_doubtful(doubt, weight, at, stride, mask, place, mask_stride, ns)
        wrong += examine_band(weight, first, stride, mask, first_place, mask_stride, cols, ns, _SIDE, room)
    kept, total = close_sums(room)
    return slack, kept, total, wrong == 0


def _row_address(
    context: Any, builder: Any, sig: Any, args: Any, first: int, row: int, vector: Any, shift: Any = None
) -> Any:
    """Row `row` of the group in the array that is argument `first`, `shift` entries on; a start and a stride follow."""
    array, start, stride = args[first : first + 3]
    index = builder.add(start, builder.mul(stride, ir.Constant(I64, row)))
    index = index if shift is None else builder.add(index, shift)
    return address(context, builder, sig.args[first], array, index, vector)


def _load(context: Any, builder: Any, sig: Any, args: Any) -> Rows:
    """|w| of 16 consecutive blocks, as 4 rows of 4 columns with a block a lane, in the order of `_TURNED`.

    A column's lanes are gathered within 128 bits alone, four blocks apart, which is the cheapest that processors have.
    """
    rows = []
    for i in range(4):
        parts = []
        for k in range(4):
            shift = ir.Constant(I64, 4 * _QUARTER * k)
            place = _row_address(context, builder, sig, args, 0, i, ir.VectorType(F32, LANES), shift)
            later = ir.Constant(I64, 4 * _QUARTER * k + _AHEAD)
            # Four rows at once are more than the processor foresees by itself: without this, a matrix larger than its
            # caches took three times as long.
            prefetch(builder, _row_address(context, builder, sig, args, 0, i, I8, later))
            parts.append(abs(Vector(builder, builder.load(place, align=4))))
        pairs = [(parts[k].with_lanes(parts[k + 1], _LOW), parts[k].with_lanes(parts[k + 1], _HIGH)) for k in (0, 2)]
        (p, q), (r, s) = pairs
        rows.append([p.with_lanes(r, _LEFT), p.with_lanes(r, _RIGHT), q.with_lanes(s, _LEFT), q.with_lanes(s, _RIGHT)])
    return rows


def _load_wide(context: Any, builder: Any, sig: Any, args: Any) -> Rows:
    """|w| of 8 consecutive blocks, in order, as 4 rows of 4 columns with a block a lane."""
    rows = []
    for i in range(4):
        place = _row_address(context, builder, sig, args, 0, i, ir.VectorType(F32, 4 * _WIDE_LANES))
        entries = Vector(builder, builder.load(place, align=4))
        rows.append([abs(entries.pick([4 * lane + j for lane in range(_WIDE_LANES)])) for j in range(4)])
    return rows


def _store(context: Any, builder: Any, sig: Any, args: Any, words: list[Vector]) -> None:
    for i, word in enumerate(words):
        builder.store(word.value, _row_address(context, builder, sig, args, 3, i, word.value.type), align=1)


def total_of(rows: Rows) -> Vector:
    """Sum of each block, each entry rounded 5 times."""
    p, q, r, s = ((row[0] + row[1]) + (row[2] + row[3]) for row in rows)
    return ((p + q) + r) + s


def nothing_rounded(rows: Rows, total: Vector) -> Vector:
    """Where all entries are multiples of the last place of their sum, so that nothing is rounded."""
    return reduce(and_, [((x + total) - total).equals(x) for row in rows for x in row])


def masks_of(rows: Rows, n: int, guard: Vector) -> tuple[list[Vector], Vector]:
    """Mask words of n:4, and where they are proven."""
    if n == 2:
        return two_four(rows, guard)
    if n == 1:
        return permutation(rows, guard)
    # 3:4 prunes one entry a line, of the least sum.
    pruned, sure = permutation([[-x for x in row] for row in rows], guard)
    return [word ^ _ALL for word in pruned], sure
