"""A mask applied to a weight: where(mask, weight, 0), by what is fastest where the weight lies.

`torch.where` takes one entry at a time: on a CPU fifteen times as long as operations on bits, and on a GPU twice as
long as reading and writing takes (4096 x 11008 in bfloat16 on an H200: 0.117 ms, the kernel 0.055). Compiled and
transformed code gets it all the same: compilers make their own of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from tmask.nn.mask.believed import Believed
from tmask.nn.mask.eager import is_eager

# Of the types of weights, the integers of their size.
_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
_ALIGNED = 16  # bytes, as torch's own memory is

Way = Callable[[Tensor, Tensor], Tensor]

_kernels = Believed("masks are applied by torch.where")


def apply_mask(weight: Tensor, mask: Tensor) -> Tensor:
    """The weight where the mask keeps, +0.0 elsewhere: a product would leave -0.0 (and NaN) behind."""
    plain = type(weight) in (Tensor, nn.Parameter) and weight.dtype in _BITS and is_eager() and not _watched(weight)
    write = _way(weight, mask) if plain else None
    if write is None:
        return torch.where(mask, weight, 0.0)
    # A node of the graph costs as much as a small weight's bits, and most callers need none.
    if (torch.is_grad_enabled() and weight.requires_grad) or forward_ad._current_level >= 0:
        masked: Tensor = _Masking.apply(weight, mask, write)  # type: ignore[no-untyped-call]
        return masked
    return write(weight, mask)


def _watched(weight: Tensor) -> bool:
    """Whether something follows operations that looks like none to `is_eager`: a launch of our own would pass it by."""
    # torch.utils._python_dispatch's modes, such as make_fx's; and the batches of is_grads_batched.
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._functorch.is_legacy_batchedtensor(weight)


class _Masking(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, write: Way) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.save_for_forward(mask)
        return write(weight, mask)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None, None]:
        (mask,) = ctx.saved_tensors
        return apply_mask(grads[0], mask), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (mask,) = ctx.saved_tensors
        return apply_mask(tangents[0], mask)


def _way(weight: Tensor, mask: Tensor) -> Way | None:
    """What writes where(mask, weight, 0) here faster than `torch.where`, if anything does."""
    if _kernel_takes(weight, mask):
        return _by_kernel
    return _by_bits if weight.device.type == "cpu" else None


def _by_bits(weight: Tensor, mask: Tensor) -> Tensor:
    """What the mask keeps is all ones in an integer, and what it prunes all zeros."""
    bits = _BITS[weight.dtype]
    masked = torch.empty_like(weight, requires_grad=False)
    torch.bitwise_and(mask.to(bits).neg_(), weight.detach().view(bits), out=masked.view(bits))
    return masked


def _by_kernel(weight: Tensor, mask: Tensor) -> Tensor:
    """One launch of `masking_kernel`."""
    bits, weight = _BITS[weight.dtype], weight.detach()
    masked = torch.empty_like(weight)
    if _kernels.run(weight.device, lambda: _launch(weight.view(bits), mask, masked.view(bits))):
        return masked
    return torch.where(mask, weight, 0.0)


def _kernel_takes(weight: Tensor, mask: Tensor) -> bool:
    device = weight.device
    if not _kernels.may_take(device) or weight.shape != mask.shape or mask.device != device:
        return False
    if not (mask.dtype == torch.bool and weight.is_contiguous() and mask.is_contiguous()):
        return False
    # Triton compiles anew for other addresses, which must not happen in a capture.
    if weight.data_ptr() % _ALIGNED or mask.data_ptr() % _ALIGNED:
        return False
    return _kernels.pays(weight) and _kernels.takes(device, weight.dtype, lambda: _writes_right(device, weight.dtype))


def _writes_right(device: torch.device, dtype: torch.dtype) -> bool:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(1000, generator=draw, device="cpu").to(device, dtype)
    weight[::7], weight[::11] = -0.0, torch.nan
    mask = (torch.rand(1000, generator=draw, device="cpu") < 0.5).to(device)
    bits = _BITS[dtype]
    found = torch.full_like(weight, 7.0)
    _launch(weight.view(bits), mask, found.view(bits))
    return torch.equal(found.view(bits), torch.where(mask, weight, 0.0).view(bits))


def _launch(weight: Tensor, mask: Tensor, masked: Tensor) -> None:
    from tmask.nn.mask import masking_kernel  # late: it imports Triton, which a torch without CUDA lacks

    masking_kernel.keep(weight, mask, masked)
