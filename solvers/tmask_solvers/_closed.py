"""2:4, 1:4 and 3:4 masks of a float32 matrix of 4-by-4 blocks in closed form, exact, at memory speed.

16 blocks of a block row at once, a SIMD lane each, by `two_four` or `permutation`. A float32 answer stands only if it
wins each of its comparisons by more than 2^-20 of the block's sum, which is more than rounding can have done. Else, as
with ties, the 16 blocks are done again in float64.

The guard. Let T be a block's sum, t = T as computed in float32 by 5 roundings a term, u = 2^-24. The closed forms need
that a computed lead d > fl(2^-20 t) implies a difference above 8.1 u T. Scaling by 2^-20 is exact unless the result is
subnormal; then it is off by at most half of 2^-149, but the lead and the guard are both multiples of 2^-149, so that
d > fl(2^-20 t) implies d > 2^-20 t. The lead is itself a rounded difference, so the difference of the computed values
is above 2^-20 t / (1 + u) >= 16 u (1 - u)^6 T > 8.1 u T. Nothing may overflow: no term exceeds T (1 + u)^4, so t < 2^127
is asked for, which also leaves NaN and infinity to float64.

float64. Its guard is 2^-49 of the sum, by the same argument with u = 2^-53 (and nothing in float64 is subnormal or too
large). What does not win by that much is exact nevertheless if all entries are multiples of the last place of t, because
then no operation has rounded: signed sums of entries are multiples of 2^(k - 52) of magnitude T < 2^(k + 1), where
2^k <= t < 2^(k + 1). (T itself cannot be 2^(k + 1) or more, for then rounding, being monotone, would have made t so.) An
entry is such a multiple if adding it to t is exact, that is if (x + t) - t gives back x. This holds for every block
whose nonzero entries span less than 2^25. Elsewhere the mask may fall short of the optimum, by at most
2 ((1 + u)^4 - 1) T < 2^-49 t: the comparisons were decided by values that are off by half of that.

Cost: two and a half passes over the matrix (read it, write the mask); about twice that where all groups hold ties.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tmask_solvers._closed_permutation import permutation
from tmask_solvers._closed_two_four import two_four
from tmask_solvers._numba import kernel
from tmask_solvers._vector import F32, F64, I32, I64, Vector, address, constant

Array = npt.NDArray[Any]
Rows = list[list[Vector]]

LANES = 16  # blocks a step; a block row must hold as many
_ALL = 0x01010101
_GUARD = 2.0**-20
_WIDE_GUARD = 2.0**-49
_LARGEST = 2.0**127


@intrinsic
def _solve_group(typingctx, weight, at, stride, mask, place, mask_stride, ns):  # type: ignore[no-untyped-def]
    """Masks of the 16 blocks from weight[at] on, in float32; whether some of them are not proven optimal."""
    n = ns.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = _load(context, builder, sig, args)
        total = _total(rows)
        words, sure = _solve(rows, n, total * _GUARD)
        _store(context, builder, sig, args, words)
        sure = sure & (constant(total, F32, _LARGEST) > total)
        return builder.not_(sure.holds())

    return types.boolean(weight, at, stride, mask, place, mask_stride, ns), codegen


@intrinsic
def _solve_group_wide(typingctx, weight, at, stride, mask, place, mask_stride, ns):  # type: ignore[no-untyped-def]
    """The same in float64; by how much, at most, the 16 blocks together fall short of their optimum."""
    n = ns.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = [[x.wide() for x in row] for row in _load(context, builder, sig, args)]
        total = _total(rows)
        guard = total * _WIDE_GUARD
        words, sure = _solve(rows, n, guard)
        _store(context, builder, sig, args, words)
        exact = None
        for x in (x for row in rows for x in row):
            same = ((x + total) - total).equals(x)
            exact = same if exact is None else exact & same
        assert exact is not None
        slack = (sure | exact).where(constant(total, F64, 0.0), guard)
        lanes = [slack.lane(k) for k in range(LANES)]
        while len(lanes) > 1:
            lanes = [builder.fadd(p, q) for p, q in zip(lanes[::2], lanes[1::2], strict=True)]
        return lanes[0]

    return types.float64(weight, at, stride, mask, place, mask_stride, ns), codegen


@kernel
def solve_closed(
    weight: Array, stride: int, mask: Array, mask_stride: int, rows: int, cols: int, ns: tuple[int, ...]
) -> float:
    """Write the masks that keep the most |w| with n entries in each row and column of each block.

    Args:
        weight: 1-D float32, from a matrix's first entry on; entry (r, c) is weight[r * stride + c].
        mask: 1-D uint8; entry (r, c) becomes mask[r * mask_stride + c], 1 = kept. No other byte is touched.
        rows, cols: multiples of 4, cols at least 64.
        ns: a tuple of length n, which is 1, 2 or 3; its length is what counts.
    Returns:
        A bound on (optimum - kept), summed over all blocks. 0, so that the masks are exactly optimal, unless a block
        holds nearly tied masks and entries that span more than 2^25; see above. If an entry is NaN or infinite, masks
        are valid but mean nothing, as does the bound.
    """
    slack = 0.0
    for r in range(0, rows, 4):
        for c in range(0, cols, 4 * LANES):
            first = min(c, cols - 4 * LANES)  # the last group overlaps the one before
            at, place = r * stride + first, r * mask_stride + first
            if _solve_group(weight, at, stride, mask, place, mask_stride, ns):
                slack += _solve_group_wide(weight, at, stride, mask, place, mask_stride, ns)
    return slack


def _row_address(context: Any, builder: Any, sig: Any, args: Any, first: int, row: int, vector: Any) -> Any:
    """Row `row` of the group in the array that is argument `first`; a start and a stride follow it."""
    array, start, stride = args[first : first + 3]
    index = builder.add(start, builder.mul(stride, ir.Constant(I64, row)))
    return address(context, builder, sig.args[first], array, index, vector)


def _load(context: Any, builder: Any, sig: Any, args: Any) -> Rows:
    """|w| of the 16 blocks, as 4 rows of 4 columns with a block a lane."""
    rows = []
    for i in range(4):
        place = _row_address(context, builder, sig, args, 0, i, ir.VectorType(F32, 4 * LANES))
        entries = Vector(builder, builder.load(place, align=4))
        rows.append([abs(entries.pick([4 * block + j for block in range(LANES)])) for j in range(4)])
    return rows


def _store(context: Any, builder: Any, sig: Any, args: Any, words: list[Vector]) -> None:
    for i, word in enumerate(words):
        place = _row_address(context, builder, sig, args, 3, i, ir.VectorType(I32, LANES))
        builder.store(word.value, place, align=1)


def _total(rows: Rows) -> Vector:
    """Sum of each block, each entry rounded 5 times."""
    p, q, r, s = ((row[0] + row[1]) + (row[2] + row[3]) for row in rows)
    return ((p + q) + r) + s


def _solve(rows: Rows, n: int, guard: Vector) -> tuple[list[Vector], Vector]:
    """Mask words of n:4, and where they are proven."""
    if n == 2:
        return two_four(rows, guard)
    if n == 1:
        return permutation(rows, guard)
    pruned, sure = permutation([[-x for x in row] for row in rows], guard)
    return [word ^ _ALL for word in pruned], sure
