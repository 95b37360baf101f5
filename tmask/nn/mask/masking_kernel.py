"""The Triton kernel that applies a mask, on the bits of a weight. Triton comes with torch's builds for CUDA."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]
from torch import Tensor

from tmask.nn.mask.believed import made_current

_ENTRIES = 2048  # of a program


def keep(weight: Tensor, mask: Tensor, masked: Tensor) -> None:
    """Write where(mask, weight, 0): contiguous tensors of one shape, integers and bool."""
    count = weight.numel()
    with made_current(weight.device):
        _keep[(triton.cdiv(count, _ENTRIES),)](weight, mask.view(torch.uint8), masked, count, ENTRIES=_ENTRIES)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _keep(weight, mask, masked, count, ENTRIES: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    at = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    inside = at < count
    bits = tl.load(weight + at, mask=inside, other=0)
    kept = tl.load(mask + at, mask=inside, other=0)
    tl.store(masked + at, tl.where(kept != 0, bits, 0), mask=inside)
