"""What a mask keeps of a matrix, and what there is: two sums of |w| in float64, in one pass.

64 entries a step are widened and added pairwise, in an order that depends on rows and cols alone, so that results are
the same on every processor. No entry passes through more than d = rows * (cols // 64 + cols % 64) + 20 additions of
nonnegative numbers, so the relative error of each sum is below d * 2^-53.

The sum over all entries is also the test that they are finite: magnitudes cannot cancel, so one NaN or infinity makes
it NaN or infinite; and no number of finite float32 makes it so, since 2^896 of the largest would be needed. (float64
entries whose sum exceeds 2^1024 do.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tmask_solvers.cpu_kernels.compiling import kernel
from tmask_solvers.cpu_kernels.vector import F32, F64, I8, I64, Vector, address, constant

Array = npt.NDArray[Any]

ROOM = 32  # float64 entries of scratch
_LANES = 16
_STEP = 64


@intrinsic
def _add(typingctx, weight, at, mask, place, room):  # type: ignore[no-untyped-def]
    """room[k % 16] += kept |weight[at + k]|, room[16 + k % 16] += |weight[at + k]| for k = 0..63; mask[place + k]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def pointer(argument: int, index: Any, kind: Any) -> Any:
            vector = ir.VectorType(kind, _LANES)
            return address(context, builder, sig.args[argument], args[argument], index, vector)

        real = context.get_value_type(sig.args[0].dtype)
        all_parts, kept_parts = [], []
        for k in range(0, _STEP, _LANES):
            shift = ir.Constant(I64, k)
            # Aligned to 4 at least is all that is known: a part of a matrix may begin at any entry.
            w = Vector(builder, builder.load(pointer(0, builder.add(args[1], shift), real), align=4))
            on = Vector(builder, builder.load(pointer(2, builder.add(args[3], shift), I8), align=1))
            x = abs(w).wide() if real == F32 else abs(w)
            all_parts.append(x)
            kept_parts.append(on.matches(0).where(constant(x, F64, 0.0), x))
        # To memory and back in every step, since numba has no variable that could hold a vector in between.
        for part, (p, q, r, s) in enumerate((kept_parts, all_parts)):
            slot = pointer(4, ir.Constant(I64, part * _LANES), F64)
            total = Vector(builder, builder.load(slot, align=8)) + ((p + q) + (r + s))
            builder.store(total.value, slot, align=8)
        return context.get_dummy_value()

    return types.void(weight, at, mask, place, room), codegen


@kernel
def sums(
    weight: Array, stride: int, mask: Array, mask_stride: int, rows: int, cols: int, room: Array
) -> tuple[float, float]:
    """(sum of |w| over the kept entries, sum of |w| over all); the second is not finite if some entry is not.

    Args:
        weight: 1-D float32 or float64, from a matrix's first entry on; entry (r, c) is weight[r * stride + c].
        mask: 1-D uint8, not 0 = kept; entry (r, c) is mask[r * mask_stride + c].
        room: at least `ROOM` float64 of scratch.
    """
    room[:ROOM] = 0.0
    whole = cols // _STEP * _STEP
    kept, total = 0.0, 0.0  # of the columns beyond the last whole step
    for r in range(rows):
        at, place = r * stride, r * mask_stride
        for c in range(0, whole, _STEP):
            _add(weight, at + c, mask, place + c, room)
        for c in range(whole, cols):
            x = abs(np.float64(weight[at + c]))
            kept += x if mask[place + c] != 0 else 0.0
            total += x
    for k in range(_LANES):
        kept += room[k]
        total += room[_LANES + k]
    return kept, total
