"""Bands of a weight: some of its lines, which lie behind one another in a file, as a weight of their own.

A line is a row of a matrix, or of any matrix of a stack, or an output channel of a convolution. Lines come in units
that no tile crosses: a matrix of the stack, a group of the convolution, or all lines where there is but one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Band:
    """Whole units, or lines of a single one.

    Args:
        of: name of the weight.
        whole: its shape.
        groups, layout: how it is read.
        first, last: its lines from and up to which.
    Raises:
        ValueError: lines that the weight does not have, or that go from a part of one unit to another.
    """

    of: str
    whole: tuple[int, ...]
    groups: int
    layout: str
    first: int
    last: int

    def __post_init__(self) -> None:
        unit = unit_lines(self.whole, self.groups, self.layout)
        if not 0 <= self.first < self.last <= num_lines(self.whole, self.layout):
            raise ValueError(f"lines {self.first} to {self.last} of a weight of shape {self.whole}")
        # Tiles begin anew with each unit, so such lines are no weight that is tiled alike.
        if not self._units and self.first // unit != (self.last - 1) // unit:
            raise ValueError(f"lines {self.first} to {self.last} hold a part of one matrix or group and of another")

    @property
    def name(self) -> str:
        """Of the band, which no other band has."""
        return f"{self.of}[{self.first}:{self.last}]"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that the band is."""
        lines = self.last - self.first
        if self.layout != "stack":
            return lines, *self.whole[1:]
        rows, cols = self.whole[-2:]
        return (self._units, rows, cols) if self._units else (lines, cols)

    @property
    def own_groups(self) -> int:
        """Groups of the band."""
        return self._units if self.groups > 1 and self._units else 1

    @property
    def own_layout(self) -> str:
        """How the band is read."""
        return "matrix" if len(self.shape) == 2 else self.layout

    @property
    def entries(self) -> tuple[int, int]:
        """Of the weight in C order, from and up to which."""
        line = math.prod(self.whole) // num_lines(self.whole, self.layout)
        return self.first * line, self.last * line

    @property
    def _units(self) -> int:
        """How many whole units it holds; 0 if it holds a part of one."""
        unit = unit_lines(self.whole, self.groups, self.layout)
        return 0 if self.first % unit or self.last % unit else (self.last - self.first) // unit


def num_lines(shape: tuple[int, ...], layout: str) -> int:
    """Of a weight."""
    return math.prod(shape[:-1]) if layout == "stack" else shape[0]


def unit_lines(shape: tuple[int, ...], groups: int, layout: str) -> int:
    """Lines of each unit."""
    return shape[-2] if layout == "stack" else shape[0] // groups
