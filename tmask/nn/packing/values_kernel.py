"""The Triton kernel that writes the kept values of a weight along its rows and along its columns, in one launch.

Each program takes one square of the weight: it reads it once from memory, and a second time, for the other direction,
from its cache. Places are two bits each, a byte for the two of a group of four, so that they cost an eighth of what
the values do. Triton comes with torch's builds for CUDA; this file is imported where it is there.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]
from torch import Tensor

_SIDE = 64  # 128 bytes of a row of two-byte numbers, and 64 of a packed one


def write(weight: Tensor, codes: Tensor, codes_t: Tensor, out: Tensor, out_t: Tensor) -> None:
    """As `tmask.nn.packing.values.write_both`, for tensors on a device that Triton compiles for."""
    rows, cols = weight.shape
    grid = (triton.cdiv(rows, _SIDE), triton.cdiv(cols, _SIDE))
    if weight.device.type == "cuda":
        with torch.cuda.device(weight.device):  # Triton launches on the current device, whatever its tensors are on
            _write[grid](weight, codes, codes_t, out, out_t, rows, cols, SIDE=_SIDE)
    else:
        _write[grid](weight, codes, codes_t, out, out_t, rows, cols, SIDE=_SIDE)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _write(weight, codes, codes_t, out, out_t, rows, cols, SIDE: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    half: tl.constexpr = SIDE // 2
    # 64 bits, since places of a large weight do not fit into 32.
    top = tl.program_id(0).to(tl.int64) * SIDE
    left = tl.program_id(1).to(tl.int64) * SIDE
    whole = tl.arange(0, SIDE)
    kept = tl.arange(0, half)

    row = top + whole[:, None]  # (SIDE, half)
    group = left // 4 + kept[None, :] // 2
    inside = (row < rows) & (group * 4 < cols)
    code = tl.load(codes + row * (cols // 4) + group, mask=inside, other=0).to(tl.int32)
    place = (code >> (kept[None, :] % 2 * 2)) & 3
    values = tl.load(weight + row * cols + group * 4 + place, mask=inside, other=0)
    tl.store(out + row * (cols // 2) + left // 2 + kept[None, :], values.to(out.dtype.element_ty), mask=inside)

    column = left + whole[None, :]  # (half, SIDE): read along rows, written along columns
    group = top // 4 + kept[:, None] // 2
    inside = (column < cols) & (group * 4 < rows)
    code = tl.load(codes_t + group * cols + column, mask=inside, other=0).to(tl.int32)
    place = (code >> (kept[:, None] % 2 * 2)) & 3
    values = tl.load(weight + (group * 4 + place) * cols + column, mask=inside, other=0).to(out_t.dtype.element_ty)
    column = left + whole[:, None]
    inside = (column < cols) & ((top // 4 + kept[None, :] // 2) * 4 < rows)
    tl.store(out_t + column * (rows // 2) + top // 2 + kept[None, :], tl.trans(values), mask=inside)
