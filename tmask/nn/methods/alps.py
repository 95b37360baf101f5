"""ALPS: a second look at the support, by ADMM on the layer's error, with an exact projection at every step.

Minimise tr (W - G) H' (W - G)^T over W on an allowed mask, as: W = B without a mask, D on one, B = D by a multiplier V
and a penalty rho that grows until the support stands still:

    B = (G H' - V + rho D) (H' + rho I)^-1,   D = B + V / rho on the mask that keeps the most of its squares,
    V = V + rho (B - D)

in weights scaled so that H' has ones on its diagonal. The projection is `Support.project`: for transposable masks
proven optimal at every step with an exact solver, and started from the last one's prices.

Source: [Meng2024]. What differs: one Cholesky inverse for each value of rho in place of one eigendecomposition, so that
a step is one product of (R, C) and (C, C); rho grows more slowly; and the support must stand still for longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tmask.nn.methods.goal import Goal, inverse_of
from tmask.nn.methods.method import Found, Method
from tmask.nn.methods.problem import Problem
from tmask.nn.methods.settings import at_least, positive


@dataclass(frozen=True, kw_only=True)
class Alps(Method):
    """ADMM with a growing penalty; the weights that it ends with are only where the refit starts.

    Args:
        penalty: rho to begin with, where H' has ones on its diagonal.
        every: steps between two values of rho.
        growth: its factors: where the share of the support that changed since the last value is above the first of
            `changes`, above the second, and else. The paper's are 1.3, 1.2 and 1.1: 42 steps a layer in place of 69 on
            layers of SmolLM2-135M at transposable 2:4, and 1.4 % more error.
        changes: see `growth`.
        patience: values of rho through which the support must stand still at the end. The paper's is 1, which stops
            too early on layers of few weights, where a few steps without a change are no sign.
        steps: at most.

    Cost: R C^2 multiplications and a projection each step, C^3 for each value of rho.
    """

    penalty: float = 0.1
    every: int = 3
    growth: tuple[float, float, float] = (1.15, 1.1, 1.05)
    changes: tuple[float, float] = (0.1, 0.005)
    patience: int = 3
    steps: int = 500

    name: ClassVar[str] = "alps"

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        positive("penalty", self.penalty)
        at_least("every", self.every, 1)
        at_least("patience", self.patience, 1)
        at_least("steps", self.steps, 1)
        for factor in self.growth:
            positive("growth - 1", factor - 1)
        for change in self.changes:
            positive("changes", change)

    def _prune(self, problem: Problem, goal: Goal) -> Found:
        scaled, support = goal.scaled(), problem.support
        target = scaled.weight @ scaled.hessian
        rho, inverse = self.penalty, _inverse(scaled.hessian, self.penalty)
        shifted = scaled.weight  # B + V / rho
        found = support.project(shifted.square(), certify=False)
        mask = found.mask
        multiplier = torch.zeros_like(shifted)
        kept = torch.where(mask, shifted, 0)
        still = 0
        for step in range(1, self.steps + 1):
            shifted = target.sub(multiplier).add_(kept, alpha=rho) @ inverse
            shifted.add_(multiplier, alpha=1 / rho)
            found = support.project(shifted.square(), found, certify=False)
            kept = torch.where(found.mask, shifted, 0)
            multiplier = shifted.sub(kept).mul_(rho)
            if step % self.every == 0:
                changed = int((found.mask != mask).sum()) / (2 * max(1, int(mask.sum())))
                still = still + 1 if changed == 0 else 0
                if still == self.patience:
                    break
                mask = found.mask
                rho *= self._growth(changed)
                inverse = _inverse(scaled.hessian, rho)
        proven = support.project(shifted.square(), found)
        return Found(proven.mask, shifted / goal.scale(), proven.worth, proven.solver)

    def _growth(self, changed: float) -> float:
        fast, medium, slow = self.growth
        much, some = self.changes
        return fast if changed > much else medium if changed > some else slow


def _inverse(hessian: Tensor, rho: float) -> Tensor:
    """(H + rho I)^-1."""
    added = hessian.clone().T  # the same, and where LAPACK writes its result without a copy
    added.diagonal().add_(rho)
    return inverse_of(added, in_place=True)
