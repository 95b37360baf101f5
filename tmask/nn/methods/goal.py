"""What a layer's weights are to come near, and in what measure: the quadratic that every method minimises.

The error of weights W, with a penalty that keeps weights near the dense ones along directions of which the inputs say
little, is

    ||X W^T - Y||^2 / S + sum over inputs j of lambda_j ||w_j - w0_j||^2  =  tr (W - G) H' (W - G)^T + a constant,

    H' = H + diag(lambda),    lambda_j = damping * mean diagonal of H + shrinkage * H_jj.

With Y = X W0^T, what the dense layer gives on the same inputs, G = W0. With Y = X_dense W0^T, what it gives in the
dense model, G = (W0 C^T + W0 diag(lambda)) H'^-1, C = X^T X_dense / S.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.methods.problem import AT_ONCE, Problem

# Of `Method`: what came nearest to the dense outputs on text that was not used (docs/reference/pruning-methods.md).
DAMPING, SHRINKAGE = 0.001, 0.1
# The least damping: an input that is always 0 must have something on its diagonal.
_FLOOR = 1e-9


@dataclass(frozen=True, slots=True)
class Goal:
    """The quadratic tr (W - G) H' (W - G)^T.

    Args:
        weight: (R, C) G.
        hessian: (C, C) H', positive definite.
    """

    weight: Tensor
    hessian: Tensor

    def excess(self, weight: Tensor) -> Tensor:
        """(R,) float64: the quadratic at W, for each output."""
        change = weight.double() - self.weight.double()
        return ((change @ self.hessian.double()) * change).sum(1)

    def scale(self) -> Tensor:
        """(C,) roots of the diagonal of H': weights times these are to be compared across inputs."""
        return self.hessian.diagonal().sqrt()

    def scaled(self) -> Goal:
        """The same in weights times `scale()`, where H' has ones on its diagonal."""
        scale = self.scale()
        return Goal(self.weight * scale, self.hessian / scale[:, None] / scale)

    def better(self, start: Tensor, found: Tensor) -> Tensor:
        """Row by row the one of two weights where the quadratic is smaller."""
        # The difference of the two values as one product: the values themselves agree in all digits of a float32.
        change = found - start
        gain = ((change @ self.hessian) * (found - self.weight + start - self.weight)).sum(1, keepdim=True)
        return torch.where(gain < 0, found, start)


def goal_of(problem: Problem, damping: float = DAMPING, shrinkage: float = SHRINKAGE) -> Goal:
    """The goal of a problem.

    Raises:
        InvalidProblemError: damping too small to make up for inputs that depend on one another.
    Cost: C^2; with `cross` C^3 + R C^2.
    """
    squares = problem.moments.diagonal()
    mean = float(squares.mean())
    added = shrinkage * squares + max(damping, _FLOOR) * (mean if mean > 0 else 1.0)
    hessian = problem.moments + torch.diag(added)
    if problem.cross is None:
        return Goal(problem.weight, hessian)
    # In float64: the least directions of the inputs decide here, and a float32 has lost them. In parts, since a whole
    # matrix of moments in float64 beside the others would be the most memory that pruning takes.
    dense = problem.weight.double()
    products = [dense @ part.double().T for part in torch.split(problem.cross, AT_ONCE)]
    right = torch.cat(products, 1).addcmul_(dense, added.double())
    del dense, products
    # What is symmetric may be factorised in its own place, if it lies as LAPACK has it.
    solved = torch.cholesky_solve(right.T, factor_of(hessian.to(torch.float64, copy=True).T, in_place=True))
    return Goal(solved.T.to(problem.weight.dtype).contiguous(), hessian)


def factor_of(matrix: Tensor, in_place: bool = False) -> Tensor:
    """Lower Cholesky factors of (..., C, C); in the place of the matrix, if it may be written over.

    Raises:
        InvalidProblemError: one is not positive definite.
    """
    lower: Tensor
    out = (matrix, torch.empty(matrix.shape[:-2], dtype=torch.int32, device=matrix.device)) if in_place else None
    lower, failed = torch.linalg.cholesky_ex(matrix, out=out)
    if bool(failed.any()):
        raise InvalidProblemError(
            "moments are singular: some inputs are combinations of others, and damping is too small to part them. Give "
            "more or more varied data, or more damping, which keeps weights near the dense ones where the "
            "data say nothing"
        )
    return lower


def inverse_of(matrix: Tensor, in_place: bool = False) -> Tensor:
    """The inverse of a positive definite matrix; as `factor_of`."""
    lower = factor_of(matrix, in_place)
    inverse: Tensor = torch.cholesky_inverse(lower, out=lower if in_place else None)
    return inverse
