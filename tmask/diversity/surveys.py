"""The measure over patterns, and over the layers of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tmask.blocks.pattern import Pattern
from tmask.diversity.counts import product_formula, transposable_count, transposable_estimate
from tmask.diversity.tensors import CONSTRAINTS, Diversity, tensor_diversity
from tmask.errors import InvalidProblemError

DEFAULT_PATTERNS = ("1:4", "2:4", "2:8", "4:8", "4:16", "8:16", "16:32")
# Large enough that bits per weight hardly depend on it.
_SIDE = 1024


@dataclass(frozen=True, slots=True)
class PatternDiversity:
    """What a pattern allows.

    Args:
        masks: transposable masks of one m-by-m tile; None where the exact count is out of reach.
        log2: of that number, or of its estimate.
        formula: the product formula of the paper for the same number.
        bits: per weight, by constraint, on a square weight of side 1024, or just below it where m does not divide 1024.
    """

    pattern: Pattern
    masks: int | None
    log2: float
    formula: int
    bits: Mapping[str, float]

    @property
    def log2_overcount(self) -> float:
        """log2 of the formula over the count: what it adds, below 0 where it falls short."""
        return math.log2(self.formula) - self.log2


def pattern_diversity(patterns: Iterable[Pattern | str] = DEFAULT_PATTERNS) -> list[PatternDiversity]:
    """How the constraints compare at each pattern, and how far the product formula is off.

    Raises:
        InvalidProblemError: a text that is no pattern.
    Cost: that of `transposable_count`, seconds.
    """
    rows = []
    for pattern in dict.fromkeys(map(Pattern.parse, patterns)):
        n, m = pattern.n, pattern.m
        try:
            masks = transposable_count(n, m)
        except InvalidProblemError:
            masks = None
        # Whole tiles alone: one cut short at an edge allows another number of masks.
        side = _SIDE // m * m
        bits = {
            constraint: tensor_diversity((side, side), pattern, constraint, estimate=True).bits_per_weight
            for constraint in CONSTRAINTS
        }
        log2 = transposable_estimate(n, m) if masks is None else math.log2(masks)
        rows.append(PatternDiversity(pattern, masks, log2, product_formula(n, m), bits))
    return rows


def model_diversity(
    shapes: Mapping[str, Sequence[int]],
    pattern: Pattern | str,
    constraints: Iterable[str] = CONSTRAINTS,
    *,
    groups: Mapping[str, int] | None = None,
    layouts: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Diversity]]:
    """The diversity of each layer under each constraint, at one pattern.

    Args:
        shapes: of the weights, by name.
        groups: of the grouped convolutions among them, by name.
        layouts: as in `tmask.solve`, by name, where the shape leaves it open.
    Returns:
        By layer, then by constraint. The masks of a model are those of its layers combined: their log2 add up.
    Raises:
        InvalidProblemError: which layer cannot be counted, and why; full tiles out of reach are estimated.
    """
    if not isinstance(shapes, Mapping):
        raise InvalidProblemError(
            f"shapes is a {type(shapes).__name__}; give a mapping of names to shapes, or a torch module to "
            "tmask.nn.model_diversity"
        )
    if not shapes:
        raise InvalidProblemError("no layers: give at least one name and shape")
    for what, given in (("groups", groups or {}), ("layouts", layouts or {})):
        if unknown := sorted(given.keys() - shapes.keys()):
            raise InvalidProblemError(f"{what} are given for {', '.join(unknown)}, which are not among the layers")
    found: dict[str, dict[str, Diversity]] = {}
    for name, shape in shapes.items():
        count, layout = (groups or {}).get(name, 1), (layouts or {}).get(name)
        try:
            found[name] = {
                constraint: tensor_diversity(shape, pattern, constraint, groups=count, layout=layout, estimate=True)
                for constraint in constraints
            }
        except InvalidProblemError as error:
            raise InvalidProblemError(f"layer {name!r}: {error}") from error
    return found
