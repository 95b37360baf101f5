"""The largest weights. Source: [Han2015]; [Hubara2021] for transposable masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tmask.nn.methods.goal import Goal
from tmask.nn.methods.method import Found, Method
from tmask.nn.methods.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Magnitude(Method):
    """Scores |G|; looks at no input. Cost: the solver's."""

    name: ClassVar[str] = "magnitude"

    def _prune(self, problem: Problem, goal: Goal) -> Found:
        found = problem.support.project(goal.weight.abs())
        return Found(found.mask, goal.weight, found.worth, found.solver)
