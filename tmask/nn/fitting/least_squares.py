"""RefitMethod the kept weights of a layer to the outputs that it had, exactly.

Each output's weights w on its support S minimise

    ||Y - X_S w||^2 + lambda ||w - w0||^2,   lambda = damping * mean diagonal of X^T X

so (X_S^T X_S + lambda I) w = X_S^T Y + lambda w0: one Cholesky factorisation for each output, many at once. Why the
damping draws to the start w0, and not to zero: docs/decisions/0005.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tmask.nn.calibration.gram import Gram
from tmask.nn.fitting.cholesky import check_samples, damped, factor
from tmask.nn.methods.refit import solve_kept


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
    hessian = damped(gram.xx, damping)
    solution = torch.empty_like(start)
    for group, begin in enumerate(start):
        # Solved for the change from the start: what rounding leaves in directions without data is 0, not noise.
        target = gram.xy[group].T - begin @ gram.xx[group]
        change = solve_kept(hessian[group], target, mask[group], factor)
        solution[group] = (begin + change) * mask[group]
    # Rounding can leave a row above its start, where that was the optimum already.
    return gram.better_rows(start, solution)
