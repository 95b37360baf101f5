"""How a weight is cut into the matrices that are tiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tmask.blocks import layouts


@dataclass(frozen=True, slots=True)
class Cutting:
    """No tile crosses from one of the matrices to the next.

    Args:
        groups: of rows, as of a grouped convolution; 1 for a stack.
        stacked: whether it stacks matrices, rows and columns last, as fused experts are stored; else its first two axes
            are rows and columns, and the others a kernel's.
    """

    groups: int = 1
    stacked: bool = False

    @property
    def layout(self) -> str:
        """In the words of `tmask.solve`."""
        return "stack" if self.stacked else "convolution"

    @property
    def options(self) -> dict[str, Any]:
        """As `tmask.solve` and its like take it."""
        return {"groups": self.groups, "layout": self.layout}

    @property
    def number(self) -> int:
        """It in one number, for a buffer: the groups, 0 for a stack."""
        return 0 if self.stacked else self.groups

    @classmethod
    def of(cls, number: int) -> Cutting:
        """The one behind a number."""
        return cls(number or 1, not number)

    def sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of each of the matrices."""
        return layouts.sides(shape, self.layout, self.groups)

    def in_words(self, shape: Sequence[int]) -> str:
        """What a report says of a stack; "" of other weights, which their shapes tell."""
        return layouts.in_words(shape, self.layout) if self.stacked else ""

    def __str__(self) -> str:
        return "one stack" if self.stacked else f"{self.groups} group(s)"


WHOLE = Cutting()
