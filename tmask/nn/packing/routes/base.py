"""What a route to sparse tensor cores provides: from a weight and its mask to products with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

# Tokens are padded to a multiple of this: rows of 16 bytes of two-byte numbers, in the transposed product too.
TOKENS_MULTIPLE = 8

Operand = list[Tensor]  # one direction of a packed weight, as its kernel takes it


class Route(ABC):
    """One family of kernels. Stateless; what is packed belongs to the caller.

    Args of the class:
        name: in reports, and in the graph of a compiled model.
        device_type: of the tensors that it takes.
        hardware: where it runs, for reports.
        dtypes: of the weight and the tokens.
        multiple: of both sides of a weight; each is the row length of one direction.
    """

    name: ClassVar[str]
    device_type: ClassVar[str] = "cuda"
    hardware: ClassVar[str]
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float16, torch.bfloat16)
    multiple: ClassVar[int]

    @abstractmethod
    def problem(self, device: torch.device) -> str:
        """Why this device cannot take the route, or ""."""

    @abstractmethod
    def plan(self, mask: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """What packing needs of a mask alone; made once for each mask, not once for each step.

        Args:
            mask: (rows, cols) bool, exactly 2:4 along rows and columns; checked by the caller.
        """

    @abstractmethod
    def pack(self, weight: Tensor, plan: list[Tensor]) -> tuple[Operand, Operand]:
        """The weight (rows, cols), of the plan's dtype and contiguous, and its transpose, under the plan's mask."""

    def repack(self, packed: tuple[Operand, Operand], weight: Tensor, plan: list[Tensor]) -> tuple[Operand, Operand]:
        """The same for a changed weight, where `pack` has made `packed` from another one under this very plan.

        A route that can writes to the memory of `packed`, and returns it; this implementation packs anew.

        Args:
            weight: contiguous, of any floating dtype.
        """
        return self.pack(weight.to(packed[0][0].dtype), plan)

    def remask(self, packed: tuple[Operand, Operand], plan: list[Tensor]) -> bool:
        """Write what depends on the mask alone to the memory of `packed`, which was made by the plan of another mask.

        `repack` writes the values then. Returns whether it was done; this implementation, as a route that cannot, does
        nothing.
        """
        return False

    @abstractmethod
    def product(self, tokens: Tensor, operand: Operand, rows: int, bias: Tensor | None) -> Tensor:
        """tokens (T, K) @ A^T + bias -> (T, rows), for the packed A (rows, K).

        The result is contiguous, or its transpose is, as `transposes` says: a view, which nobody has copied yet.

        Args:
            tokens: contiguous, or as `takes_transposed` says; T a positive multiple of 8.
            bias: (rows,) in the tokens' dtype.
        """

    def transposes(self, dtype: torch.dtype) -> bool:
        """Whether products of this dtype come as views of their transposes."""
        return False

    def takes_transposed(self, dtype: torch.dtype) -> bool:
        """Whether `product` takes tokens of this dtype whose transpose is contiguous, too."""
        return False


def cuda_problem(device: torch.device) -> str:
    """Why no NVIDIA kernel runs on this device, or ""."""
    if device.type != "cuda":
        return f"no sparse kernel runs on a {device.type} device"
    if torch.version.hip is not None:
        return "this torch is built for AMD; the kernels are NVIDIA's"
    if not torch.cuda.is_available():
        return "no CUDA device is available"
    return ""
