"""Compute capability 8.x: torch's CUTLASS kernels.

`torch._sparse_semi_structured_tile` is given the mask itself, as zeros and ones. On a weight it would choose its own
mask, by signed value; of a complete mask it takes all the ones, since each of them finds room, and then no zero. It
yields the metadata of both directions and a bitmask of the tiles, which stay as long as the mask does. Then
`torch._sparse_semi_structured_apply` packs the weight under that bitmask, both directions in one kernel, into new
memory. At later steps values are written where those were, if they are seen to be the kept ones, line by line.
"""

from __future__ import annotations

import logging
from typing import ClassVar

import torch
from torch import Tensor

from tmask.errors import KernelError
from tmask.nn.packing.routes.base import Operand, Route, cuda_problem
from tmask.nn.packing.values import kept_of, write_both

log = logging.getLogger("tmask")

# By device and dtype: whether torch's packed values are the kept ones, line by line, as far as they were compared.
_in_order: dict[tuple[torch.device, torch.dtype], bool] = {}


class Cutlass(Route):
    """Values and metadata in separate tensors; sides are multiples of 64, the width of the packing kernel's tile."""

    name: ClassVar[str] = "cutlass"
    hardware: ClassVar[str] = "compute capability 8.x (A100, A10, L4, RTX 30 and 40)"
    multiple: ClassVar[int] = 64

    def problem(self, device: torch.device) -> str:
        """Why this device cannot take the route, or ""; torch's kernels refuse all but 8.x."""
        if problem := cuda_problem(device):
            return problem
        major, minor = torch.cuda.get_device_capability(device)
        return "" if major == 8 else f"CUTLASS kernels need compute capability 8.x; this device has {major}.{minor}"

    def plan(self, mask: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """Metadata of both directions, the bitmask, and where the kept values lie.

        Raises:
            KernelError: the kernel chose another mask than the one given.
        """
        # In the weight's dtype: the kernel takes no bool, and 0 and 1 are exact in any.
        _, meta, _, meta_t, bitmask = torch._sparse_semi_structured_tile(
            mask.to(dtype).contiguous(), algorithm="largest_values_greedy", use_cutlass=True
        )
        if not torch.equal(bitmask, tile_bits(mask)):
            raise KernelError(
                f"cutlass: the packing kernel changed the mask on {mask.device}; use backend 'masked' here"
            )
        return [meta, meta_t, bitmask, *kept_of(mask, dtype)]

    def pack(self, weight: Tensor, plan: list[Tensor]) -> tuple[Operand, Operand]:
        """Values of both directions by one kernel; metadata from the plan."""
        meta, meta_t, bitmask = plan[:3]
        values, values_t = torch._sparse_semi_structured_apply(weight, bitmask)
        return [values, meta], [values_t, meta_t]

    def repack(self, packed: tuple[Operand, Operand], weight: Tensor, plan: list[Tensor]) -> tuple[Operand, Operand]:
        """The kept values, written where they were, once that has been seen to give what torch's kernel gives."""
        values, values_t = packed[0][0], packed[1][0]
        key = values.device, values.dtype
        if not _in_order.get(key, True):
            return self.pack(weight.to(values.dtype), plan)
        plan[3:] = write_both(weight, plan[3:], values, values_t)
        if key not in _in_order:
            fresh = self.pack(weight.to(values.dtype), plan)
            _in_order[key] = torch.equal(values, fresh[0][0]) and torch.equal(values_t, fresh[1][0])
            if not _in_order[key]:
                log.warning(
                    "cutlass: torch orders packed values otherwise on %s, and packs them anew each step", key[0]
                )
            return fresh
        return packed

    def remask(self, packed: tuple[Operand, Operand], plan: list[Tensor]) -> bool:
        """The metadata, which are a tensor of their own."""
        (_, meta), (_, meta_t) = packed
        if meta.device != plan[0].device:
            return False
        meta.copy_(plan[0])
        meta_t.copy_(plan[1])
        return True

    def product(self, tokens: Tensor, operand: Operand, rows: int, bias: Tensor | None) -> Tensor:
        """The kernel's sparse matrix stands on the left, so it makes the transposed result."""
        values, meta = operand
        if bias is None:
            result = torch._sparse_semi_structured_mm(values, meta, tokens.t())  # (rows, T)
        else:
            result = torch._sparse_semi_structured_addmm(bias, values, meta, tokens.t())
        return result.t()

    def transposes(self, dtype: torch.dtype) -> bool:
        return True


def tile_bits(mask: Tensor) -> Tensor:
    """The kernel's bitmask: (rows / 8, cols / 8, 8) uint8 of an 8 x 8 tile each, in the order of its 4 x 4 quarters.

    Of a quarter, bit 4 i + j of 16 is entry (i, j); quarters go row by row, bytes from low to high.
    """
    rows, cols = mask.shape
    # row = 8 r + 4 u + 2 h + i, column = 8 c + 4 v + j
    split = mask.reshape(rows // 8, 2, 2, 2, cols // 8, 2, 4).permute(0, 4, 1, 5, 2, 3, 6)  # (r, c, u, v, h, i, j)
    bits = split.reshape(rows // 8, cols // 8, 8, 8).to(torch.uint8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(-1, dtype=torch.uint8)
