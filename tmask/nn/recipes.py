"""Combinations of the pieces of sparse training that were measured to lose least, each as one call.

What each piece gives alone and taken away, with intervals over seeds: docs/how-to/training-recipe.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import Optimizer

from tmask.errors import InvalidProblemError
from tmask.nn.layers.rules import PatternRules
from tmask.nn.training.applying import sparsify
from tmask.nn.training.schedules import Periodic
from tmask.nn.training.sparsifier import Sparsifier

End = Literal["sparse", "dense"]

# Shares of all steps: dense before the first, then n falls to its target, and masks go at the last.
_BEGIN = {"sparse": 0.25, "dense": 0.10}
_RAMP = {"sparse": 0.25, "dense": 0.15}
_TAIL = 0.6
HYSTERESIS = 0.2
SMOOTHING = 0.5


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings behind `transposable`.

    Args:
        schedule, hysteresis, smoothing: as `tmask.nn.sparsify` takes them.
        steps: of the whole training.
    """

    schedule: Periodic
    hysteresis: float
    smoothing: float
    steps: int

    @property
    def share_at_target(self) -> float:
        """Share of the steps that run under the target pattern, which is all that sparse kernels can speed up."""
        arrival = self.schedule.begin + self.schedule.ramp
        last = self.steps if self.schedule.dense_from is None else self.schedule.dense_from
        return (last - arrival) / self.steps


def transposable_recipe(steps: int, *, end: End = "sparse", every: int = 40) -> Recipe:
    """The recipe for a training of so many steps.

    Args:
        steps: optimizer steps of the whole training, at least 8 times `every`.
        end: "sparse" ends with a sparse model; "dense" drops the masks for the last two fifths, in which pruned weights
            grow from 0.
        every: steps between renewals.
    Raises:
        InvalidProblemError: an unknown end, or too few steps for its phases.
    """
    if end not in get_args(End):
        raise InvalidProblemError(f"end must be one of {', '.join(get_args(End))}; got {end!r}")
    for name, value in (("steps", steps), ("every", every)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidProblemError(f"{name} must be an integer of at least 1, got {value!r}")
    if steps < 8 * every:
        raise InvalidProblemError(
            f"{steps} steps are fewer than 8 renewals, one every {every} steps, and the recipe's phases need as many; "
            f"give every={max(1, steps // 8)} or less, or train for longer"
        )
    # Masks change at renewals alone, so that phases begin and end at one.
    begin, ramp, tail = (round(share * steps / every) * every for share in (_BEGIN[end], _RAMP[end], _TAIL))
    if end == "dense":
        schedule = Periodic(every, begin, ramp=ramp, dense_from=tail, baked_tail=True)
    else:
        # A renewal after the last step would change masks that nothing trains any more.
        schedule = Periodic(every, begin, end=steps - 1, ramp=ramp)
    return Recipe(schedule, HYSTERESIS, SMOOTHING, steps)


def transposable(
    model: nn.Module,
    pattern: PatternRules = "2:4",
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None,
    steps: int,
    end: End = "sparse",
    every: int = 40,
    **others: Any,
) -> Sparsifier:
    """Train a model from scratch under transposable masks, by the recipe that lost least: one call before the loop.

    A dense start; n that falls to its target step by step, all of which are solved exactly; hysteresis at renewals;
    smooth masks; with end="dense" a dense tail that begins with the masked weights.

    Args:
        model, pattern, optimizer: as in `tmask.nn.sparsify`.
        steps, end, every: as in `transposable_recipe`.
        others: further arguments of `sparsify`, which may replace the recipe's own.
    Returns:
        The Sparsifier.
    Raises:
        InvalidProblemError: as `transposable_recipe` and `sparsify`.
    """
    recipe = transposable_recipe(steps, end=end, every=every)
    own: dict[str, Any] = {"schedule": recipe.schedule, "hysteresis": recipe.hysteresis, "smoothing": recipe.smoothing}
    return sparsify(model, pattern, optimizer=optimizer, **(own | others))
