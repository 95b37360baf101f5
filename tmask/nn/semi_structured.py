"""The backend for 2:4 on a GPU: linear layers whose two products with the weight run on packed copies of it.

`attach` swaps the forward of one `nn.Linear` that has a mask (`tmask.nn.parametrization.Masked`); the dense master
weight stays the parameter. Forward multiplies with the packed W, the gradient of the input with the packed W^T; the
gradient of the weight is a dense product, whole or masked as the layer's rule says. `refresh` packs anew, after the
optimizer's step or a renewal of the mask: once for each, not once for each micro-batch.

Packing is lazy and keyed by dtype, since under autocast the layer's product is not in the weight's own. A weight that
was changed in place without `refresh` (a loaded checkpoint) is noticed by torch's version counters and packed anew;
fused optimizers do not count, and compiled code does not look, so neither can do without `refresh`. Where the packed
product cannot run, in float32 or on another device, a call multiplies with the dense masked weight.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from tmask.errors import InvalidProblemError, KernelError
from tmask.nn.packed_linear import packed_linear
from tmask.nn.packing import check_complete
from tmask.nn.parametrization import Masked, masked_of
from tmask.nn.routes import ROUTES, Operand, Route, find_route
from tmask.nn.timing import measure_linear
from tmask.nn.verification import verify
from tmask.pattern import Pattern

TOKENS = 8192  # in a batch, where nobody says how many

_STATE = "_tmask_packed"
_paid: dict[tuple[tuple[int, ...], torch.dtype, torch.device, int], tuple[bool, str]] = {}

Stamp = tuple[object, ...]


@dataclass(eq=False)
class _Packed:
    """What is packed of one module; `stamp` tells from which contents of weight and mask."""

    route: str
    stamp: Stamp = ()
    mask_stamp: Stamp = ()
    plans: dict[torch.dtype, list[Tensor]] = field(default_factory=dict)
    operands: dict[torch.dtype, tuple[Operand, Operand]] = field(default_factory=dict)


def supported(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str, pattern: Pattern | str
) -> tuple[bool, str]:
    """Whether a weight (out, in) can be packed for this device, and why not.

    Args:
        dtype: that the layer multiplies in: the autocast dtype under autocast.
    """
    if Pattern.parse(pattern) != Pattern(2, 4):
        return False, f"sparse tensor cores multiply 2:4 alone, not {Pattern.parse(pattern)}"
    route, problem = find_route(torch.device(device))
    if route is None:
        return False, problem
    problem = misfit(route, shape, dtype)
    return not problem, problem


def misfit(route: Route, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """Why a weight of this shape and dtype does not fit a route, wherever it runs, or ""."""
    if len(shape) != 2:
        return f"a weight of {len(shape)} axes; the kernels multiply matrices of linear layers"
    if dtype not in route.dtypes:
        names = " and ".join(str(one).removeprefix("torch.") for one in route.dtypes)
        return (
            f"dtype {str(dtype).removeprefix('torch.')}; the kernels multiply {names} (autocast, or convert the model)"
        )
    if not all(side and side % route.multiple == 0 for side in shape):
        return f"shape {shape[0]}x{shape[1]}; {route.name} needs both sides in multiples of {route.multiple}"
    return ""


def pays(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str, tokens: int = TOKENS
) -> tuple[bool, str]:
    """Whether a step with the packed weight is faster than with the dense masked one, and by what measurement.

    A step is forward, backward and one packing, for this many tokens; verified, then measured once in a process.

    Raises:
        InvalidProblemError: the weight is not supported.
    """
    device = torch.device(device)
    key = tuple(shape), dtype, device, tokens
    if key not in _paid:
        _paid[key] = _measured(_route(shape, dtype, device), *key)
    return _paid[key]


def _measured(
    route: Route, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, tokens: int
) -> tuple[bool, str]:
    rows, cols = shape
    try:
        verify(route, (rows, cols), dtype, device)
        timing = measure_linear(route, (rows, cols), dtype, device, tokens)
    except KernelError as error:
        warnings.warn(f"masked products instead of packed ones: {error}", RuntimeWarning, stacklevel=2)
        return False, str(error)
    except torch.cuda.OutOfMemoryError as error:
        return False, f"no memory to measure it with {tokens} tokens ({error})"
    return timing.sparse < timing.masked, (
        f"{route.name}: {1e3 * timing.sparse:.3g} ms packed ({1e3 * timing.pack:.3g} of them packing) against "
        f"{1e3 * timing.masked:.3g} ms masked, measured with {tokens} tokens"
    )


def _route(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Route:
    """The route for this weight; raises InvalidProblemError where there is none."""
    fits, problem = supported(shape, dtype, device, "2:4")
    route, _ = find_route(device)
    if route is None or not fits:
        raise InvalidProblemError(f"no packed product: {problem}; use backend 'masked'")
    return route


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
    route = _route(tuple(weight.shape), dtype or torch.bfloat16, weight.device)
    if not attached(module):
        setattr(module, _STATE, _Packed(route.name))
        module.forward = types.MethodType(_forward, module)
    try:
        refresh(module)
        if dtype is not None and dtype not in module.__dict__[_STATE].operands:
            _pack(module, dtype)
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
        _pack(module, dtype)


def detach(module: nn.Module) -> None:
    """Undo `attach`: the module multiplies with the dense masked weight again. On others, nothing."""
    if attached(module):
        del module.__dict__[_STATE]
        del module.__dict__["forward"]


# Within inference_mode(False), so that what an evaluation packs can serve training. Out of compiled graphs, since the
# packing kernels have no fake implementations, and run once for each step of the optimizer alone.
@torch.inference_mode(False)
@torch.no_grad()
def _pack_eagerly(module: nn.Module, dtype: torch.dtype) -> None:
    """Pack for one dtype; the new tensors replace the old ones, which a pending backward pass may still hold."""
    state: _Packed = module.__dict__[_STATE]
    mask, weight = _masked_weight(module)
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
    state.operands[dtype] = route.pack(weight.detach().to(dtype).contiguous(), state.plans[dtype])


_pack: Callable[[nn.Module, torch.dtype], None] = torch.compiler.disable(_pack_eagerly)  # type: ignore[no-untyped-call]


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    """The forward of an attached module."""
    state: _Packed = module.__dict__[_STATE]
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
        _pack(module, dtype)
    packed, packed_t = state.operands[dtype]
    bias = None if module.bias is None else module.bias.to(dtype)
    mask = masked.mask if masked.gradient == "masked" else None
    tokens = x.reshape(-1, x.shape[-1]).to(dtype)
    result = packed_linear(tokens, weight, bias, packed, packed_t, mask, state.route)
    return result.view(*x.shape[:-1], weight.shape[0])


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
