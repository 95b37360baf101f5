"""The largest weights, what is removed folded into what is kept, then least squares. Source: [Hubara2021], AdaPrune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tmask.nn.methods.goal import Goal
from tmask.nn.methods.method import Found, Method
from tmask.nn.methods.problem import Problem


@dataclass(frozen=True, kw_only=True)
class AdaPrune(Method):
    """Scores |G|; the sum of a group's weights is kept where that brings an output nearer to the goal.

    The paper refits by 1000 steps of Adam; least squares give what these come to. Cost: the solver's, and R C^2.
    """

    name: ClassVar[str] = "adaprune"

    def _prune(self, problem: Problem, goal: Goal) -> Found:
        found = problem.support.project(goal.weight.abs())
        kept = torch.where(found.mask, goal.weight, 0)
        folded = fold(goal.weight, found.mask, problem.support.width)
        return Found(found.mask, goal.better(kept, folded), found.worth, found.solver)


def fold(weight: Tensor, mask: Tensor, width: int) -> Tensor:
    """The kept weights (R, C), each with an even share of those removed from its group of `width` inputs.

    Exact for inputs that are all equal.
    """
    rows, columns = weight.shape

    def grouped(matrix: Tensor) -> Tensor:
        return torch.nn.functional.pad(matrix, (0, -columns % width)).reshape(rows, -1, width)

    kept, values = grouped(mask.to(weight.dtype)), grouped(weight)
    removed = (values * (1 - kept)).sum(2, keepdim=True)
    folded = kept * (values + removed / kept.sum(2, keepdim=True).clamp_min(1))
    return folded.reshape(rows, -1)[:, :columns]
