"""Half-steps of the midpoint iteration as vector code; a SIMD lane is a block, 16 of float32 or 8 of float64.

Rows and columns read the same copy of the weight (`room` has the layout), so no operation crosses lanes. A row's mask
is ceil(m/4) words of int32 a lane, a byte an entry: byte j % 4 of word j // 4 is 1 if column j is kept, and adding
words counts columns.

n and m must be constants here. They come as the lengths of two tuples, which are part of a type: so kernels that use
them are plain module-level functions, compiled once for each n and m, and cached on disk.

The operations are LLVM's subtract, compare and select, each rounded once or not at all: nothing may be fused or
reordered.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tmask_solvers.shared.selection import order_pair

REGISTER_BITS = 512
_I64 = ir.IntType(64)


class Emitter:
    """Vector loads and stores on named arrays, and the order statistics of a half-step.

    The first of the arrays is the weight, whose dtype says how many lanes there are.
    """

    def __init__(self, context: Any, builder: Any, sig: Any, args: Any, names: tuple[str, ...]) -> None:
        self.builder = builder
        self.lanes = REGISTER_BITS // sig.args[0].dtype.bitwidth
        self.data = {}
        self.vector = {}
        for name, kind, value in zip(names, sig.args, args, strict=False):
            self.data[name] = context.make_array(kind)(context, builder, value).data
            self.vector[name] = ir.VectorType(context.get_value_type(kind.dtype), self.lanes)

    def _address(self, name: str, row: Any) -> Any:
        offset = self.builder.mul(row, ir.Constant(_I64, self.lanes))
        return self.builder.bitcast(self.builder.gep(self.data[name], [offset]), self.vector[name].as_pointer())

    def load(self, name: str, row: Any) -> Any:
        # `room` aligns to cache lines, which an array's type does not say; at such places this is as fast.
        return self.builder.load(self._address(name, row), align=4)

    def store(self, name: str, row: Any, value: Any) -> None:
        self.builder.store(value, self._address(name, row), align=4)

    def at(self, factor: int, index: Any, offset: int) -> Any:
        """factor * index + offset."""
        return self.builder.add(self.builder.mul(index, ir.Constant(_I64, factor)), ir.Constant(_I64, offset))

    def constant(self, value: int) -> Any:
        return ir.Constant(_I64, value)

    def splat(self, kind: Any, value: float) -> Any:
        return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)

    def pair(self, x: list[Any], n: int) -> tuple[Any, Any]:
        """The n-th and (n+1)-th largest of the wires x."""
        # No branch and no index: all lanes take the same steps whatever their blocks hold.
        operations, a, b = order_pair(len(x), n)
        wires = dict(enumerate(x))
        for kind, out, p, q in operations:
            # Operands as in `vector.larger`: an instruction each.
            first = self.builder.fcmp_ordered("<" if kind == "min" else ">", wires[p], wires[q])
            wires[out] = self.builder.select(first, wires[p], wires[q])
        return wires[a], wires[b]

    def midpoint(self, a: Any, b: Any) -> Any:
        half = self.splat(a.type, 0.5)
        return self.builder.fadd(self.builder.fmul(a, half), self.builder.fmul(b, half))


def words_per_row(m: int) -> int:
    """int32 words that hold a row's mask, a byte an entry."""
    return -(-m // 4)


@intrinsic
def row_step(typingctx, weight, v, u, kept, count, i, ns, ms):  # type: ignore[no-untyped-def]
    """Row i of all lanes: u_i = midpoint of its n-th and (n+1)-th largest w - v, and the mask of those above the
    latter.

    At most n entries lie above the (n+1)-th largest. Adds the mask's words to `count`.
    """
    n, m = ns.count, ms.count
    words = words_per_row(m)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        names = ("weight", "v", "u", "kept", "count")
        emit = Emitter(context, builder, sig, args, names)
        row = args[5]
        x = [builder.fsub(emit.load("weight", emit.at(m, row, j)), emit.load("v", emit.constant(j))) for j in range(m)]
        a, b = emit.pair(x, n)
        emit.store("u", row, emit.midpoint(a, b))
        for k in range(words):
            # Bytes, not bits, so that four columns are counted by one addition.
            word = emit.splat(emit.vector["kept"], 0)
            for j in range(4 * k, min(4 * k + 4, m)):
                with_entry = builder.or_(word, emit.splat(word.type, 1 << 8 * (j % 4)))
                word = builder.select(builder.fcmp_ordered(">", x[j], b), with_entry, word)
            emit.store("kept", emit.at(words, row, k), word)
            place = emit.constant(k)
            emit.store("count", place, builder.add(emit.load("count", place), word))
        return context.get_dummy_value()

    return types.void(weight, v, u, kept, count, i, ns, ms), codegen


@intrinsic
def column_step(typingctx, weight, u, v, target, momentum, j, ns, ms):  # type: ignore[no-untyped-def]
    """Column j of all lanes: t = midpoint of its n-th and (n+1)-th largest w - u; v_j = t + momentum (t - last t)."""
    n, m = ns.count, ms.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        names = ("weight", "u", "v", "target", "momentum")
        emit = Emitter(context, builder, sig, args, names)
        column = args[5]
        x = [
            builder.fsub(emit.load("weight", emit.at(1, column, i * m)), emit.load("u", emit.constant(i)))
            for i in range(m)
        ]
        t = emit.midpoint(*emit.pair(x, n))
        # Three roundings, none of which matters: whatever v becomes is the price, the same for all rows.
        change = builder.fsub(t, emit.load("target", column))
        step = builder.fmul(emit.load("momentum", emit.constant(0)), change)
        emit.store("v", column, builder.fadd(t, step))
        emit.store("target", column, t)
        return context.get_dummy_value()

    return types.void(weight, u, v, target, momentum, j, ns, ms), codegen


@intrinsic
def balanced(typingctx, weight, count, ns, ms):  # type: ignore[no-untyped-def]
    """Bit `lane` of the result says that every column of that block counts exactly n."""
    n, m = ns.count, ms.count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        emit = Emitter(context, builder, sig, args, ("weight", "count"))
        good = None
        for k in range(words_per_row(m)):
            wanted = sum(n << 8 * (j % 4) for j in range(4 * k, min(4 * k + 4, m)))
            word = emit.load("count", emit.constant(k))
            same = builder.icmp_signed("==", word, emit.splat(word.type, wanted))
            good = same if good is None else builder.and_(good, same)
        return builder.zext(builder.bitcast(good, ir.IntType(emit.lanes)), _I64)

    return types.int64(weight, count, ns, ms), codegen


@intrinsic
def lowest_bit(typingctx, bits):  # type: ignore[no-untyped-def]
    """The number of the lowest bit that is set; a loop over lanes would be mispredicted for every block."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen
