"""What the core asks of every mask: what it keeps, what there is, and whether it is regular; in one pass."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from tmask_solvers.cpu_kernels.compiling import lean_entry, lean_kernel
from tmask_solvers.cpu_kernels.counts import wrong_lines
from tmask_solvers.cpu_kernels.sums import ROOM, add_row, close_sums

Array = npt.NDArray[Any]


@lean_entry
def examine_window(
    weight: Array,
    stride: int,
    mask: Array,
    mask_stride: int,
    rows: int,
    cols: int,
    ns: tuple[int, ...],
    ms: tuple[int, ...],
    room: Array,
) -> tuple[float, float, bool]:
    """(kept |w|, all |w|, whether all tiles are n-regular); see `Window`, `sums`, and `ROOM` for the scratch."""
    room[:ROOM] = 0.0
    wrong = 0
    for r in range(0, rows, len(ms)):
        wrong += examine_band(weight, r * stride, stride, mask, r * mask_stride, mask_stride, cols, ns, ms, room)
    kept, total = close_sums(room)
    return kept, total, wrong == 0


@lean_kernel
def examine_band(
    weight: Array,
    at: int,
    stride: int,
    mask: Array,
    place: int,
    mask_stride: int,
    cols: int,
    ns: tuple[int, ...],
    ms: tuple[int, ...],
    room: Array,
) -> int:
    """Add the m rows from weight[at] and mask[place] on to the sums in `room`; 0 if their tiles are n-regular."""
    for i in range(len(ms)):
        add_row(weight, at + i * stride, mask, place + i * mask_stride, cols, room)
    return wrong_lines(mask, place, mask_stride, cols, ns, ms)
