"""What an allocation is given, checked: losses by layer and pattern, and what each pattern keeps of a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Integral

from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling
from tmask.errors import InvalidProblemError

Losses = Mapping[str, Mapping[Pattern, float]]
# A number of weights, or the shape of a weight.
Size = int | Sequence[int]


def number_of(size: Size) -> int:
    """Weights of a layer."""
    return math.prod(size) if isinstance(size, Sequence) else int(size)


def kept_of_size(name: str, size: Size, pattern: Pattern, groups: int, layout: str | None) -> Fraction:
    """The most weights of a layer that a mask of a pattern keeps.

    Raises:
        InvalidProblemError: a shape that cannot be tiled.
    """
    if not isinstance(size, Sequence):
        return Fraction(pattern.n, pattern.m) * int(size)
    try:
        return Fraction(Tiling(tuple(size), pattern, groups, layout).most_kept())
    except InvalidProblemError as error:
        raise InvalidProblemError(f"layer {name!r}: {error}") from error


def checked(losses: Mapping[str, Mapping[Pattern, float] | Mapping[str, float]], sizes: Mapping[str, Size]) -> Losses:
    """The losses with their patterns read.

    Raises:
        InvalidProblemError: as `tmask.allocation.allocate`.
    """
    if not losses:
        raise InvalidProblemError("losses name no layer; give at least one")
    # Both ways, or a misspelt layer would be dropped from the budget without a word.
    if missing := [name for name in losses if name not in sizes]:
        raise InvalidProblemError(f"sizes lack the layers {', '.join(missing)}")
    if extra := [name for name in sizes if name not in losses]:
        raise InvalidProblemError(f"losses lack the layers {', '.join(extra)}, which sizes have")
    table: dict[str, dict[Pattern, float]] = {}
    for name, options in losses.items():
        size = sizes[name]
        # A text is a sequence, and True a whole number.
        sides = size if isinstance(size, Sequence) else [size]
        if isinstance(size, str) or any(isinstance(s, bool) or not isinstance(s, Integral) or s < 1 for s in sides):
            raise InvalidProblemError(
                f"layer {name!r}: size {size!r} must be a whole number of weights, at least 1, or the weight's shape"
            )
        if not options:
            raise InvalidProblemError(f"layer {name!r}: no pattern to choose from")
        table[name] = {}
        for text, loss in options.items():
            pattern = Pattern.parse(text)  # "2:4" and "2 : 4" are one
            if pattern in table[name]:
                raise InvalidProblemError(f"layer {name!r}: pattern {pattern} is given twice")
            value = float(loss)
            if not 0 <= value < math.inf:
                raise InvalidProblemError(f"layer {name!r}, pattern {pattern}: loss {value} must be finite and >= 0")
            table[name][pattern] = value
    return table
