"""Compute capability 9.0 and later: cuSPARSELt.

A compressed matrix is its kept values, row by row, and then metadata, which depend on the mask alone
(`tmask.nn.packing.metadata`). At each step only the values are written. That the layout is this one is part of what
`verification` shows: it compares products with weights that are packed so.
The algorithm of a product is chosen, and checked, by `tmask.nn.packing.algorithms`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from tmask.nn.packing.algorithms import SparseProduct, algorithm
from tmask.nn.packing.metadata import metadata_of
from tmask.nn.packing.routes.base import Operand, Route, cuda_problem
from tmask.nn.packing.values import codes_in_order, kept_of, write_both


class Cusparselt(Route):
    """Values and metadata in one opaque tensor; sides are multiples of 16."""

    name: ClassVar[str] = "cusparselt"
    hardware: ClassVar[str] = "compute capability 9.0 and later (H100, H200, B200, RTX 50), with cuSPARSELt"
    multiple: ClassVar[int] = 16

    def problem(self, device: torch.device) -> str:
        if problem := cuda_problem(device):
            return problem
        major, minor = torch.cuda.get_device_capability(device)
        if major < 9:
            return f"cuSPARSELt is taken from compute capability 9.0 on; this device has {major}.{minor}"
        library = getattr(torch.backends, "cusparselt", None)  # since torch 2.5
        if library is not None and not library.is_available():
            return "this torch is built without cuSPARSELt"
        return ""

    def plan(self, mask: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """Of each direction the metadata; then of each, where the kept values lie."""
        codes, order = codes_in_order(mask)
        return [*metadata_of(mask, codes, order, dtype), *kept_of(mask, dtype, codes)]

    def pack(self, weight: Tensor, plan: list[Tensor]) -> tuple[Operand, Operand]:
        """Metadata from the plan, in new memory, and the values written before it."""
        meta, meta_t = plan[:2]
        half = weight.numel() // 2
        packed = [_with_room(meta, half, weight.shape[0])]
        packed_t = [_with_room(meta_t, half, weight.shape[1])]
        return self.repack((packed, packed_t), weight, plan)

    def repack(self, packed: tuple[Operand, Operand], weight: Tensor, plan: list[Tensor]) -> tuple[Operand, Operand]:
        """The kept values of both directions, written where they were: a captured CUDA graph stays valid.

        A backward pass that is pending still fails then, as torch sees to for every saved tensor that was written to.
        """
        (compressed,), (compressed_t,) = packed
        plan[2:] = write_both(weight, plan[2:], compressed, compressed_t)
        return packed

    def remask(self, packed: tuple[Operand, Operand], plan: list[Tensor]) -> bool:
        """The metadata, behind the values: a captured CUDA graph stays valid under a new mask too."""
        (compressed,), (compressed_t,) = packed
        if compressed.device != plan[0].device:
            return False
        for one, metadata in zip((compressed, compressed_t), plan[:2], strict=True):
            one.view(-1)[-len(metadata) :].copy_(metadata)
        return True

    def product(self, tokens: Tensor, operand: Operand, rows: int, bias: Tensor | None) -> Tensor:
        """The sparse matrix stands on the left, so it makes the transposed result.

        In bfloat16 the library transposes it as it writes. In float16 that is slow: measured once, on an H200 with
        cuSPARSELt 0.8, a product of any size took 167 ms or more that way, and 0.47 ms without.
        """
        transpose = not self.transposes(tokens.dtype)
        sizes = rows, tokens.shape[1], len(tokens)
        by_columns = not tokens.is_contiguous()
        product = SparseProduct(*sizes, tokens.dtype, transpose, bias is not None, by_columns)
        number = algorithm(product, tokens.device)
        result: Tensor = torch._cslt_sparse_mm(
            operand[0], tokens.t(), bias=bias, transpose_result=transpose, alg_id=number
        )
        return result if transpose else result.t()  # (T, rows)

    def transposes(self, dtype: torch.dtype) -> bool:
        return dtype == torch.float16

    def takes_transposed(self, dtype: torch.dtype) -> bool:
        # Not together with a result that the library transposes, which no device was seen to do.
        return self.transposes(dtype)


def _with_room(metadata: Tensor, values: int, lines: int) -> Tensor:
    """A compressed matrix of so many lines with these metadata, and room for so many values before them."""
    compressed = metadata.new_empty(values + len(metadata))
    compressed[values:] = metadata
    return compressed.view(lines, -1)  # as the library shapes it, and so tells the number of lines
