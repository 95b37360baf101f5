"""The largest weights times the size of the input that they multiply. Source: [Sun2024]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tmask.nn.methods.goal import Goal
from tmask.nn.methods.method import Found, Method
from tmask.nn.methods.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Wanda(Method):
    """Scores |G| sqrt(diag H), so that a weight of an input that is always 0 counts for nothing. Cost: the solver's."""

    name: ClassVar[str] = "wanda"

    def _prune(self, problem: Problem, goal: Goal) -> Found:
        found = problem.support.project(goal.weight.abs() * problem.moments.diagonal().sqrt())
        return Found(found.mask, goal.weight, found.worth, found.solver)
