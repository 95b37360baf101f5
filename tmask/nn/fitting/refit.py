"""How a layer is given a mask and its weights become those on it, and the settings of that."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

import torch
from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.gram import Gram
from tmask.nn.fitting.fit import Fitted, Plan
from tmask.nn.fitting.layer_masks import find_mask
from tmask.nn.fitting.least_squares import adam, fold_means, least_squares
from tmask.nn.fitting.scores import Score, evaluate
from tmask.solving.solver import Solver

Refit = Literal["least-squares", "adam", "none"]
# Of Adam, as in [Hubara2021].
STEPS = 1000
LEARNING_RATE = 1e-3
REFITS: tuple[Refit, ...] = ("least-squares", "adam", "none")


@dataclass(frozen=True, slots=True)
class Refitting:
    """From the weights of a layer to those on a mask."""

    method: Refit
    damping: float
    fold: bool
    steps: int = STEPS
    learning_rate: float = LEARNING_RATE

    def __call__(self, plan: Plan, gram: Gram, weight: Tensor, mask: Tensor) -> Tensor:
        start = weight * mask
        if self.fold and plan.pattern is not None:
            folded = fold_means(weight, mask, plan.pattern.m, plan.layer.view.positions)
            better = gram.errors(folded) < gram.errors(start)
            start = torch.where(better[:, :, None], folded, start)
        if self.method == "least-squares":
            return least_squares(gram, start, mask, self.damping)
        if self.method == "adam":
            return adam(gram, start, mask, self.steps, self.learning_rate)
        return start


@dataclass(frozen=True, slots=True)
class MaskAndRefit:
    """AdaPrune's way with a layer: a mask by a score, then a refit on it."""

    score: Score
    solver: Solver | str
    certify: bool
    refit: Refitting

    def __call__(self, plan: Plan, gram: Gram, free: Gram, weight: Tensor) -> Fitted:
        assert plan.pattern is not None
        scores = evaluate(self.score, weight, free if self.score.centred else gram, self.refit.damping)
        found = find_mask(plan.layer.view, scores, plan.pattern, plan.transposable, self.solver, self.certify)
        return Fitted(self.refit(plan, free, weight, found.mask), found)


def check_settings(method: str, damping: float, steps: int = STEPS, learning_rate: float = LEARNING_RATE) -> None:
    """Refuse what cannot be meant, or would be ignored.

    Raises:
        InvalidProblemError: says what.
    """
    if method not in REFITS:
        raise InvalidProblemError(f"method {method!r}: choose one of {', '.join(REFITS)}")
    if not _is_number(damping) or not 0 <= damping < float("inf"):
        raise InvalidProblemError(f"damping {damping!r} must be a number, at least 0")
    if not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1:
        raise InvalidProblemError(f"steps {steps!r} must be a whole number, at least 1")
    if not _is_number(learning_rate) or not 0 < learning_rate < float("inf"):
        raise InvalidProblemError(f"learning_rate {learning_rate!r} must be a number above 0")
    if method != "adam" and (steps, learning_rate) != (STEPS, LEARNING_RATE):
        raise InvalidProblemError(f"steps and learning_rate are of Adam; method {method!r} would ignore them")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
