"""The N:M pattern: n kept of every m."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tmask.errors import InvalidProblemError

# Tiles cut short at an edge are solved at twice the side, and 64 is what the solvers' integers have bits for.
MAX_M = 32


@dataclass(frozen=True, slots=True)
class Pattern:
    """N:M sparsity: **n kept** of every m consecutive weights (n is not the number of zeros).

    Args:
        n: entries kept per row and per column of an m-by-m block, 0 < n <= m.
        m: side of a block, at most 32; need not be a power of two.
    Raises:
        InvalidProblemError: n or m is not an integer in range.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("m", self.m)):
            # True would pass for 1.
            if not isinstance(value, int) or isinstance(value, bool):
                raise InvalidProblemError(f"pattern: {name} must be an integer, got {value!r}")
        if not 0 < self.n <= self.m:
            hint = f" (did you mean {self.m}:{self.n}?)" if 0 < self.m < self.n else ""
            raise InvalidProblemError(
                f"pattern {self.n}:{self.m}: n weights are kept of every m, so 0 < n <= m must hold{hint}"
            )
        if self.m > MAX_M:
            raise InvalidProblemError(f"pattern {self.n}:{self.m}: m is at most {MAX_M}")

    @classmethod
    def parse(cls, pattern: Pattern | str) -> Pattern:
        """The pattern that a text such as `"2:4"` names; a Pattern is passed through."""
        if isinstance(pattern, Pattern):
            return pattern
        if isinstance(pattern, str) and (match := re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", pattern)):
            return cls(int(match[1]), int(match[2]))
        raise InvalidProblemError(
            f"pattern {pattern!r}: write it as 'N:M', for example '2:4' (N weights kept of every M)"
        )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"
