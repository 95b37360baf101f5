"""Masks cut over ranks like the weights that `fully_shard` has cut.

In forward, when FSDP has put a layer's weight together, its mask is put together too, for that time; under the masked
rule once more in backward. What that costs: docs/how-to/distributed.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from tmask.nn.mask import effective_shards  # noqa: F401 - its class takes its place in the table
from tmask.nn.mask.masking import apply_mask


def shard_like(mask: Tensor, weight: Any) -> Tensor:
    """This rank's part of a mask that every rank holds whole, cut like the weight; no communication."""
    # By default torch sends rank 0's; None says that the ranks hold the same.
    return distribute_tensor(mask, weight.device_mesh, weight.placements, src_data_rank=None)


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together on every rank; a tensor that is whole already is itself. All ranks must call it."""
    if not isinstance(tensor, DTensor):
        return tensor
    full: Tensor = tensor.full_tensor()  # a collective: a rank that skips it makes the others wait for ever
    return full


class _Gathered(torch.autograd.Function):
    """where(mask, weight, 0) for a whole weight and a mask in shards, which autograd saves as shards."""

    @staticmethod
    def forward(weight: Tensor, mask: Tensor, masked_gradient: bool) -> Tensor:
        return apply_mask(weight, whole(mask))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, mask, ctx.masked_gradient = inputs
        # As shards: a whole mask a layer, kept until backward, would undo what FSDP saves.
        if ctx.masked_gradient:
            ctx.save_for_backward(mask)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None, None]:
        (gradient,) = grads
        if ctx.masked_gradient:
            (mask,) = ctx.saved_tensors
            gradient = apply_mask(gradient, whole(mask))
        return gradient, None, None


def gather_and_apply(weight: Tensor, mask: Tensor, masked_gradient: bool) -> Tensor:
    """where(mask, weight, 0) for a weight that FSDP has put together, and a mask in shards."""
    masked: Tensor = _Gathered.apply(weight, mask, masked_gradient)  # type: ignore[no-untyped-call]
    return masked
