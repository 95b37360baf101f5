# mypy: disable-error-code="no-untyped-call"
# (numba has no types inside)
"""A SIMD vector inside a numba intrinsic, with Python's operators: formulas read as on paper and become vector code.

Every operator is one LLVM instruction without fast-math flags: rounded once or not at all, never fused or reordered. So
results are the same on every processor, whatever the width of its registers.

Intrinsics get their arguments as LLVM values; `address` turns an array among them, and an index, into a place to load
from or to store to.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from llvmlite import ir
from numba.core import cgutils

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()

Operand: TypeAlias = "Vector | float"


# numba has no type for a vector, so these live inside one intrinsic; what outlives it passes through an array.
class Vector:
    """Numbers, words or truth values, one a lane.

    The other operand of an operator is a vector of the same type or a Python number, which then stands in every lane.
    Comparisons give a vector of i1, a truth value a lane.

    Args:
        builder: llvmlite's IRBuilder at the place in the code where the operations go.
        value: an LLVM value of vector type.
    """

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder = builder
        self.value = value

    def _other(self, other: Operand) -> Any:
        return other.value if isinstance(other, Vector) else _splat(self.value.type, other)

    def _make(self, value: Any) -> Vector:
        return Vector(self.builder, value)

    def __add__(self, other: Operand) -> Vector:
        return self._make(self.builder.fadd(self.value, self._other(other)))

    def __sub__(self, other: Operand) -> Vector:
        return self._make(self.builder.fsub(self.value, self._other(other)))

    def __mul__(self, other: Operand) -> Vector:
        return self._make(self.builder.fmul(self.value, self._other(other)))

    def __neg__(self) -> Vector:
        return self._make(self.builder.fneg(self.value))

    def __abs__(self) -> Vector:
        """The sign bit cleared, which takes NaN to NaN."""
        kind = self.value.type
        bits = I32 if kind.element == F32 else I64
        words = ir.VectorType(bits, kind.count)
        magnitude = self.builder.and_(
            self.builder.bitcast(self.value, words), _splat(words, (1 << (bits.width - 1)) - 1)
        )
        return self._make(self.builder.bitcast(magnitude, kind))

    def __gt__(self, other: Operand) -> Vector:
        """Of floats; false for NaN."""
        return self._make(self.builder.fcmp_ordered(">", self.value, self._other(other)))

    def equals(self, other: Operand) -> Vector:
        """Of floats; false for NaN."""
        return self._make(self.builder.fcmp_ordered("==", self.value, self._other(other)))

    def matches(self, other: Operand) -> Vector:
        """Equality of integers."""
        return self._make(self.builder.icmp_unsigned("==", self.value, self._other(other)))

    def __and__(self, other: Operand) -> Vector:
        return self._make(self.builder.and_(self.value, self._other(other)))

    def __or__(self, other: Operand) -> Vector:
        return self._make(self.builder.or_(self.value, self._other(other)))

    def __xor__(self, other: Operand) -> Vector:
        return self._make(self.builder.xor(self.value, self._other(other)))

    def where(self, yes: Vector, no: Vector) -> Vector:
        """Lanes of `yes` where this vector of truth values holds, of `no` elsewhere."""
        return self._make(self.builder.select(self.value, yes.value, no.value))

    def wide(self) -> Vector:
        """float32 as float64, exactly."""
        return self._make(self.builder.fpext(self.value, ir.VectorType(F64, self.value.type.count)))

    def pick(self, lanes: list[int]) -> Vector:
        """A vector of these lanes of this one."""
        picks = ir.Constant(ir.VectorType(I32, len(lanes)), [ir.Constant(I32, k) for k in lanes])
        return self._make(self.builder.shuffle_vector(self.value, ir.Constant(self.value.type, ir.Undefined), picks))

    def with_lanes(self, other: Vector, lanes: list[int]) -> Vector:
        """A vector of these lanes of this one and of another, whose lanes are counted on from this one's."""
        picks = ir.Constant(ir.VectorType(I32, len(lanes)), [ir.Constant(I32, k) for k in lanes])
        return self._make(self.builder.shuffle_vector(self.value, other.value, picks))

    def constant(self, kind: Any, number: float) -> Vector:
        """The number, of an LLVM type such as I32, in as many lanes as this vector has."""
        return self._make(_splat(ir.VectorType(kind, self.value.type.count), number))

    def lane(self, k: int) -> Any:
        """The scalar in lane k."""
        return self.builder.extract_element(self.value, ir.Constant(I32, k))


# The operands stand as in the processor's own `max` and `min` on x86, NaN included: so each is one
# instruction.
def larger(x: Vector, y: Vector) -> Vector:
    """The larger of two floats, y if one of them is NaN."""
    return (x > y).where(x, y)


def smaller(x: Vector, y: Vector) -> Vector:
    """The smaller of two floats, y if one of them is NaN."""
    return (y > x).where(x, y)


def constant(like: Vector, kind: Any, number: float) -> Vector:
    """The number, of an LLVM type such as I32, in as many lanes as `like` has."""
    return like.constant(kind, number)


def address(context: Any, builder: Any, kind: Any, array: Any, index: Any, vector: Any) -> Any:
    """A pointer to LLVM type `vector` at entry `index` (an i64) of a contiguous array of numba type `kind`."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def prefetch(builder: Any, place: Any) -> None:
    """Have the processor bring the line at a place, which may lie beyond the array, into its nearest cache."""
    pointer = I8.as_pointer()
    takes = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, takes, "llvm.prefetch.p0")
    to_read, near, data = (ir.Constant(I32, number) for number in (0, 3, 1))
    builder.call(function, [builder.bitcast(place, pointer), to_read, near, data])


def _splat(kind: Any, number: float) -> Any:
    return ir.Constant(kind, [ir.Constant(kind.element, number)] * kind.count)
