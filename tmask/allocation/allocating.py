"""Choose each layer's pattern under one budget for the whole model, so that the loss is least.

A multiple-choice knapsack: every layer takes one pattern, each pattern keeps so many of the layer's weights, and all
layers together may keep at most the budget. Solved exactly by CP-SAT of OR-Tools [Perron2023].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

from tmask.allocation.budget import Losses, Size, checked, kept_of_size, number_of
from tmask.allocation.knapsack import choose
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError, TmaskError
from tmask.showing.cards import Card, Shown
from tmask.showing.numbers import amount, percent
from tmask.solving.api import solve
from tmask.solving.solver import Solver

# Losses are rounded so that the largest of each layer sum to less than this power of two. CP-SAT adds up all options in
# int64, so 46 bits leave room for thousands of patterns a layer.
_BITS = 46

# The most weights that each pattern keeps of each layer.
Shares = Mapping[str, Mapping[Pattern, Fraction]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What one layer got.

    Args:
        pattern: n kept of every m.
        loss: as it was given.
        size: number of weights.
        kept: the most of them that a mask of the pattern can keep.
    """

    layer: str
    pattern: Pattern
    loss: float
    size: int
    kept: Fraction


@dataclass(frozen=True, slots=True)
class Allocation(Shown):
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
                "density": float(choice.kept / choice.size),
                "loss": choice.loss,
            }
            for choice in self.choices
        ]

    def __repr__(self) -> str:
        return f"<Allocation: {len(self.choices)} layers, density {percent(self.density)}, loss {self.loss:.6g}>"

    def __str__(self) -> str:
        return self.card().text()

    def card(self) -> Card:
        """What a notebook shows: a row for each layer."""
        rows = [
            {
                "layer": choice.layer,
                "weights": amount(choice.size),
                "pattern": str(choice.pattern),
                "density": percent(float(choice.kept / choice.size)),
                "loss": f"{choice.loss:.6g}",
            }
            for choice in self.choices
        ]
        facts = {"density": percent(self.density), "allowed": percent(self.budget), "loss": f"{self.loss:.6g}"}
        return Card("A pattern for each layer", facts, rows)


def allocate(
    losses: Mapping[str, Mapping[Pattern, float] | Mapping[str, float]],
    sizes: Mapping[str, Size],
    density: float | Fraction,
    *,
    groups: Mapping[str, int] | None = None,
    layouts: Mapping[str, str] | None = None,
) -> Allocation:
    """The pattern for each layer that loses the least in total, with at most this share of all weights kept.

    Minimise the sum of the losses of the patterns chosen, one a layer, subject to
    sum of kept <= density * sum of size, in whole numbers. Of a shape, kept is the most that a transposable mask can
    keep: n/m where m divides rows and columns, and more where tiles are cut short, which may fill lines up to n. Of a
    number alone it is size * n / m. Losses are rounded to 2^-46 of the sum of each layer's largest, so the result is
    optimal up to `Allocation.rounding`.

    Args:
        losses: by layer and pattern; any measure that adds up over layers, such as `retained_losses`, or errors of
            reconstruction. Layers may offer different patterns.
        sizes: the shape of the weight, (rows, cols) or (Cout, Cin / groups, *kernel), by layer; or its number of
            weights, if m divides every side or masks are not transposable.
        density: from 0 to 1; of all the layers together.
        groups: of grouped convolutions, by layer, for layers with a shape.
        layouts: as in `tmask.solve`, by layer, where the shape leaves it open.
    Raises:
        InvalidProblemError: no layers, layers without patterns or size, losses below 0 or not finite, one pattern
            given twice, a budget that cannot be met (the text says the least that can).
        SolverUnavailableError: OR-Tools is not installed.
        SolverFailedError: CP-SAT gave no answer.
    Cost: CP-SAT's, milliseconds for tens of layers.
    """
    # All that can be wrong is looked at here, before OR-Tools is loaded.
    table = checked(losses, sizes)
    _check_names("groups", groups or {}, table)
    _check_names("layouts", layouts or {}, table)
    allowed = _allowed(density)
    shares = {
        name: {
            p: kept_of_size(name, sizes[name], p, (groups or {}).get(name, 1), (layouts or {}).get(name))
            for p in options
        }
        for name, options in table.items()
    }
    numbers = {name: number_of(sizes[name]) for name in table}
    most = allowed * sum(numbers.values())
    _check_least(shares, most, numbers, density)
    kept, room = _in_whole_units(shares, most)
    exponent = _exponent(table)
    chosen = choose(_rounded(table, exponent), kept, room)
    return Allocation(
        choices=tuple(
            Choice(name, pattern, table[name][pattern], numbers[name], shares[name][pattern])
            for name, pattern in chosen.items()
        ),
        budget=float(density),
        # Half a unit a layer, in the sum of this answer as in that of the best.
        rounding=0.0 if _is_exact(table, exponent) else math.ldexp(len(chosen), -exponent),
    )


def retained_losses(
    weights: Mapping[str, Any],
    patterns: Iterable[Pattern | str],
    solver: Solver | str = "auto",
    *,
    groups: Mapping[str, int] | None = None,
    layouts: Mapping[str, str] | None = None,
) -> dict[str, dict[Pattern, float]]:
    """The score that each layer loses under each pattern: the sum of |weight| less what the mask keeps.

    With an exact solver these are the least losses there are; each is proven by the bound of its solution.

    Args:
        weights: numpy arrays or torch tensors, by layer.
        patterns: that every layer is offered.
        solver: as in `tmask.solve`.
        groups: of grouped convolutions, by layer.
        layouts: as in `tmask.solve`, by layer.
    Raises:
        InvalidProblemError: no layers or patterns, groups of layers that are not there, weights that cannot be used.
        UnknownSolverError, SolverUnavailableError, SolverFailedError: as `tmask.solve`.
    Cost: one solution a layer and pattern.
    """
    parsed = list(dict.fromkeys(map(Pattern.parse, patterns)))
    if not weights or not parsed:
        raise InvalidProblemError("retained_losses needs at least one layer and one pattern")
    _check_names("groups", groups or {}, weights)
    _check_names("layouts", layouts or {}, weights)
    losses: dict[str, dict[Pattern, float]] = {}
    for name, weight in weights.items():
        losses[name] = {}
        count, layout = (groups or {}).get(name, 1), (layouts or {}).get(name)
        for pattern in parsed:
            try:
                solution = solve(weight, pattern, solver, groups=count, layout=layout)
            except TmaskError as error:
                # Of its own type still, with the layer's name, which `solve` does not know.
                raise type(error)(f"layer {name!r}: {error}") from error
            # Two sums in different orders may differ in the last place where nothing is lost.
            losses[name][pattern] = max(0.0, solution.total - solution.objective)
    return losses


def _check_names(what: str, given: Mapping[str, Any], layers: Mapping[str, Any]) -> None:
    """Return if groups or layouts are given for layers alone that are there."""
    if unknown := sorted(given.keys() - layers.keys()):
        raise InvalidProblemError(f"{what} are given for {', '.join(unknown)}, which are not among the layers")


def _allowed(density: float | Fraction) -> Fraction:
    """The share of weights that a density from the user allows."""
    if isinstance(density, bool) or not isinstance(density, Real) or not 0 < density <= 1:
        raise InvalidProblemError(f"density {density!r}: must be a number above 0 and at most 1")
    # A float stands for all numbers nearest to it: 1/3 must allow 1:3, though the float is below it.
    return density if isinstance(density, Fraction) else Fraction(min(math.nextafter(float(density), 2), 1))


def _check_least(shares: Shares, most: Fraction, numbers: Mapping[str, int], density: float | Fraction) -> None:
    """Return if the sparsest pattern of every layer together keep no more than is allowed."""
    least = sum(min(options.values()) for options in shares.values())
    if least > most:
        raise InvalidProblemError(
            f"density {float(density):g} cannot be met: with the sparsest pattern of every layer "
            f"{float(least / sum(numbers.values())):.6g} of the weights are kept; allow that, or offer sparser patterns"
        )


def _in_whole_units(shares: Shares, most: Fraction) -> tuple[dict[str, dict[Pattern, int]], int]:
    """Weights kept, and the most of them, in units of one over the least common multiple of all denominators."""
    # Exactly, as fractions: in floats 1/3 and a budget of 1/3 would not meet.
    unit = math.lcm(*(share.denominator for options in shares.values() for share in options.values()))
    kept = {name: {p: int(unit * share) for p, share in options.items()} for name, options in shares.items()}
    return kept, math.floor(unit * most)


def _rounded(table: Losses, exponent: int) -> dict[str, dict[Pattern, int]]:
    """Losses times two to the exponent, in whole numbers, which CP-SAT takes alone."""
    return {name: {p: round(math.ldexp(loss, exponent)) for p, loss in row.items()} for name, row in table.items()}


def _is_exact(table: Losses, exponent: int) -> bool:
    """Whether that rounds nothing."""
    return all(math.ldexp(loss, exponent).is_integer() for options in table.values() for loss in options.values())


def _exponent(table: Losses) -> int:
    """Losses times two to this are rounded to whole numbers."""
    total = sum(max(options.values()) for options in table.values())
    if math.isinf(total):
        raise InvalidProblemError("the sum of the losses overflows float64; scale them down first")
    return _BITS - math.frexp(total)[1]
