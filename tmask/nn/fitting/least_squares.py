"""Refit the kept weights of a layer to the outputs that it had: exactly, or by Adam.

Each output's weights w on its support S minimise

    ||Y - X_S w||^2 + lambda ||w - w0||^2,   lambda = damping * mean diagonal of X^T X

so (X_S^T X_S + lambda I) w = X_S^T Y + lambda w0: one Cholesky factorisation for each output, many at once. The damping
pulls to the start w0, not to zero: directions of which the data say nothing stay as they were. At w0 the penalty is 0,
so the error of the solution is never above that of the start, whatever the damping.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.gram import Gram

# Numbers in the matrices that are factorised at once: 256 MB in float64.
_BATCH = 1 << 25
# The largest ratio of pivots (squared) in a Cholesky factor that leaves some digits of float64.
_CONDITION = 1e13


def damping_of(xx: Tensor, damping: float) -> Tensor:
    """(G,) lambda: this share of the mean diagonal of (G, C, C)."""
    return damping * xx.diagonal(dim1=1, dim2=2).mean(1)


def damped(xx: Tensor, damping: float) -> Tensor:
    """X^T X + lambda I; an input that is always 0 gets 1 on the diagonal where lambda is 0 too.

    Such an input multiplies nothing; the 1 decouples it from the others.
    """
    added = xx + torch.diag_embed(damping_of(xx, damping)[:, None].expand(xx.shape[:2]))
    dead = added.diagonal(dim1=1, dim2=2) <= 0
    return added + torch.diag_embed(dead.to(added.dtype))


def check_samples(gram: Gram, weights: int, damping: float) -> None:
    """Return unless there are fewer samples than weights to fit, and nothing else to decide them.

    Raises:
        InvalidProblemError: says how many are needed.
    """
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
    if bool(info.any()) or not float(lost) < _CONDITION:
        raise InvalidProblemError(
            "its Gram matrix is singular: some inputs are combinations of others on the calibration data. Give more "
            "or more varied data, or damping > 0 (0.01, say), which keeps the weights near their start along "
            "directions that the data do not show"
        )
    return lower


def fold_means(weight: Tensor, mask: Tensor, m: int, positions: int) -> Tensor:
    """The kept weights, each with its share of those that were removed from its group; (G, R, C) in and out.

    A group is m consecutive inputs of one output at one kernel position. The sum of its weights stays as it was, spread
    evenly over those that are kept: exact for inputs that are all equal.

    Source: [Hubara2021], AdaPrune.
    """
    groups, rows, cols = weight.shape
    channels = cols // positions
    padding = -channels % m

    def grouped(matrices: Tensor) -> Tensor:
        by_channel = matrices.reshape(groups, rows, channels, positions)
        padded = torch.nn.functional.pad(by_channel, (0, 0, 0, padding))
        return padded.reshape(groups, rows, -1, m, positions)

    kept = grouped(mask.to(weight.dtype))
    values = grouped(weight)
    removed = (values * (1 - kept)).sum(3, keepdim=True)
    folded = kept * (values + removed / kept.sum(3, keepdim=True).clamp_min(1))
    return folded.reshape(groups, rows, channels + padding, positions)[:, :, :channels].reshape(weight.shape)


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
    solution = torch.zeros_like(start)
    if most == 0:
        return solution
    strengths = damping_of(gram.xx, damping)
    per_batch = max(1, _BATCH // most**2)
    # The kept columns of each row first, in their order; what pads a short row is decoupled below.
    order = mask.to(torch.int8).argsort(dim=2, descending=True, stable=True)[:, :, :most]  # (G, R, k)
    for group in range(len(start)):
        for rows in torch.split(torch.arange(start.shape[1], device=start.device), per_batch):
            columns = order[group, rows]  # (r, k)
            real = mask[group, rows].gather(1, columns).to(start.dtype)  # (r, k) 1 where kept, 0 where padding
            begin = start[group, rows].gather(1, columns)
            matrix = gram.xx[group][columns[:, :, None], columns[:, None, :]] * real[:, :, None] * real[:, None, :]
            matrix.diagonal(dim1=1, dim2=2).add_(strengths[group] * real + (1 - real))
            dead = matrix.diagonal(dim1=1, dim2=2) <= 0
            matrix.diagonal(dim1=1, dim2=2).add_(dead.to(matrix.dtype))
            # Solved for the change from the start: what rounding leaves in directions without data is 0, not noise.
            target = gram.xy[group].T[rows] - (start[group, rows, None, :] @ gram.xx[group])[:, 0]  # (r, C)
            right = target.gather(1, columns) * real
            change = torch.cholesky_solve(right[:, :, None], factor(matrix))[:, :, 0]
            values = (begin + change) * real
            solution[group, rows] = solution[group, rows].scatter(1, columns, values)
    return _better(gram, start, solution)


def adam(gram: Gram, start: Tensor, mask: Tensor, steps: int = 1000, learning_rate: float = 1e-3) -> Tensor:
    """The weights (G, R, C) that Adam reaches from the start, projected on the mask at every step.

    As AdaPrune of [Hubara2021], with 1000 steps at 1e-3, except that the gradient is that of all samples, through the
    Gram matrix, where the paper draws 50 cached inputs a step: no activations are held, and nothing is random.

    Args:
        gram, start, mask: as in `least_squares`.
        steps: of Adam.
        learning_rate: of the weights.
    Cost: R C^2 multiplications a step.
    """
    weight = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=learning_rate)
    scale = 2 / max(1, gram.samples)
    for _ in range(steps):
        with torch.no_grad():
            weight.grad = scale * (weight @ gram.xx - gram.xy.transpose(1, 2)) * mask
        optimizer.step()
    return _better(gram, start, weight.detach() * mask)


def _better(gram: Gram, start: Tensor, found: Tensor) -> Tensor:
    """Row by row, the start where it was better: what rounding, or a method without guarantees, may come to."""
    worse = gram.errors(found) > gram.errors(start)
    return torch.where(worse[:, :, None], start, found)
