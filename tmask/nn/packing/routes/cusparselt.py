"""Compute capability 9.0 and later: cuSPARSELt.

It compresses a matrix by what is nonzero in it, so each direction is masked, then compressed. The mask is applied by
`where`: a product with zero would leave -0.0, which some of its compressors keep in a weight's place.
The algorithm stays the default one: others have given wrong results [pytorch#155333].
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from tmask.nn.packing.routes.base import Operand, Route, cuda_problem


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
        """The mask in both directions, copied: a later write to the mask must not reach one direction alone."""
        return [mask.clone(), mask.t().contiguous()]

    def pack(self, weight: Tensor, plan: list[Tensor]) -> tuple[Operand, Operand]:
        """Each direction masked and compressed."""
        mask, mask_t = plan
        packed = torch._cslt_compress(torch.where(mask, weight, 0))
        packed_t = torch._cslt_compress(torch.where(mask_t, weight.t(), 0).contiguous())
        return [packed], [packed_t]

    def product(self, tokens: Tensor, operand: Operand, rows: int, bias: Tensor | None) -> Tensor:
        """The sparse matrix stands on the left; the library transposes the result as it writes it."""
        result: Tensor = torch._cslt_sparse_mm(operand[0], tokens.t(), bias=bias, transpose_result=True)
        return result
