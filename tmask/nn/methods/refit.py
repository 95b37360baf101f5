"""Least squares on the support: the kept weights that come nearest to the goal, the others being 0.

For each output, the kept weights minimise (w - g) H' (w - g)^T. By conjugate gradients, all outputs at once, in weights
scaled by the roots of the diagonal of H' (which is diagonal preconditioning); or by a Cholesky factorisation for each
output, which is exact and cheaper where few weights are kept.

Cost: R C^2 multiplications a step of conjugate gradients; R k^3 / 6 by Cholesky, for k weights kept in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.methods.goal import DAMPING, SHRINKAGE, Goal, factor_of, goal_of
from tmask.nn.methods.problem import Problem
from tmask.nn.methods.settings import at_least, choice, not_negative, positive

# Numbers in the matrices that are factorised at once: 128 MB in float32.
_BATCH = 1 << 25
# Steps that conjugate gradients mostly take, and what a multiplication costs in small factorisations beside one in a
# product of large matrices: for the choice between the two alone.
_TYPICAL_STEPS, _SMALL = 25, 4


@dataclass(frozen=True, slots=True)
class Refit:
    """How the kept weights are refitted.

    Args:
        by: "conjugate-gradients", "cholesky", or "auto" for whichever is estimated to be the faster.
        tolerance: conjugate gradients stop where the residual is this share of that of weights 0.
        steps: of conjugate gradients at most.
    """

    by: Literal["auto", "conjugate-gradients", "cholesky"] = "auto"
    tolerance: float = 1e-3
    steps: int = 100

    def __post_init__(self) -> None:
        choice("by", self.by, ("auto", "conjugate-gradients", "cholesky"))
        positive("tolerance", self.tolerance)
        at_least("steps", self.steps, 1)

    def __call__(self, goal: Goal, start: Tensor, mask: Tensor) -> Tensor:
        """Weights on the mask, no output's worse than the start's, which is 0 off the mask."""
        exact = self.by == "cholesky" or (self.by == "auto" and self._is_cheaper_exact(mask))
        scale = goal.scale()
        scaled = goal.scaled()
        if exact:
            found = _by_cholesky(scaled, start * scale, mask)
        else:
            found = _by_conjugate_gradients(scaled, start * scale, mask, self.tolerance, self.steps)
        return goal.better(start, torch.where(mask, found / scale, 0))

    def _is_cheaper_exact(self, mask: Tensor) -> bool:
        most = int(mask.sum(1).max())
        return _SMALL * most**3 / 6 < min(self.steps, _TYPICAL_STEPS) * mask.shape[1] ** 2


def refit(
    weight: Tensor,
    mask: Tensor,
    problem: Problem,
    settings: Refit | None = None,
    *,
    damping: float = DAMPING,
    shrinkage: float = SHRINKAGE,
) -> Tensor:
    """The best weights on a mask from anywhere, started from `weight` on it.

    Args:
        weight: (R, C) of the problem's dtype and device; what stands off the mask is ignored.
        mask: (R, C) bool, any number kept in each row.
        damping, shrinkage: as in `Method`.
    Returns:
        (R, C), +0.0 off the mask; no output's quadratic is above that of `weight` on the mask.
    Raises:
        InvalidProblemError: shapes or dtypes that do not fit, NaN in the weight.
    """
    dense = problem.weight
    if mask.shape != dense.shape or mask.dtype != torch.bool or mask.device != dense.device:
        raise InvalidProblemError(f"mask is {mask.dtype} {tuple(mask.shape)}; expected bool {tuple(dense.shape)}")
    if weight.shape != dense.shape or weight.dtype != dense.dtype or weight.device != dense.device:
        raise InvalidProblemError(
            f"weight is {weight.dtype} {tuple(weight.shape)}; expected {dense.dtype} {tuple(dense.shape)}"
        )
    if not bool(torch.isfinite(weight).all()):
        raise InvalidProblemError("weight holds NaN or infinite values")
    positive("damping", damping)
    not_negative("shrinkage", shrinkage)
    return (settings or Refit())(goal_of(problem, damping, shrinkage), torch.where(mask, weight, 0), mask)


def _by_conjugate_gradients(goal: Goal, start: Tensor, mask: Tensor, tolerance: float, steps: int) -> Tensor:
    """(R, C) in scaled weights; each row has its own step lengths."""
    kept = mask.to(start.dtype)
    weight = start.clone()
    residual = ((goal.weight - weight) @ goal.hessian).mul_(kept)
    enough = tolerance**2 * float((goal.weight @ goal.hessian).mul_(kept).square().sum())
    direction = residual.clone()
    square = residual.square().sum(1, keepdim=True)  # (R, 1)
    for _ in range(steps):
        if float(square.sum()) <= enough:
            break
        curved = (direction @ goal.hessian).mul_(kept)
        length = _ratio(square, (direction * curved).sum(1, keepdim=True))
        weight.addcmul_(length, direction)
        residual.addcmul_(length, curved, value=-1)
        before, square = square, residual.square().sum(1, keepdim=True)
        direction.mul_(_ratio(square, before)).add_(residual)
    return weight


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below, 0 where a row has converged and both are 0."""
    return torch.where(below > 0, above / below, 0)


def _by_cholesky(goal: Goal, start: Tensor, mask: Tensor) -> Tensor:
    """(R, C) in scaled weights."""
    return (start + solve_kept(goal.hessian, (goal.weight - start) @ goal.hessian, mask)) * mask


def solve_kept(
    hessian: Tensor, residual: Tensor, mask: Tensor, factor: Callable[[Tensor], Tensor] = factor_of
) -> Tensor:
    """Solutions (R, C) of H x = residual, row by row, on what each row keeps; 0 elsewhere.

    Args:
        hessian: (C, C) H.
        residual: (R, C) right-hand sides.
        factor: lower Cholesky factors of (r, k, k).
    """
    found = torch.zeros_like(residual)
    most = int(mask.sum(1).max())
    if most == 0:
        return found
    # The kept columns of each row first, in their order; what pads a short row is decoupled below.
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]  # (R, k)
    real = mask.gather(1, order).to(residual.dtype)  # (R, k)
    right = residual.gather(1, order) * real
    for rows in torch.split(torch.arange(len(residual), device=residual.device), max(1, _BATCH // most**2)):
        columns, keep = order[rows], real[rows]
        matrix = hessian[columns[:, :, None], columns[:, None, :]] * keep[:, :, None] * keep[:, None, :]
        matrix.diagonal(dim1=1, dim2=2).add_(1 - keep)
        solved = torch.cholesky_solve(right[rows, :, None], factor(matrix))[:, :, 0]
        found[rows] = found[rows].scatter(1, columns, solved * keep)
    return found
