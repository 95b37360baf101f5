"""What training can be given besides masks: pieces alone, the recipe, and the recipe with one piece more or less."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from tmask.nn import Periodic, transposable_recipe
from tmask.nn.mask.gradient import Gradient
from tmask.nn.recipes import HYSTERESIS, SMOOTHING

# [Mozaffari2025] adds adapters in the last 1 % of the steps.
LAZY = 0.99


@dataclass(frozen=True, slots=True)
class Levers:
    """One combination.

    Args:
        begin, ramp, tail: shares of the steps: dense before `begin`, the density falls during `ramp`, masks are dropped
            at `tail`, None for never. `baked`: the tail begins with the masked weights.
        hysteresis, smoothing, gradient: as in `tmask.nn.sparsify` and `Periodic`.
        decay: of masked-out weights: the task's own, one found from flip rates, or none.
        rank: of lazy low-rank adapters, 0 for none; estimates: 2:4 estimates of the output's gradient. Both are for
            linear layers, which the vision task has none of under masks.
        feed_forward: masks on the feed-forward layers of a transformer alone, as in [Hu2024].
    """

    begin: float = 0.0
    ramp: float = 0.0
    tail: float | None = None
    baked: bool = False
    hysteresis: float = 0.0
    smoothing: float = 0.0
    gradient: Gradient = "straight-through"
    decay: Literal["usual", "found", "none"] = "usual"
    rank: int = 0
    estimates: bool = False
    feed_forward: bool = False

    def schedule(self, steps: int, every: int) -> Periodic:
        """In steps, each phase from a renewal on."""
        begin, ramp, tail = (self._steps(share, steps, every) for share in (self.begin, self.ramp, self.tail or 0))
        if self.tail is not None:
            # Short trainings, as of tests, have fewer renewals than phases.
            tail = max(tail, begin + ramp + every)
            return Periodic(every, begin, None, ramp, tail, self.baked, self.gradient)
        return Periodic(every, begin, max(steps - 1, begin + ramp), ramp, gradient=self.gradient)

    @staticmethod
    def _steps(share: float, steps: int, every: int) -> int:
        return round(share * steps / every) * every


def _recipe(end: Literal["sparse", "dense"]) -> Levers:
    """What `tmask.nn.transposable` does, in shares: read off it, so that the benchmark is of what is shipped."""
    steps = 6000
    schedule = transposable_recipe(steps, end=end, every=1).schedule
    tail = None if schedule.dense_from is None else schedule.dense_from / steps
    return Levers(
        schedule.begin / steps, schedule.ramp / steps, tail, schedule.baked_tail, HYSTERESIS, SMOOTHING, decay="none"
    )


RECIPE = _recipe("sparse")
DENSE_END = _recipe("dense")
PLAIN = Levers()

ALONE = {
    "dense start": Levers(begin=RECIPE.begin),
    "gradual n": Levers(ramp=RECIPE.ramp),
    "dense end": Levers(tail=5 / 6),  # [Hu2024]
    "baked dense end": Levers(tail=5 / 6, baked=True),
    "hysteresis": Levers(hysteresis=HYSTERESIS),
    "smoothing": Levers(smoothing=SMOOTHING),
    "S-STE": Levers(smoothing=1.0),
    "no decay": Levers(decay="none"),
    "found decay": Levers(decay="found"),
    "masked gradient": Levers(gradient="masked"),
    "low rank": Levers(rank=8),
    "estimates": Levers(estimates=True),
}
WITHOUT = {
    "recipe - dense start": dataclasses.replace(RECIPE, begin=0.0),
    "recipe - gradual n": dataclasses.replace(RECIPE, ramp=0.0),
    "recipe - hysteresis": dataclasses.replace(RECIPE, hysteresis=0.0),
    "recipe - smoothing": dataclasses.replace(RECIPE, smoothing=0.0),
    "recipe + decay": dataclasses.replace(RECIPE, decay="usual"),
    "recipe + low rank": dataclasses.replace(RECIPE, rank=8),
    "recipe + estimates": dataclasses.replace(RECIPE, estimates=True),
}
FEED_FORWARD = {
    "recipe, feed-forward": dataclasses.replace(RECIPE, feed_forward=True),
    "recipe, dense end, feed-forward": dataclasses.replace(DENSE_END, feed_forward=True),
}
LEVERS = {"": PLAIN, "recipe": RECIPE, "recipe, dense end": DENSE_END, **FEED_FORWARD, **ALONE, **WITHOUT}


def needs_linear_layers(name: str) -> bool:
    """Whether a combination acts on the layers of transformers alone."""
    levers = LEVERS[name]
    return bool(levers.rank or levers.estimates or levers.feed_forward)
