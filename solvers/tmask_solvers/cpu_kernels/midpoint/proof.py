"""A proof that given masks are optimal, a block a lane: Bellman-Ford on the column prices.

Row by row, u_i becomes the largest pruned s - v, and v_j falls to s - u_i for each kept j where it is above. Once no
price moves in a round over all rows, the prices are the proof (docs: exactness, section 2, which also says when all
this is exact: `ties` sees to it). If the mask is not optimal, prices fall for ever.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tmask_solvers.cpu_kernels.midpoint.lanes import Emitter, words_per_row
from tmask_solvers.cpu_kernels.vector import Vector, constant, larger, smaller


@intrinsic
def row_proof(typingctx, weight, score, v, u, kept, i, ms):  # type: ignore[no-untyped-def]
    """One row of all lanes; bit `lane` of the result says that a price moved. Of `weight` only the dtype counts."""
    m = ms.count
    words = words_per_row(m)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        emit = Emitter(context, builder, sig, args, ("weight", "score", "v", "u", "kept"))
        row = args[5]
        packed = [Vector(builder, emit.load("kept", emit.at(words, row, k))) for k in range(words)]
        free = [(packed[j // 4] & (1 << 8 * (j % 4))).matches(0) for j in range(m)]
        score = [Vector(builder, emit.load("score", emit.at(m, row, j))) for j in range(m)]
        price = [Vector(builder, emit.load("v", emit.constant(j))) for j in range(m)]
        # A row that prunes nothing would leave this in u; n < m, so none does.
        low = constant(score[0], ir.DoubleType(), float("-inf"))
        high = reduce(larger, (free[j].where(score[j] - price[j], low) for j in range(m)))
        emit.store("u", row, high.value)
        after = [free[j].where(price[j], smaller(score[j] - high, price[j])) for j in range(m)]
        for j in range(m):
            emit.store("v", emit.constant(j), after[j].value)
        moved = reduce(or_, (price[j] > after[j] for j in range(m)))
        return builder.zext(builder.bitcast(moved.value, ir.IntType(emit.lanes)), ir.IntType(64))

    return types.int64(weight, score, v, u, kept, i, ms), codegen
