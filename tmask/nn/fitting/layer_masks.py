"""The mask of one layer, by any solver, or along the inputs alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.calibration.linear_view import LinearView
from tmask.solving.api import solve
from tmask.solving.solver import Solver


@dataclass(frozen=True, slots=True)
class FoundMask:
    """A mask with its worth.

    Args:
        mask: (G, R, C) bool, True = kept.
        retained: share of the score that is kept.
        optimality_gap: proven, 0 for plain masks (which are the best by construction), None if not certified.
        solver: that found it.
    """

    mask: Tensor
    retained: float
    optimality_gap: float | None
    solver: str


def check_plain(transposable: bool, solver: Solver | str, certify: bool = True) -> None:
    """Refuse what would be ignored: plain masks are the best by construction.

    Raises:
        InvalidProblemError: a solver, or certify=False, for masks that are not transposable.
    """
    if transposable:
        return
    if solver != "auto":
        raise InvalidProblemError(
            f"solver {solver!r} finds transposable masks; for plain ones, which need none, leave it out"
        )
    if not certify:
        raise InvalidProblemError("certify is of transposable masks; leave it out: plain ones are the best there are")


def find_mask(
    view: LinearView, scores: Tensor, pattern: Pattern, transposable: bool, solver: Solver | str, certify: bool
) -> FoundMask:
    """The mask that keeps the most of scores (G, R, C)."""
    values = view.tensor(scores).cpu().numpy()
    if not transposable:
        kept = plain_mask(values, pattern)
        total = float(values.sum())
        retained = float(values[kept].sum()) / total if total else 1.0
        return FoundMask(view.matrices(torch.from_numpy(kept)).to(scores.device), retained, 0.0, "largest")
    found = solve(values, pattern, solver, groups=view.groups, certify=certify)
    mask = view.matrices(torch.from_numpy(found.mask)).to(scores.device)
    return FoundMask(mask, found.retained, found.optimality_gap, found.solver)


def plain_mask(scores: npt.NDArray[np.floating], pattern: Pattern) -> npt.NDArray[np.bool_]:
    """Keep the n largest of every m consecutive inputs, for each output and kernel position; ties to the first.

    Args:
        scores: (outputs, inputs, *kernel), >= 0.
        pattern: n kept of every m; a group cut short at the end keeps at most n.
    Returns:
        bool, the shape of the scores.
    """
    moved = np.moveaxis(scores, 1, -1)  # (outputs, *kernel, inputs)
    inputs = moved.shape[-1]
    padded = np.full((*moved.shape[:-1], inputs + -inputs % pattern.m), -1.0)
    padded[..., :inputs] = moved
    grouped = padded.reshape(*moved.shape[:-1], -1, pattern.m)
    order = np.argsort(-grouped, axis=-1, kind="stable")
    kept = np.zeros(grouped.shape, np.bool_)
    np.put_along_axis(kept, order[..., : pattern.n], True, axis=-1)
    return np.ascontiguousarray(np.moveaxis(kept.reshape(padded.shape)[..., :inputs], -1, 1))
