"""Refit the kept weights of a layer to the outputs that it had, exactly.

Each output's weights w on its support S minimise

    ||Y - X_S w||^2 + lambda ||w - w0||^2,   lambda = damping * mean diagonal of X^T X

so (X_S^T X_S + lambda I) w = X_S^T Y + lambda w0: one Cholesky factorisation for each output, many at once. Why the
damping draws to the start w0, and not to zero: docs/decisions/0005.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tmask.nn.calibration.gram import Gram
from tmask.nn.fitting.cholesky import check_samples, damping_of, decouple_dead, factor

# Numbers in the matrices that are factorised at once: 256 MB in float64.
_BATCH = 1 << 25


def least_squares(gram: Gram, start: Tensor, mask: Tensor, damping: float) -> Tensor:
    """The weights (G, R, C) on the mask that minimise the error plus damping; 0 elsewhere.

    Args:
        gram: sums of the layer's data.
        start: (G, R, C) float64, 0 off the mask.
        mask: (G, R, C) bool, any number kept in each row.
        damping: >= 0, see above.
    Raises:
        InvalidProblemError: a singular Gram matrix, or fewer samples than weights kept in a row, with damping 0.
    Cost: R k^3 / 3 for k weights kept in a row, k^2 numbers a row at once in batches of 256 MB.
    """
    most = int(mask.sum(2).max())
    check_samples(gram, most, damping)
    if most == 0:
        return torch.zeros_like(start)
    solution = torch.zeros_like(start)
    strengths = damping_of(gram.xx, damping)
    # The kept columns of each row first, in their order; what pads a short row is decoupled in `_solve`.
    order = mask.to(torch.int8).argsort(dim=2, descending=True, stable=True)[:, :, :most]  # (G, R, k)
    per_batch = max(1, _BATCH // most**2)
    for group in range(len(start)):
        for rows in torch.split(torch.arange(start.shape[1], device=start.device), per_batch):
            columns = order[group, rows]  # (r, k)
            kept = mask[group, rows].gather(1, columns)
            begin = start[group, rows]
            # Solved for the change from the start: what rounding leaves in directions without data is 0, not noise.
            target = gram.xy[group].T[rows] - (begin[:, None, :] @ gram.xx[group])[:, 0]  # (r, C)
            change = _solve(gram.xx[group], target.gather(1, columns), columns, kept, strengths[group])
            values = (begin.gather(1, columns) + change) * kept
            solution[group, rows] = solution[group, rows].scatter(1, columns, values)
    # Rounding can leave a row above its start, where that was the optimum already.
    return gram.better_rows(start, solution)


def _solve(xx: Tensor, right: Tensor, columns: Tensor, kept: Tensor, strength: Tensor) -> Tensor:
    """Solutions (r, k) of each row's own system, cut out of one matrix (C, C).

    Args:
        xx: X^T X.
        right: (r, k) right-hand sides.
        columns: (r, k) of xx that make up each row's matrix.
        kept: (r, k) bool, False for columns that only pad the row.
        strength: lambda, which is added to the diagonal.
    """
    real = kept.to(xx.dtype)
    matrix = xx[columns[:, :, None], columns[:, None, :]] * real[:, :, None] * real[:, None, :]  # (r, k, k)
    matrix.diagonal(dim1=1, dim2=2).add_(strength * real + (1 - real))
    solved: Tensor = torch.cholesky_solve((right * real)[:, :, None], factor(decouple_dead(matrix)))[:, :, 0]
    return solved
