"""Decay of the weights that are masked out, which makes a dynamic mask settle.

Both forms act once per optimizer step, just before it: after gradients were added up, unscaled and clipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.mask.masking import apply_mask


@dataclass(frozen=True)
class MaskedDecay:
    """Pull masked-out weights W (where the mask is False) towards zero.

    Args:
        rate: lambda, above 0.
        through: "gradient" adds lambda * W to the gradient of masked-out weights, so that an adaptive optimizer
            normalises it with the rest [Hu2024]; "weight" subtracts lr * lambda * W from them, apart from
            the gradient, which is SR-STE [Zhou2021]. Under plain SGD they are the same.
    Raises:
        InvalidProblemError: a rate that is not above 0, another form.
    """

    rate: float
    through: Literal["gradient", "weight"] = "gradient"

    def __post_init__(self) -> None:
        number = isinstance(self.rate, int | float) and not isinstance(self.rate, bool)
        if not (number and 0 < self.rate < math.inf):
            raise InvalidProblemError(f"MaskedDecay: rate must be a number above 0, got {self.rate!r}")
        if self.through not in ("gradient", "weight"):
            raise InvalidProblemError(f'MaskedDecay: through must be "gradient" or "weight", got {self.through!r}')

    @torch.no_grad()
    def apply(
        self, masks: Iterable[tuple[Tensor, Tensor]], optimizer: torch.optim.Optimizer, *, again: bool = False
    ) -> None:
        """Act on (weight, mask) pairs just before the optimizer steps; weights without a gradient are left alone.

        Args:
            again: whether it is called once more within one step, with new gradients: LBFGS makes several in a step.
                Each is given its decay; the weights were, by the first call.

        A fused optimizer under a GradScaler gets gradients that are still scaled, and skips the update by itself
        where they overflowed; torch leaves the scale and the verdict on the optimizer for that time.
        """
        if again and self.through == "weight":
            return
        rates = learning_rates(optimizer)
        ascending = {id(p) for group in optimizer.param_groups if group.get("maximize") for p in group["params"]}
        for weight, mask in masks:
            # Where several optimizers share the weights, each is called with all of them.
            if weight.grad is None or id(weight) not in rates:
                continue
            if self.through == "gradient":
                factor = self._of_gradient(optimizer, weight, ascending=id(weight) in ascending)
                target = weight.grad
            else:
                factor = self._of_weight(optimizer, weight, rates[id(weight)])
                target = weight
            # Not by an index: how many entries the mask prunes, a GPU would have to be waited for.
            target.add_(apply_mask(weight, ~mask) * factor)

    def _of_gradient(self, optimizer: torch.optim.Optimizer, weight: Tensor, *, ascending: bool) -> float | Tensor:
        """The share of a masked-out weight that is added to its gradient."""
        scale = getattr(optimizer, "grad_scale", None)
        # A fused optimizer divides the gradient by the scale in its step, and this share of it with the rest.
        factor = self.rate if scale is None else self.rate * scale.to(weight.device)
        # An optimizer that goes up the gradient must still be made to shrink the weight.
        return -factor if ascending else factor

    def _of_weight(self, optimizer: torch.optim.Optimizer, weight: Tensor, rate: Any) -> float | Tensor:
        """The share of a masked-out weight that is added to itself, at the optimizer's learning rate.

        Raises:
            InvalidProblemError: the optimizer has no learning rate.
        """
        if rate is None:
            raise InvalidProblemError(
                f'MaskedDecay(through="weight") needs a learning rate, which {type(optimizer).__name__} does '
                'not have; use through="gradient"'
            )
        overflow = getattr(optimizer, "found_inf", None)
        # A step that is skipped must not decay either; the verdict stays on the device, so that nothing waits for it.
        factor: float | Tensor = -self.rate * rate
        return factor if overflow is None else factor * (1 - overflow.to(weight.device))


def learning_rates(optimizer: torch.optim.Optimizer) -> Mapping[int, Any]:
    """The learning rate of every parameter that an optimizer holds, by id; None where its optimizer has none."""
    return {id(parameter): group.get("lr") for group in optimizer.param_groups for parameter in group["params"]}
