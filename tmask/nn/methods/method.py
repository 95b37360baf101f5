"""The interface of a method: what it writes (`_prune`), and what is written once around it (`prune`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.judging.worth import Worth
from tmask.nn.methods.goal import DAMPING, SHRINKAGE, Goal, goal_of
from tmask.nn.methods.problem import Problem
from tmask.nn.methods.refit import Refit
from tmask.nn.methods.settings import not_negative, positive


@dataclass(frozen=True, slots=True)
class Found:
    """A method's own answer.

    Args:
        mask: (R, C) bool.
        weight: (R, C); what stands off the mask is dropped.
        worth, solver: of the mask, in the scores that decided it.
    """

    mask: Tensor
    weight: Tensor
    worth: Worth
    solver: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """A pruned layer.

    Args:
        mask: (R, C) bool, True = kept.
        weight: (R, C), of the dense weight's dtype and device; +0.0 off the mask.
        worth: what the mask keeps of the scores that decided it, and what is proven of the best mask.
        solver: that found the mask.
        error: relative squared error of the layer's outputs, see `Problem.error`.
    """

    mask: Tensor = field(repr=False)
    weight: Tensor = field(repr=False)
    worth: Worth
    solver: str
    error: float | None


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Prunes a layer. A subclass is a frozen dataclass whose fields are its settings.

    Args:
        damping: share of the mean square of all inputs that is added to the diagonal of their moments, above 0.
        shrinkage: share of each input's own mean square that is added as well: how far the calibration data's
            correlations among inputs are mistrusted.
        refit: least squares on the support at the end; True for its default settings, False for none.
    """

    damping: float = DAMPING
    shrinkage: float = SHRINKAGE
    refit: Refit | bool = True

    name: ClassVar[str]

    def __post_init__(self) -> None:
        positive("damping", self.damping)
        not_negative("shrinkage", self.shrinkage)
        if not isinstance(self.refit, Refit | bool):
            raise InvalidProblemError(f"refit {self.refit!r} must be a Refit, True or False")

    @abstractmethod
    def _prune(self, problem: Problem, goal: Goal) -> Found:
        """The mask and weights on it, for a problem that was checked and the goal that follows from it."""

    @torch.no_grad()
    def prune(self, problem: Problem) -> Pruned:
        """The layer, pruned.

        Raises:
            InvalidProblemError: damping too small for inputs that depend on one another; and what the solver raises.
        """
        goal = goal_of(problem, self.damping, self.shrinkage)
        found = self._prune(problem, goal)
        weight = torch.where(found.mask, found.weight, 0)  # a product would leave -0.0, nonzero to some compressors
        if self.refit:
            settings = self.refit if isinstance(self.refit, Refit) else Refit()
            weight = settings(goal, weight, found.mask)
        if not bool(torch.isfinite(weight).all()):
            raise InvalidProblemError(
                f"method {self.name!r} came to weights that are not finite; weights and moments of this size are too "
                f"much for {weight.dtype}"
            )
        return Pruned(found.mask, weight, found.worth, found.solver, problem.error(weight))
