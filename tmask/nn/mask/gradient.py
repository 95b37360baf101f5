"""A mask applied to a weight, and the two rules for its gradient.

With G the gradient of the effective weight where(mask, W, 0):

- "straight-through": W receives G, so that masked weights keep learning and can come back [Bengio2013].
- "masked": W receives G where the mask keeps, 0 elsewhere; the true derivative.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.mask.masking import apply_mask

Gradient = Literal["straight-through", "masked"]


def check_gradient(rule: str) -> None:
    """Return if the text names a gradient rule; raise InvalidProblemError if not."""
    if rule not in get_args(Gradient):
        raise InvalidProblemError(f"gradient must be one of {', '.join(get_args(Gradient))}; got {rule!r}")


class StraightThrough(torch.autograd.Function):
    """where(mask, weight, 0) whose gradient passes to the weight whole."""

    generate_vmap_rule = True  # without it vmap of torch.func refuses models that have masks

    @staticmethod
    def forward(weight: Tensor, mask: Tensor) -> Tensor:
        return apply_mask(weight, mask)

    # Apart from `forward`: torch.func refuses functions that write to their context in it.
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is saved: the gradient depends on neither weight nor mask."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None]:
        return grads[0], None


class StraightThroughBothWays(StraightThrough):
    """With forward-mode differentiation too; apart, because torch.compile takes no function that has it."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """The tangent passes whole, as the gradient does."""
        return tangents[0]


# torch asks for it at each call of such a function, and it would be made anew each time: a third of a call's time.
StraightThrough.forward.__signature__ = inspect.signature(StraightThrough.forward)  # type: ignore[attr-defined]
