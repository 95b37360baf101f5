"""Gram matrices made safe to factorise: damped, checked for samples enough, and refused where they are singular.

The damping lambda is a share of the mean diagonal of X^T X: in least squares, the score `obs` and SparseGPT alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.gram import Gram

# The largest ratio of pivots (squared) in a Cholesky factor that leaves some digits of float64.
_CONDITION = 1e13


def damping_of(xx: Tensor, damping: float) -> Tensor:
    """(G,) lambda: this share of the mean diagonal of (G, C, C)."""
    return damping * xx.diagonal(dim1=1, dim2=2).mean(1)


def damped(xx: Tensor, damping: float) -> Tensor:
    """X^T X + lambda I; an input that is always 0 gets 1 on the diagonal where lambda is 0 too."""
    added = xx + torch.diag_embed(damping_of(xx, damping)[:, None].expand(xx.shape[:2]))
    return decouple_dead(added)


def decouple_dead(matrix: Tensor) -> Tensor:
    """(B, C, C) with 1 where the diagonal is 0, which would make it singular.

    An input that is always 0 multiplies nothing, and its row and column hold zeros: the 1 changes no other solution.
    """
    dead = matrix.diagonal(dim1=1, dim2=2) <= 0
    return matrix + torch.diag_embed(dead.to(matrix.dtype))


def check_samples(gram: Gram, weights: int, damping: float) -> None:
    """Return unless there are fewer samples than weights to fit, and nothing else to decide them.

    Raises:
        InvalidProblemError: says how many are needed.
    """
    # The mean that was taken off has used up one sample.
    least = weights + gram.means
    if damping == 0 and gram.samples < least:
        free = " and the mean" if gram.means else ""
        raise InvalidProblemError(
            f"{gram.samples} samples are too few to fit {weights} weights{free} for each output; give calibration data "
            f"with at least {least} samples (rows, or output positions of a convolution), better ten times as many, or "
            "damping > 0, which keeps the weights near their start along directions that the data do not show"
        )


def invert(matrix: Tensor) -> Tensor:
    """Inverses of symmetric positive definite (B, C, C).

    Raises:
        InvalidProblemError: one is singular.
    """
    inverse: Tensor = torch.cholesky_inverse(factor(matrix))
    return inverse


def factor(matrix: Tensor) -> Tensor:
    """Cholesky factors (lower) of (B, C, C).

    Raises:
        InvalidProblemError: one is singular, or so near to it that no digit of a solution could be trusted.
    """
    lower: Tensor
    lower, info = torch.linalg.cholesky_ex(matrix)
    pivots = lower.diagonal(dim1=1, dim2=2).square()
    # In units of the diagonal before elimination, so that inputs of different size do not look singular.
    lost = (matrix.diagonal(dim1=1, dim2=2) / pivots).amax() if pivots.numel() else torch.tensor(1.0)
    # Written with `not`, so that NaN is refused too.
    if bool(info.any()) or not float(lost) < _CONDITION:
        raise InvalidProblemError(
            "its Gram matrix is singular: some inputs are combinations of others on the calibration data. Give more "
            "or more varied data, or damping > 0 (0.01, say), which keeps the weights near their start along "
            "directions that the data do not show"
        )
    return lower
