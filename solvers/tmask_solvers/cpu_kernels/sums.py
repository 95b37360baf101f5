# mypy: disable-error-code="no-untyped-call"
# (numba has no types inside)
"""What a mask keeps of a matrix, and what there is: two sums of |w| in float64, row after row.

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
from numba.core import cgutils
from numba.extending import intrinsic

from tmask_solvers.cpu_kernels.compiling import lean_kernel
from tmask_solvers.cpu_kernels.vector import F32, F64, I8, I64, Vector, address, constant, prefetch

Array = npt.NDArray[Any]

ROOM = 34  # float64 entries of scratch: 16 lanes of the kept and 16 of all, then both of what fills no step
_LANES = 16
_STEP = 64
_AHEAD = 512  # entries: what is read from memory for the first time took three times as long without


@lean_kernel
def add_row(weight: Array, at: int, mask: Array, place: int, cols: int, room: Array) -> None:
    """Add a row, weight[at:] and mask[place:] (not 0 = kept), to the sums in `room`, which begin as zeros."""
    steps = cols // _STEP
    _add_steps(weight, at, mask, place, steps, room)
    for c in range(steps * _STEP, cols):
        x = abs(np.float64(weight[at + c]))
        room[2 * _LANES] += x if mask[place + c] != 0 else 0.0
        room[2 * _LANES + 1] += x


@lean_kernel
def close_sums(room: Array) -> tuple[float, float]:
    """(sum of |w| over the kept entries, sum of |w| over all); the second is not finite if some entry is not."""
    kept, total = room[2 * _LANES], room[2 * _LANES + 1]
    for k in range(_LANES):
        kept += room[k]
        total += room[_LANES + k]
    return kept, total


@intrinsic
def _add_steps(typingctx, weight, at, mask, place, steps, room):  # type: ignore[no-untyped-def]
    """room[k % 16] += kept |weight[at + k]|, room[16 + k % 16] += |weight[at + k]|, 64 entries a step."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        real = context.get_value_type(sig.args[0].dtype)
        lanes = ir.VectorType(F64, _LANES)
        slots = [
            address(context, builder, sig.args[5], args[5], ir.Constant(I64, part * _LANES), lanes) for part in (0, 1)
        ]
        # In registers throughout a row: from one step to the next, memory would take longer than the additions.
        sums = [cgutils.alloca_once_value(builder, builder.load(slot, align=8)) for slot in slots]
        with cgutils.for_range(builder, args[4]) as loop:
            first = builder.mul(loop.index, ir.Constant(I64, _STEP))
            all_parts, kept_parts = [], []
            for k in range(0, _STEP, _LANES):
                index = builder.add(first, ir.Constant(I64, k))

                def load(argument: int, kind: Any, align: int, index: Any = index) -> Vector:
                    entry = builder.add(args[argument + 1], index)
                    vector = ir.VectorType(kind, _LANES)
                    pointer = address(context, builder, sig.args[argument], args[argument], entry, vector)
                    return Vector(builder, builder.load(pointer, align=align))

                # Aligned to 4 at least is all that is known: a part of a matrix may begin at any entry.
                w, on = load(0, real, 4), load(2, I8, 1)
                ahead = builder.add(builder.add(args[1], index), ir.Constant(I64, _AHEAD))
                prefetch(builder, address(context, builder, sig.args[0], args[0], ahead, I8))
                x = abs(w).wide() if real == F32 else abs(w)
                all_parts.append(x)
                kept_parts.append(on.matches(0).where(constant(x, F64, 0.0), x))
            for slot, (p, q, r, s) in zip(sums, (kept_parts, all_parts), strict=True):
                total = Vector(builder, builder.load(slot)) + ((p + q) + (r + s))
                builder.store(total.value, slot)
        for slot, total in zip(slots, sums, strict=True):
            builder.store(builder.load(total), slot, align=8)
        return context.get_dummy_value()

    return types.void(weight, types.int64, mask, types.int64, types.int64, room), codegen
