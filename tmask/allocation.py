"""Choose each layer's pattern under one budget for the whole model, so that the loss is least.

A multiple-choice knapsack: every layer takes one pattern, a pattern keeps its share n/m of the layer's weights, and all
layers together may keep at most the budget. Solved exactly by CP-SAT of OR-Tools [Perron2023].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tmask.api import solve
from tmask.errors import InvalidProblemError, TmaskError
from tmask.knapsack import choose
from tmask.pattern import Pattern
from tmask.solver import Solver

# Losses are rounded so that the largest of each layer sum to less than this power of two.
_BITS = 46

Losses = Mapping[str, Mapping[Pattern, float]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What one layer got: a pattern, its loss, the size of the layer."""

    layer: str
    pattern: Pattern
    loss: float
    size: int

    @property
    def kept(self) -> Fraction:
        """Weights that the pattern keeps: n/m of the layer's."""
        return Fraction(self.pattern.n, self.pattern.m) * self.size


@dataclass(frozen=True, slots=True)
class Allocation:
    """A pattern for each layer.

    Args:
        choices: in the order of the layers.
        budget: the density that was allowed.
        rounding: how far the loss can lie above the least possible, since losses were rounded for the solver.
    """

    choices: tuple[Choice, ...]
    budget: float
    rounding: float

    @property
    def patterns(self) -> dict[str, Pattern]:
        """By layer."""
        return {choice.layer: choice.pattern for choice in self.choices}

    @property
    def loss(self) -> float:
        """Of all layers."""
        return math.fsum(choice.loss for choice in self.choices)

    @property
    def density(self) -> float:
        """Share of all weights that is kept, at most the budget."""
        return float(sum(choice.kept for choice in self.choices) / sum(choice.size for choice in self.choices))

    def table(self) -> list[dict[str, Any]]:
        """A row for each layer: its size, the pattern chosen, density and loss."""
        return [
            {
                "layer": choice.layer,
                "size": choice.size,
                "pattern": str(choice.pattern),
                "density": choice.pattern.n / choice.pattern.m,
                "loss": choice.loss,
            }
            for choice in self.choices
        ]


def allocate(
    losses: Mapping[str, Mapping[Pattern, float] | Mapping[str, float]],
    sizes: Mapping[str, int],
    density: float | Fraction,
) -> Allocation:
    """The pattern for each layer that loses the least in total, with at most this share of all weights kept.

    Minimise the sum of the losses of the patterns chosen, one a layer, subject to
    sum of size * n / m <= density * sum of size. The budget is kept exactly, in whole numbers. Losses are rounded to
    2^-46 of the sum of each layer's largest, so the result is optimal up to `Allocation.rounding`.

    Args:
        losses: by layer and pattern; any measure that adds up over layers, such as `retained_losses`, or errors of
            reconstruction. Layers may offer different patterns.
        sizes: number of weights, by layer.
        density: from 0 to 1; of all the layers together.
    Raises:
        InvalidProblemError: no layers, layers without patterns or size, losses below 0 or not finite, one pattern
            given twice, a budget that cannot be met (the text says the least that can).
        SolverUnavailableError: OR-Tools is not installed.
        SolverFailedError: CP-SAT gave no answer.
    Cost: CP-SAT's, milliseconds for tens of layers.
    """
    table = _checked(losses, sizes)
    if isinstance(density, bool) or not isinstance(density, int | float | Fraction) or not 0 < density <= 1:
        raise InvalidProblemError(f"density {density!r}: must be a number above 0 and at most 1")
    # Weights kept, in units of one over the least common multiple of all m.
    unit = math.lcm(*(pattern.m for options in table.values() for pattern in options))
    kept = {name: {p: sizes[name] * p.n * (unit // p.m) for p in options} for name, options in table.items()}
    total = unit * sum(sizes[name] for name in table)
    # A float stands for all numbers nearest to it: 1/3 must allow 1:3, though the float is below it.
    allowed = density if isinstance(density, Fraction) else Fraction(min(math.nextafter(density, 2), 1))
    room = math.floor(allowed * total)
    least = sum(min(options.values()) for options in kept.values())
    if least > room:
        raise InvalidProblemError(
            f"density {float(density):g} cannot be met: with the sparsest pattern of every layer "
            f"{least / total:.6g} of the weights are kept; allow that, or offer sparser patterns"
        )
    exponent = _exponent(table)
    costs = {
        name: {p: round(math.ldexp(loss, exponent)) for p, loss in options.items()} for name, options in table.items()
    }
    chosen = choose(costs, kept, room)
    rounded = any(
        not math.ldexp(loss, exponent).is_integer() for options in table.values() for loss in options.values()
    )
    return Allocation(
        choices=tuple(Choice(name, pattern, table[name][pattern], sizes[name]) for name, pattern in chosen.items()),
        budget=float(density),
        # Half a unit a layer, in the sum of this answer as in that of the best.
        rounding=math.ldexp(len(chosen), -exponent) if rounded else 0.0,
    )


def retained_losses(
    weights: Mapping[str, Any],
    patterns: Iterable[Pattern | str],
    solver: Solver | str = "auto",
    *,
    groups: Mapping[str, int] | None = None,
) -> dict[str, dict[Pattern, float]]:
    """The score that each layer loses under each pattern: the sum of |weight| less what the mask keeps.

    With an exact solver these are the least losses there are; each is proven by the bound of its solution.

    Args:
        weights: numpy arrays or torch tensors, by layer.
        patterns: that every layer is offered.
        solver: as in `tmask.solve`.
        groups: of grouped convolutions, by layer.
    Raises:
        InvalidProblemError: no layers or patterns, groups of layers that are not there, weights that cannot be used.
        UnknownSolverError, SolverUnavailableError, SolverFailedError: as `tmask.solve`.
    Cost: one solution a layer and pattern.
    """
    parsed = list(dict.fromkeys(map(Pattern.parse, patterns)))
    if not weights or not parsed:
        raise InvalidProblemError("retained_losses needs at least one layer and one pattern")
    if unknown := sorted(set(groups or {}) - set(weights)):
        raise InvalidProblemError(f"groups are given for {', '.join(unknown)}, which are not among the layers")
    losses: dict[str, dict[Pattern, float]] = {}
    for name, weight in weights.items():
        losses[name] = {}
        for pattern in parsed:
            try:
                solution = solve(weight, pattern, solver, groups=(groups or {}).get(name, 1))
            except TmaskError as error:
                raise type(error)(f"layer {name!r}: {error}") from error
            losses[name][pattern] = max(0.0, solution.total - solution.objective)
    return losses


def _checked(losses: Mapping[str, Mapping[Pattern, float] | Mapping[str, float]], sizes: Mapping[str, int]) -> Losses:
    """The losses with their patterns read."""
    if not losses:
        raise InvalidProblemError("losses name no layer; give at least one")
    if missing := [name for name in losses if name not in sizes]:
        raise InvalidProblemError(f"sizes lack the layers {', '.join(missing)}")
    if extra := [name for name in sizes if name not in losses]:
        raise InvalidProblemError(f"losses lack the layers {', '.join(extra)}, which sizes have")
    table: dict[str, dict[Pattern, float]] = {}
    for name, options in losses.items():
        size = sizes[name]
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InvalidProblemError(f"layer {name!r}: size {size!r} must be a whole number of weights, at least 1")
        if not options:
            raise InvalidProblemError(f"layer {name!r}: no pattern to choose from")
        table[name] = {}
        for text, loss in options.items():
            pattern = Pattern.parse(text)
            if pattern in table[name]:
                raise InvalidProblemError(f"layer {name!r}: pattern {pattern} is given twice")
            value = float(loss)
            if not 0 <= value < math.inf:
                raise InvalidProblemError(f"layer {name!r}, pattern {pattern}: loss {value} must be finite and >= 0")
            table[name][pattern] = value
    return table


def _exponent(table: Losses) -> int:
    """Losses times two to this are rounded to whole numbers."""
    total = sum(max(options.values()) for options in table.values())
    if math.isinf(total):
        raise InvalidProblemError("the sum of the losses overflows float64; scale them down first")
    return _BITS - math.frexp(total)[1]
