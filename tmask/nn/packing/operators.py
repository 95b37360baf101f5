"""The linear layer on a packed weight: two operators of torch, so that compiled models keep it whole.

    tmask::packed_product    tokens @ A^T + bias for one packed direction A; no gradient of its own
    tmask::packed_linear     y = x W^T + bias with the gradients of x (from the packed W^T), W and bias

Why operators, and no `autograd.Function`: docs/decisions/0003. W enters `packed_linear` for its gradient's sake alone;
its values come from what was packed, so both passes see one mask even where W or the mask changes in between.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tmask.nn.mask.masking import apply_mask
from tmask.nn.packing.routes import ROUTES, TOKENS_MULTIPLE
from tmask.nn.packing.transposing import contiguous


def packed_product(
    tokens: Tensor,
    operand: list[Tensor],
    rows: int,
    route: str,
    bias: Tensor | None = None,
    any_strides: bool = False,
) -> Tensor:
    """tokens (T, K) @ A^T + bias -> (T, rows), for the packed A (rows, K); T is padded as the kernels need it.

    Args:
        tokens: in the packed dtype, of any strides.
        operand: one direction, as the route of this name packs it.
        bias: (rows,) in the tokens' dtype.
        any_strides: whether the result may be a view of its transpose, which saves a copy where kernels make that;
            else it is contiguous, as that of a linear layer.
    """
    result: Tensor = torch.ops.tmask.packed_product(tokens, operand, rows, route, bias, any_strides)
    return result


def packed_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    packed: list[Tensor],
    packed_t: list[Tensor],
    mask: Tensor | None,
    route: str,
) -> Tensor:
    """x (T, in) with the packed weight (out, in) -> (T, out), in x's dtype.

    Args:
        weight: the dense master weight, which receives the gradient, of any floating dtype.
        bias: (out,) in x's dtype.
        packed, packed_t: the weight and its transpose, packed in x's dtype.
        mask: keeps the gradient of the weight where it is True; None for the whole, straight-through gradient.
        route: name of the route that packed them.
    """
    result: Tensor = torch.ops.tmask.packed_linear(x, weight, bias, packed, packed_t, mask, route)
    return result


def _product(
    tokens: Tensor,
    operand: list[Tensor],
    rows: int,
    route: str,
    bias: Tensor | None = None,
    any_strides: bool = False,
) -> Tensor:
    count = tokens.shape[0]
    if count == 0:
        return tokens.new_empty(0, rows)
    if missing := -count % TOKENS_MULTIPLE:
        tokens = torch.nn.functional.pad(tokens, (0, 0, 0, missing))
    kernels = ROUTES[route]
    # What another product has left transposed some kernels read as it is.
    if not (kernels.takes_transposed(tokens.dtype) and tokens.t().is_contiguous()):
        tokens = tokens.contiguous()
    result = kernels.product(tokens, operand, rows, bias)[:count]  # before, (T + missing, rows)
    return result if any_strides else contiguous(result)


def _product_fake(
    tokens: Tensor,
    operand: list[Tensor],
    rows: int,
    route: str,
    bias: Tensor | None = None,
    any_strides: bool = False,
) -> Tensor:
    count = tokens.shape[0]
    # Compiled code goes by these strides.
    if any_strides and ROUTES[route].transposes(tokens.dtype):
        return tokens.new_empty(rows, count + -count % TOKENS_MULTIPLE).t()[:count]
    return tokens.new_empty(count, rows)


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    packed: list[Tensor],
    packed_t: list[Tensor],
    mask: Tensor | None,
    route: str,
) -> Tensor:
    return _product(x, packed, weight.shape[0], route, bias)


def _linear_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    packed: list[Tensor],
    packed_t: list[Tensor],
    mask: Tensor | None,
    route: str,
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, packed, packed_t, mask, ctx.route = inputs
    ctx.lengths = len(packed), len(packed_t)
    ctx.weight_dtype, ctx.has_bias, ctx.has_mask = weight.dtype, bias is not None, mask is not None
    # Not W: no gradient needs its values, and torch would refuse a backward pass after a write to it.
    ctx.save_for_backward(x, *([mask] if mask is not None else []), *packed_t)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, *rest = ctx.saved_tensors
    mask = rest.pop(0) if ctx.has_mask else None
    grad_x = grad_weight = grad_bias = None
    # The first layer of a model needs no gradient of its input, and a frozen one none of its weight.
    if ctx.needs_input_grad[0]:
        # Autograd's next operation takes any strides, and the gradient may be as large as the layer's input.
        grad_x = packed_product(grad, rest, x.shape[1], ctx.route, any_strides=True)
    if ctx.needs_input_grad[1]:
        grad_weight = (grad.t() @ x).to(ctx.weight_dtype)  # dense: neither factor is sparse
        if mask is not None:
            grad_weight = apply_mask(grad_weight, mask)
    if ctx.has_bias and ctx.needs_input_grad[2]:
        grad_bias = grad.sum(0)
    # torch wants one gradient a tensor, in lists as they came in.
    none = [[None] * length for length in ctx.lengths]
    return grad_x, grad_weight, grad_bias, *none, None, None


# Schemas are written out: annotations are text here (from __future__), which early versions of torch do not read.
torch.library.custom_op(
    "tmask::packed_product",
    _product,
    mutates_args=(),
    schema="(Tensor tokens, Tensor[] operand, SymInt rows, str route, Tensor? bias=None, bool any_strides=False) "
    "-> Tensor",
).register_fake(_product_fake)

_operator = torch.library.custom_op(
    "tmask::packed_linear",
    _linear,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor[] packed, Tensor[] packed_t, Tensor? mask, str route) "
    "-> Tensor",
)
_operator.register_fake(_linear_fake)
_operator.register_autograd(_gradients, setup_context=_save)
