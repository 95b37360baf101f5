"""How a layer is given a mask and its weights become those on it, and the settings of that."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, get_args

from torch import Tensor

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.gram import Gram
from tmask.nn.fitting.adam import adam
from tmask.nn.fitting.fit import Fitted, Plan
from tmask.nn.fitting.folding import fold_means
from tmask.nn.fitting.layer_masks import MaskSearch
from tmask.nn.fitting.least_squares import least_squares
from tmask.nn.fitting.scores import NamedScore, importances

RefitMethod = Literal["least-squares", "adam", "none"]
# As in SparseGPT [Frantar2023]; a tenth of it does no better in AdaPrune, and worse with few data (docs: pruning).
DAMPING = 1e-2
# Of Adam, as in [Hubara2021].
STEPS = 1000
LEARNING_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Refitting:
    """From the weights of a layer to those on a mask.

    Args:
        method: "none" for the start itself.
        damping: of least squares, and of the scores and sweeps that invert the same matrix.
        fold: start from folded means, where that is better.
        steps, learning_rate: of Adam.
    Raises:
        InvalidProblemError: a setting that cannot be meant, or would be ignored.
    """

    method: RefitMethod
    damping: float
    fold: bool
    steps: int = STEPS
    learning_rate: float = LEARNING_RATE

    def __post_init__(self) -> None:
        if self.method not in get_args(RefitMethod):
            raise InvalidProblemError(f"method {self.method!r}: choose one of {', '.join(get_args(RefitMethod))}")
        if not _is_number(self.damping) or not 0 <= self.damping < float("inf"):
            raise InvalidProblemError(f"damping {self.damping!r} must be a number, at least 0")
        if not isinstance(self.steps, Integral) or isinstance(self.steps, bool) or self.steps < 1:
            raise InvalidProblemError(f"steps {self.steps!r} must be a whole number, at least 1")
        if not _is_number(self.learning_rate) or not 0 < self.learning_rate < float("inf"):
            raise InvalidProblemError(f"learning_rate {self.learning_rate!r} must be a number above 0")
        # Told by their defaults: given as they are by default, they change nothing, and are let pass.
        if self.method != "adam" and (self.steps, self.learning_rate) != (STEPS, LEARNING_RATE):
            raise InvalidProblemError(f"steps and learning_rate are of Adam; method {self.method!r} would ignore them")

    def __call__(self, plan: Plan, gram: Gram, weight: Tensor, mask: Tensor) -> Tensor:
        start = weight * mask
        if self.fold and plan.pattern is not None:
            folded = fold_means(weight, mask, plan.pattern.m, plan.layer.view.positions)
            # Folding is exact for equal inputs alone; for others it can do harm.
            start = gram.better_rows(folded, start)
        if self.method == "least-squares":
            return least_squares(gram, start, mask, self.damping)
        if self.method == "adam":
            return adam(gram, start, mask, self.steps, self.learning_rate)
        return start


@dataclass(frozen=True, slots=True)
class MaskAndRefit:
    """AdaPrune's way with a layer: a mask by a score, then a refit on it."""

    score: NamedScore
    search: MaskSearch
    refit: Refitting

    def __call__(self, plan: Plan, gram: Gram, free: Gram, weight: Tensor) -> Fitted:
        assert plan.pattern is not None
        # The mask by the sums that the score is meant for, the refit always by those that are free of the mean.
        scores = importances(self.score, weight, free if self.score.centred else gram, self.refit.damping)
        found = self.search.find(scores, weight, plan.layer.view.tiled_shape, plan.pattern)
        return Fitted(self.refit(plan, free, weight, found.mask), found)


# The abstract types, which take numpy's numbers as well as Python's.
def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
