"""The backend for 2:4 on a GPU: linear layers whose two products with the weight run on packed copies of it.

`attach` swaps the forward of one `nn.Linear` that has a mask (`tmask.nn.mask.parametrization.Masked`); the dense master
weight stays the parameter. Forward multiplies with the packed W, the gradient of the input with the packed W^T; the
gradient of the weight is a dense product, whole or masked as the layer's rule says. `refresh` packs anew, after the
optimizer's step or a renewal of the mask: once for each, not once for each micro-batch.

Packing is lazy and keyed by dtype, since under autocast the layer's product is not in the weight's own. A weight that
was changed in place without `refresh` (a loaded checkpoint) is noticed by torch's version counters and packed anew;
fused optimizers do not count, and compiled code does not look, so neither can do without `refresh`. Where the packed
product cannot run, in float32 or on another device, a call multiplies with the dense masked weight.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from tmask.errors import InvalidProblemError
from tmask.nn.mask.parametrization import Masked
from tmask.nn.mask.registration import masked_of
from tmask.nn.packing.packed import check_complete
from tmask.nn.packing.packed_linear import packed_linear
from tmask.nn.packing.routes import ROUTES, Operand
from tmask.nn.packing.support import find_fitting, pays, supported
from tmask.nn.packing.verification import verify

__all__ = ["attach", "attached", "detach", "pays", "refresh", "supported"]

_STATE = "_tmask_packed"

Stamp = tuple[object, ...]
Pack = Callable[[nn.Module, torch.dtype], None]


@dataclass(eq=False)
class _Packed:
    """What is packed of one module; `stamp` tells from which contents of weight and mask, `pack` adds a dtype."""

    route: str
    pack: Pack
    stamp: Stamp = ()
    mask_stamp: Stamp = ()
    plans: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)
    operands: dict[torch.dtype, tuple[Operand, Operand]] = field(default_factory=dict)


def attach(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Make a masked linear layer multiply with packed weights from now on; on one that does, this is `refresh`.

    Args:
        module: an `nn.Linear` with a mask on its weight, 2:4 and complete.
        dtype: to verify the route and pack for at once; the weight's own if None, and for float32, whose layers
            are packed for the dtype of autocast when they are first called under it.
    Raises:
        InvalidProblemError: no masked linear layer, a sharded weight, or the weight is not supported here.
        InvalidMaskError: the mask is not a complete 2:4 one.
        KernelError: the route's products are wrong here.
    """
    _, weight = _masked_weight(module)
    dtype = dtype or (weight.dtype if weight.dtype != torch.float32 else None)
    route = find_fitting(tuple(weight.shape), dtype or torch.bfloat16, weight.device)
    if not attached(module):
        setattr(module, _STATE, _Packed(route.name, _outside_graphs()))
        module.forward = types.MethodType(_forward, module)
        vars(module)["_replicate_for_data_parallel"] = types.MethodType(_replicate, module)
    try:
        refresh(module)
        if dtype is not None and dtype not in module.__dict__[_STATE].operands:
            module.__dict__[_STATE].pack(module, dtype)
    except Exception:
        detach(module)
        raise


def attached(module: nn.Module) -> bool:
    """Whether the module multiplies with packed weights."""
    return _STATE in module.__dict__


def refresh(module: nn.Module) -> None:
    """Pack the weight anew under the mask that the module has now, for every dtype that it was packed for.

    Raises:
        InvalidProblemError: `attach` was not called.
        InvalidMaskError: the mask is not a complete 2:4 one.
    """
    if not attached(module):
        raise InvalidProblemError("refresh: the module has no packed weights; call attach first")
    state: _Packed = module.__dict__[_STATE]
    dtypes = list(state.operands)
    state.operands.clear()  # before packing, so that memory need not hold both
    for dtype in dtypes:
        state.pack(module, dtype)


def detach(module: nn.Module) -> None:
    """Undo `attach`: the module multiplies with the dense masked weight again. On others, nothing.

    A forward that something else has put around ours since is left: ours, inside it, finds nothing packed.
    """
    if attached(module):
        del module.__dict__[_STATE]
        del module.__dict__["_replicate_for_data_parallel"]
        if getattr(module.__dict__["forward"], "__func__", None) is _forward:
            del module.__dict__["forward"]


def _pack(module: nn.Module, dtype: torch.dtype) -> None:
    """Pack for one dtype; the new tensors replace the old ones, which a pending backward pass may still hold."""
    mask, weight = _masked_weight(module)
    # Whatever the forward pass is in: what an evaluation packs must serve training.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        _pack_weight(module.__dict__[_STATE], mask, weight, dtype)


def _pack_weight(state: _Packed, mask: Tensor, weight: Tensor, dtype: torch.dtype) -> None:
    route = ROUTES[state.route]
    rows, cols = weight.shape
    verify(route, (rows, cols), dtype, weight.device)
    mask_stamp = _stamp(mask)
    if mask_stamp != state.mask_stamp:
        check_complete(mask)
        state.plans.clear()
        state.mask_stamp = mask_stamp
    stamp = (*_stamp(weight), *mask_stamp)
    if stamp != state.stamp:
        state.operands.clear()
        state.stamp = stamp
    if dtype not in state.plans:
        state.plans[dtype] = route.plan(mask, dtype)
    state.operands[dtype] = route.pack(weight.to(dtype).contiguous(), state.plans[dtype])


@functools.cache
def _outside_graphs() -> Pack:
    """`_pack` kept out of compiled graphs: its kernels have no fake implementations, and run once for each step alone.

    Made when a first layer is packed, since it loads torch's compiler, which takes as long as torch itself.
    """
    disabled: Pack = torch.compiler.disable(_pack)  # type: ignore[no-untyped-call]
    return disabled


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    """The forward of an attached module."""
    state: _Packed | None = module.__dict__.get(_STATE)
    if state is None:
        return functional.linear(x, module.weight, module.bias)
    masked: Masked = module.parametrizations.weight[0]  # type: ignore[index, union-attr, assignment]
    weight: Tensor = module.parametrizations.weight.original  # type: ignore[union-attr, assignment]
    route = ROUTES[state.route]
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
    # Without autocast, torch refuses a product of two dtypes, and so the masked product does it here.
    if kind != route.device_type or dtype not in route.dtypes or not (autocast or x.dtype == weight.dtype):
        return functional.linear(x, module.weight, module.bias)
    if dtype not in state.operands or not (
        torch.compiler.is_compiling() or state.stamp == (*_stamp(weight), *_stamp(masked.mask))
    ):
        state.pack(module, dtype)
    packed, packed_t = state.operands[dtype]
    bias = None if module.bias is None else module.bias.to(dtype)
    mask = masked.mask if masked.gradient == "masked" else None
    tokens = x.reshape(-1, x.shape[-1]).to(dtype)
    result = packed_linear(tokens, weight, bias, packed, packed_t, mask, state.route)
    return result.view(*x.shape[:-1], weight.shape[0])


def _replicate(module: nn.Module) -> nn.Module:
    """A replica for DataParallel, which lives on another device and multiplies with the dense masked weight there.

    Without this it would call the forward of the module that it was copied from.
    """
    replica: nn.Module = type(module)._replicate_for_data_parallel(module)  # type: ignore[no-untyped-call]
    detach(replica)
    return replica


def _masked_weight(module: nn.Module) -> tuple[Tensor, Tensor]:
    """The mask and the dense master weight of a linear layer that can be packed."""
    if not isinstance(module, nn.Linear):
        raise InvalidProblemError(f"only nn.Linear has a packed product, not {type(module).__name__}")
    masked = masked_of(module, "weight")
    steps = len(module.parametrizations.weight) if masked is not None else 0  # type: ignore[arg-type, union-attr]
    if masked is None or steps > 1:
        problem = "has no mask on its weight" if masked is None else "has other parametrizations beside the mask"
        raise InvalidProblemError(f"the linear layer {problem}; backend 'semi_structured' packs masked weights alone")
    weight: Tensor = module.parametrizations.weight.original  # type: ignore[union-attr, assignment]
    if hasattr(weight, "full_tensor"):
        raise InvalidProblemError(
            "the weight is sharded (a DTensor), and a shard cannot be packed; use backend 'masked'"
        )
    return masked.mask, weight


def _stamp(tensor: Tensor) -> Stamp:
    """Changes whenever the contents are known to have changed: a new tensor, another memory, a write in place."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version, tensor.device
