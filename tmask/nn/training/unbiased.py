"""The third product of a linear layer made N:M too: minimum-variance unbiased estimates of the output's gradient.

Forward and the gradient of the input multiply with the masked weight. The gradient of the weight multiplies the
output's gradient G (tokens, out) with the input, and neither is sparse; so G is sampled to n of every m consecutive
tokens, such that the estimate is right on average and varies least [Chmiel2023].
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.layers.layer import Owner
from tmask.nn.packing.backends import MASKED, misuse
from tmask.nn.training.sparsifier import Sparsifier

# Among the module's attributes, where a deep copy takes it along.
_PATTERN = "_tmask_estimated"


def unbiased_estimate(values: Tensor, pattern: Pattern) -> Tensor:
    """Keep at most n of every m values along the first axis, scaled so that the expectation is the values.

    Inclusion probabilities are min(1, c |value|) with c such that they sum to n, which no other choice of n beats in
    variance; systematic sampling, by one random number a group, then draws exactly n. A group with at most n values
    that are not 0 stays as it is.

    Args:
        values: (T, channels) floating; groups are m consecutive rows, the last one filled up with zeros.
    Returns:
        Of the same shape and dtype.
    Source: [Chmiel2023] for the estimator; [Madow1949] for systematic sampling.
    """
    n, m = pattern.n, pattern.m
    rows = values.shape[0]
    groups = functional.pad(values, (0, 0, 0, -rows % m)).reshape(-1, m, values.shape[1])  # (T / m, m, channels)
    chance = _inclusion(groups.abs().float(), n)
    # In float64: rounded sums would now and then draw one too many, or one too few.
    reached = chance.double().cumsum(1).clamp(max=n)
    start = torch.rand_like(reached[:, :1])
    # One for each whole number that start + reached passes.
    drawn = (start + reached).floor()
    taken = torch.diff(drawn, dim=1, prepend=torch.zeros_like(start)) > 0
    estimate = torch.where(taken & (chance > 0), groups / chance.clamp(min=torch.finfo(torch.float32).tiny), 0)
    return estimate.to(values.dtype).flatten(0, 1)[:rows]


def _inclusion(size: Tensor, n: int) -> Tensor:
    """Probabilities min(1, c * size) that sum to n along axis 1, or 1 for all that are not 0 where those are fewer."""
    ordered = size.sort(1, descending=True).values
    rest = ordered.flip(1).cumsum(1).flip(1)  # what is left from each place on
    # The k largest are certain: the first k for which the next one's share of n - k is at most 1.
    share = torch.zeros_like(rest[:, :1])
    found = torch.zeros_like(share, dtype=torch.bool)
    for k in range(n):
        left = rest[:, k : k + 1]
        fits = ~found & ((n - k) * ordered[:, k : k + 1] <= left)
        share = torch.where(fits & (left > 0), (n - k) / left, share)
        found |= fits
    # Where nothing has to be left out, rounding must not make a certain one less than certain.
    few = (size > 0).sum(1, keepdim=True) <= n
    return torch.where(few, (size > 0).to(size.dtype), (size * share).clamp(max=1))


class _EstimatedLinear(torch.autograd.Function):
    """x W^T, whose gradient of W is made of an estimate of the output's gradient."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
        return functional.linear(x, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, ctx.pattern = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            sparse = unbiased_estimate(grad.flatten(0, -2), ctx.pattern)
            grad_weight = sparse.t() @ x.flatten(0, -2)
        return grad_x, grad_weight, None


def estimate_gradients(sparsifier: Sparsifier, pattern: Pattern | str = "2:4") -> list[str]:
    """Make masked linear layers learn from N:M estimates of their outputs' gradients, until `exact_gradients`.

    The products are computed densely: the estimates say what it costs in accuracy that all three are sparse; no
    kernel of torch compresses an operand for one product in less time than that takes.

    Returns:
        The names of the layers; others than nn.Linear, and layers on packed weights, learn as before.
    Raises:
        InvalidProblemError: no masked layer is an nn.Linear whose own forward runs, on backend "masked".
    """
    pattern = Pattern.parse(pattern)
    names = []
    for layer in sparsifier.layers:
        if layer.backend != MASKED or not all(map(_takes, layer.owners)):
            continue
        for owner in layer.owners:
            vars(owner.module)[_PATTERN] = pattern
            # A bound method, which a deep copy binds to itself.
            owner.module.forward = types.MethodType(_forward, owner.module)
        names.append(layer.name)
    if not names:
        raise InvalidProblemError(
            'no masked layer is an nn.Linear on backend "masked", and only such layers can learn from estimates'
        )
    return names


def _takes(owner: Owner) -> bool:
    return _PATTERN in vars(owner.module) or not misuse(owner.module, owner.tensor)


def exact_gradients(model: nn.Module) -> None:
    """Undo `estimate_gradients`."""
    for module in model.modules():
        if vars(module).pop(_PATTERN, None) is not None:
            vars(module).pop("forward", None)


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    pattern: Pattern = vars(module)[_PATTERN]
    product: Tensor = _EstimatedLinear.apply(x, module.weight, pattern)  # type: ignore[no-untyped-call]
    return product if module.bias is None else product + module.bias
