"""Linear layers whose two products with the weight run on packed copies of it: backend "semi_structured".

`attach` swaps the forward of one `nn.Linear` that has a mask (`tmask.nn.mask.parametrization.Masked`); the dense master
weight stays the parameter. Forward multiplies with the packed W, the gradient of the input with the packed W^T; the
gradient of the weight is a dense product, whole or masked as the layer's rule says. `refresh` packs anew, after the
optimizer's step or a renewal of the mask: once for each, not once for each micro-batch.

A weight that was changed without `refresh` (a loaded checkpoint) is noticed at the next call and packed anew; but fused
optimizers leave no trace, and compiled code does not look, so neither can do without `refresh`. Where the packed
product cannot run, in float32 or on another device, a call multiplies with the dense masked weight.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tmask.errors import InvalidProblemError
from tmask.nn.mask.parametrization import Masked
from tmask.nn.mask.registration import masked_of, master_of, steps_of
from tmask.nn.mask.shards import is_sharded
from tmask.nn.packing.copies import Copies
from tmask.nn.packing.operators import packed_linear
from tmask.nn.packing.routes import ROUTES, Route
from tmask.nn.packing.support import find_fitting

# Among the module's attributes, not its buffers: what is packed is no part of a saved state.
_COPIES = "_tmask_packed"


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
    masked, weight = _masked_weight(module)
    dtype = dtype or (weight.dtype if weight.dtype != torch.float32 else None)
    fitting = weight.device, dtype
    # After each step this is called again, and nearly always nothing has changed.
    if not attached(module) or _copies_of(module).fitting != fitting:
        # Both half types have the same routes and shapes, so that one stands for the other.
        route = find_fitting(tuple(weight.shape), dtype or torch.bfloat16, weight.device)
    if not attached(module):
        setattr(module, _COPIES, Copies(route.name, _outside_graphs(), masked.keep_zeros))
        # A bound method, which a deep copy binds to itself; a closure would multiply with the first module's weight.
        module.forward = types.MethodType(_forward, module)
        vars(module)["_replicate_for_data_parallel"] = types.MethodType(_replicate, module)
    _copies_of(module).fitting = fitting
    try:
        refresh(module)
        if dtype is not None and dtype not in _copies_of(module).operands:
            _copies_of(module).pack(module, dtype)
    except Exception:
        # Without copies the forward would pack, and fail, at every call.
        detach(module)
        raise


def attached(module: nn.Module) -> bool:
    """Whether the module multiplies with packed weights."""
    return _COPIES in module.__dict__


def addresses(module: nn.Module) -> tuple[int, ...]:
    """Where the packed copies of a module lie, in a fixed order; () where it has none."""
    if not attached(module):
        return ()
    pairs = _copies_of(module).operands.values()
    return tuple(tensor.data_ptr() for pair in pairs for operand in pair for tensor in operand)


def refresh(module: nn.Module) -> None:
    """Pack the weight anew under the mask that the module has now, for every dtype that it was packed for.

    Raises:
        InvalidProblemError: `attach` was not called.
        InvalidMaskError: the mask is not a complete 2:4 one.
    """
    if not attached(module):
        raise InvalidProblemError("refresh: the module has no packed weights; call attach first")
    copies = _copies_of(module)
    for dtype in copies.outdate():
        copies.pack(module, dtype)


def detach(module: nn.Module) -> None:
    """Undo `attach`: the module multiplies with the dense masked weight again. On others, nothing.

    A forward that something else has put around ours since is left: ours, inside it, finds nothing packed.
    """
    if attached(module):
        del module.__dict__[_COPIES]
        del module.__dict__["_replicate_for_data_parallel"]
        if getattr(module.__dict__["forward"], "__func__", None) is _forward:
            del module.__dict__["forward"]


def _pack(module: nn.Module, dtype: torch.dtype) -> None:
    masked, weight = _masked_weight(module)
    kind = weight.device.type
    # Whatever the forward pass is in: what an evaluation packs must serve training. After a step nothing of it is on,
    # and to turn it off would cost as much as a launch.
    if torch.is_grad_enabled() or torch.is_inference_mode_enabled() or torch.is_autocast_enabled(kind):
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(kind, enabled=False):
            _copies_of(module).add(weight, masked, dtype)
    else:
        _copies_of(module).add(weight, masked, dtype)


@functools.cache
def _outside_graphs() -> Callable[[nn.Module, torch.dtype], None]:
    """`_pack` kept out of compiled graphs: its kernels have no fake implementations, and run once for each step alone.

    Made when a first layer is packed, since it loads torch's compiler, which takes as long as torch itself.
    """
    disabled: Callable[[nn.Module, torch.dtype], None] = torch.compiler.disable(_pack)  # type: ignore[no-untyped-call]
    return disabled


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    copies: Copies | None = module.__dict__.get(_COPIES)
    # Detached, under a forward that somebody has put around this one.
    if copies is None:
        return functional.linear(x, module.weight, module.bias)
    masked: Masked = module.parametrizations.weight[0]  # type: ignore[index, union-attr, assignment]
    weight: Tensor = module.parametrizations.weight.original  # type: ignore[union-attr, assignment]
    dtype = _product_dtype(x, weight, ROUTES[copies.route])
    if dtype is None:
        return functional.linear(x, module.weight, module.bias)
    # Compiled code must not look at stamps: it would be compiled anew for every version of the weight.
    current = torch.compiler.is_compiling() or copies.are_of(weight, masked.mask)
    if dtype not in copies.operands or not current:
        copies.pack(module, dtype)
    packed, packed_t = copies.operands[dtype]
    bias = None if module.bias is None else module.bias.to(dtype)
    # The straight-through rule needs no mask in backward, and then holds none.
    mask = masked.mask if masked.gradient == "masked" else None
    if mask is None and masked.keep_zeros:
        mask = masked.mask | (weight != 0)
    tokens = x.reshape(-1, x.shape[-1]).to(dtype)
    result = packed_linear(tokens, weight, bias, packed, packed_t, mask, copies.route)
    return result.view(*x.shape[:-1], weight.shape[0])


def _product_dtype(x: Tensor, weight: Tensor, route: Route) -> torch.dtype | None:
    """The dtype that the layer multiplies in, or None where the route cannot run it."""
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
    # Without autocast, torch refuses a product of two dtypes, and so the masked product does it here.
    alike = autocast or x.dtype == weight.dtype
    return dtype if kind == route.device_type and dtype in route.dtypes and alike else None


def _replicate(module: nn.Module) -> nn.Module:
    """A replica for DataParallel, which lives on another device and multiplies with the dense masked weight there.

    Without this it would call the forward of the module that it was copied from.
    """
    replica: nn.Module = type(module)._replicate_for_data_parallel(module)  # type: ignore[no-untyped-call]
    detach(replica)
    return replica


def _copies_of(module: nn.Module) -> Copies:
    copies: Copies = module.__dict__[_COPIES]
    return copies


def _masked_weight(module: nn.Module) -> tuple[Masked, Tensor]:
    """The mask and the dense master weight of a linear layer that can be packed."""
    if not isinstance(module, nn.Linear):
        raise InvalidProblemError(f"only nn.Linear has a packed product, not {type(module).__name__}")
    masked = masked_of(module, "weight")
    steps = 0 if masked is None else len(steps_of(module, "weight"))
    if masked is None or steps > 1:
        problem = "has no mask on its weight" if masked is None else "has other parametrizations beside the mask"
        raise InvalidProblemError(f"the linear layer {problem}; backend 'semi_structured' packs masked weights alone")
    weight: Tensor = master_of(module, "weight")
    if is_sharded(weight):
        raise InvalidProblemError(
            "the weight is sharded (a DTensor), and a shard cannot be packed; use backend 'masked'"
        )
    return masked, weight
