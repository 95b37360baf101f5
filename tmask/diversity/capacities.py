"""Count 0/1 matrices with bounded row and column sums by dynamic programming over column capacities.

Row by row, a state is how many columns have room for 0, 1, 2, ... more ones. Which columns those are does not matter,
so columns of equal room are chosen from together, with a binomial coefficient.

Cost: C(cols + limit, limit) states at most, each with up to 2^cols choices merged into a few hundred: for small tiles.
`roots` takes the large ones.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

State = tuple[int, ...]


def count_by_capacities(rows: int, cols: int, n: int, *, exact: bool) -> int:
    """The number of (rows, cols) 0/1 matrices with n ones in every row and column, or with at most n.

    Args:
        exact: exactly n, which leaves none unless rows = cols; else at most n.
    """
    room = min(n, rows)
    if exact and (rows != cols or n > rows):
        return 0
    # At first every column has all its room.
    states: dict[State, int] = {(0,) * room + (cols,): 1}
    for row in range(rows):
        left = rows - row - 1
        following: dict[State, int] = defaultdict(int)
        for state, ways in states.items():
            for chosen, factor in _choices(state, n, exact):
                if not exact or not any(chosen[left + 1 :]):  # a column that lacks more than rows are left stays short
                    following[chosen] += ways * factor
        states = following
    return sum(ways for state, ways in states.items() if not exact or state[0] == cols)


def _choices(state: State, n: int, exact: bool) -> Iterator[tuple[State, int]]:
    """What a state becomes when one row puts its ones in, and in how many ways."""
    # Partial choices: (columns per room up to here, ones placed, ways); from little room to much.
    partial: list[tuple[State, int, int]] = [((state[0],), 0, 1)]
    for columns in state[1:]:
        partial = [
            ((*done[:-1], done[-1] + ones, columns - ones), placed + ones, ways * math.comb(columns, ones))
            for done, placed, ways in partial
            for ones in range(min(columns, n - placed) + 1)
        ]
    for done, placed, ways in partial:
        if placed == n or not exact:
            yield done, ways
