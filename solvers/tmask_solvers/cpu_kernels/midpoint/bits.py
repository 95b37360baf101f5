"""Rows of a block as bits, eight columns a step: comparisons of reduced scores, and distances that they shorten.

Scores of one block lie row by row, each padded to a multiple of 8, so that a step is one register of float64. A row of
the mask, and any other set of lines, is an int64 whose bit k is line k.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tmask_solvers.cpu_kernels.vector import F64, I8, I32, I64, Vector, address, smaller

STEP = 8
_REGISTER = ir.VectorType(F64, STEP)
_TRUTHS = ir.VectorType(ir.IntType(1), STEP)
_SECOND = 32  # where the second of two sets begins in a word


def _load(context: Any, builder: Any, sig: Any, args: Any, array: int, index: int) -> Vector:
    """Eight entries of an argument, from the index that another argument gives."""
    place = address(context, builder, sig.args[array], args[array], args[index], _REGISTER)
    return Vector(builder, builder.load(place, align=8))


def _everywhere(builder: Any, scalar: Any) -> Vector:
    nothing = ir.Constant(_REGISTER, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, STEP), [0] * STEP)
    return Vector(builder, builder.shuffle_vector(first, nothing, zeros))


def _word(builder: Any, truths: Vector) -> Any:
    return builder.zext(builder.bitcast(truths.value, I8), I64)


@intrinsic
def compare(typingctx, q, at, v, k, u):  # type: ignore[no-untyped-def]
    """Of eight q - v, which are above u, in the low bits, and which equal it, from bit 32 on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x = _load(context, builder, sig, args, 0, 1) - _load(context, builder, sig, args, 2, 3)
        level = _everywhere(builder, args[4])
        equal = builder.shl(_word(builder, x.equals(level)), ir.Constant(I64, _SECOND))
        return builder.or_(_word(builder, x > level), equal)

    return types.int64(q, types.int64, v, types.int64, types.float64), codegen


@intrinsic
def shorten(typingctx, distance, k, base, price, q, at, chosen):  # type: ignore[no-untyped-def]
    """distance[k...] falls to base + (price[k...] - q[at...]) where that is less, for the eight that are chosen."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        step = _load(context, builder, sig, args, 3, 1) - _load(context, builder, sig, args, 4, 5)
        through = _everywhere(builder, args[2]) + step
        place = address(context, builder, sig.args[0], args[0], args[1], _REGISTER)
        before = Vector(builder, builder.load(place, align=8))
        wanted = Vector(builder, builder.bitcast(builder.trunc(args[6], I8), _TRUTHS))
        after = (wanted & (before > through)).where(through, before)
        builder.store(after.value, place, align=8)
        return context.get_dummy_value()

    return types.void(distance, types.int64, types.float64, price, q, types.int64, types.int64), codegen


@intrinsic
def least(typingctx, distance, k, chosen, bound):  # type: ignore[no-untyped-def]
    """The least of the bound and of those that are chosen among eight."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _least(builder, _load(context, builder, sig, args, 0, 1), args[2], args[3])

    return types.float64(distance, types.int64, types.int64, types.float64), codegen


@intrinsic
def least_left(typingctx, q, at, v, k, chosen, bound):  # type: ignore[no-untyped-def]
    """The least of the bound and of q - v for those that are chosen among eight."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x = _load(context, builder, sig, args, 0, 1) - _load(context, builder, sig, args, 2, 3)
        return _least(builder, x, args[4], args[5])

    return types.float64(q, types.int64, v, types.int64, types.int64, types.float64), codegen


def _least(builder: Any, x: Vector, chosen: Any, bound: Any) -> Any:
    wanted = Vector(builder, builder.bitcast(builder.trunc(chosen, I8), _TRUTHS))
    limit = _everywhere(builder, bound)
    x = smaller(wanted.where(x, limit), limit)
    for width in (4, 2, 1):
        x = smaller(x, x.pick([(i + width) % STEP for i in range(STEP)]))
    return x.lane(0)


@intrinsic
def equal(typingctx, distance, k, number):  # type: ignore[no-untyped-def]
    """Which of eight are this number."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _word(builder, _load(context, builder, sig, args, 0, 1).equals(_everywhere(builder, args[2])))

    return types.int64(distance, types.int64, types.float64), codegen


@intrinsic
def how_many(typingctx, bits):  # type: ignore[no-untyped-def]
    """How many bits are set."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen
