"""When masks are found and at which density: small frozen dataclasses that answer two questions about a step.

A step is a count of optimizer steps: 0 before the first, k after the k-th.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError
from tmask.nn.mask.gradient import Gradient, check_gradient


class Schedule(ABC):
    """What a schedule answers. A subclass is a frozen dataclass whose fields are its settings."""

    gradient: Gradient

    @abstractmethod
    def renews_at(self, step: int) -> bool:
        """Whether masks are found anew after this step."""

    def bakes_at(self, step: int) -> bool:
        """Whether dense weights become the masked ones at this step, before its masks are found."""
        return False

    @abstractmethod
    def pattern_at(self, step: int, target: Pattern) -> Pattern | None:
        """The pattern in force at this step for layers that end with `target`; None for dense."""

    def settings(self) -> dict[str, Any]:
        """Name and settings in plain types, for checkpoints."""
        return {"name": type(self).__name__, **dataclasses.asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Frozen(Schedule):
    """Static: masks are found once, from the weights that the model has now, and stay.

    Args:
        gradient: "masked" (masked weights get no gradient) or "straight-through"; the effective weights and the loss
            are the same, but momentum, gradient norms and the dense master weights differ.
    Source: [Hubara2021], section 4, static masks from a pretrained model.
    """

    # What a frozen mask prunes never comes back: a gradient would move only what nobody reads.
    gradient: Gradient = "masked"

    def __post_init__(self) -> None:
        check_gradient(self.gradient)

    def renews_at(self, step: int) -> bool:
        return step == 0

    def pattern_at(self, step: int, target: Pattern) -> Pattern | None:
        return target


@dataclass(frozen=True)
class Periodic(Schedule):
    """Dynamic: masks are found anew from the dense master weights every so many steps.

    Renewals lie at begin, begin + every, begin + 2 * every, ...

    Args:
        every: steps between renewals.
        begin: the step of the first masks; the model is dense before it.
        end: the last step at which masks may be renewed, then they stay; None for no end.
        ramp: steps over which the density falls from 1 to n / m, beginning at `begin`; 0 for the target at once. The
            share of zeros s follows s * (1 - (1 - t)^3), t the share of the ramp that is behind; n is rounded up, to
            a pattern of the same m. Masks change at renewals only.
        dense_from: the step from which the masks are dropped and training goes on dense; None for never.
        baked_tail: whether the dense tail begins with the masked weights, so that pruned ones grow from 0 and the
            product does not change there; else with the dense master weights as they are by then.
        gradient: "straight-through" (masked weights learn and can come back) or "masked" (they cannot).
    Raises:
        InvalidProblemError: a setting out of range, or an end that comes before the ramp has reached the target.
    Source: [Hubara2021], section 4, every = 40; [Zhu2017], equation 1, for the ramp; [Hu2024] for
        the dense tail (there the last sixth of training).
    """

    every: int = 40
    begin: int = 0
    end: int | None = None
    ramp: int = 0
    dense_from: int | None = None
    baked_tail: bool = False
    gradient: Gradient = "straight-through"

    def __post_init__(self) -> None:
        check_gradient(self.gradient)
        self._check_ranges()
        self._check_sequence()

    def _check_ranges(self) -> None:
        for name, least in (("every", 1), ("begin", 0), ("ramp", 0), ("end", 0), ("dense_from", 1)):
            value = getattr(self, name)
            # Only the two that mean "never" may be left open.
            if value is None and name in ("end", "dense_from"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidProblemError(f"Periodic: {name} must be an integer of at least {least}, got {value!r}")

    def _check_sequence(self) -> None:
        """The ramp arrives, renewals end, the dense tail begins: in this order, or a setting would be ignored."""
        if self.baked_tail and self.dense_from is None:
            raise InvalidProblemError("Periodic: baked_tail=True needs dense_from, the step at which the tail begins")
        # The ramp arrives at the first renewal after its end, since masks change at renewals alone.
        arrival = self.begin + math.ceil(self.ramp / self.every) * self.every
        if self.end is not None and self.end < arrival:
            raise InvalidProblemError(
                f"Periodic: end={self.end} comes before step {arrival}, the renewal that reaches the pattern"
            )
        if self.dense_from is not None and self.dense_from <= arrival:
            raise InvalidProblemError(
                f"Periodic: dense_from={self.dense_from} must come after step {arrival}, the renewal that reaches the "
                "pattern"
            )
        if self.dense_from is not None and self.end is not None and self.end >= self.dense_from:
            raise InvalidProblemError(
                f"Periodic: end={self.end} must come before dense_from={self.dense_from}, where masks are dropped"
            )

    def renews_at(self, step: int) -> bool:
        # The last renewal drops the masks: to keep everything is a mask too, with figures of its own.
        if self.dense_from is not None and step >= self.dense_from:
            return step == self.dense_from
        if step < self.begin or (self.end is not None and step > self.end):
            return False
        return (step - self.begin) % self.every == 0

    def bakes_at(self, step: int) -> bool:
        return self.baked_tail and step == self.dense_from

    def pattern_at(self, step: int, target: Pattern) -> Pattern | None:
        if step < self.begin or (self.dense_from is not None and step >= self.dense_from):
            return None
        elapsed = (step - self.begin) // self.every * self.every  # from begin to the renewal in force
        if elapsed >= self.ramp:
            return target
        remaining = (1 - elapsed / self.ramp) ** 3
        kept = target.m - (target.m - target.n) * (1 - remaining)
        # Rounding errors of the cubic must not add an entry to a value that is an integer.
        return Pattern(max(target.n, math.ceil(kept - 1e-9)), target.m)
