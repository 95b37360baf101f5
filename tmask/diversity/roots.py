"""Count 0/1 matrices with bounded row and column sums by evaluating a symmetric polynomial at roots of unity.

The wanted count is a coefficient of that polynomial; docs: diversity derives how few points are enough. All is done
modulo primes that have such roots, and put together by the Chinese remainder theorem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tmask.diversity.residues import PRIME_BITS, Residues, combine, dot, power, power_series, reciprocal, u64
from tmask.diversity.root_points import forget_points, num_points, points_of_roots


def exactly(side: int, n: int, bound: int) -> int:
    """The number of (side, side) 0/1 matrices with n ones in every row and column, known to be at most `bound`."""

    def evaluate(points: Residues, p: int) -> Residues:
        # n is the only degree that is asked for, so e_n comes first.
        return power(points[0], side, p)

    order = _best_order(side, n)
    return _over_primes(bound, order, lambda p: _sum_over_points(side, n, order, range(n, n + 1), evaluate, p))


def at_most(rows: int, cols: int, n: int) -> int:
    """The number of (rows, cols) 0/1 matrices with at most n ones in every row and column; n < rows, n < cols.

    Where n is more than half the rows, by inclusion and exclusion of the columns with too many ones, which lack at most
    rows - n - 1: fewer roots.
    """
    bound = sum(math.comb(cols, k) for k in range(n + 1)) ** rows
    lack = rows - n - 1
    if n <= lack:
        row = [int(k <= n) for k in range(cols + 1)]
        return _over_primes(bound, n + 1, lambda p: _filled(rows, cols, n, row, p))

    def signed(p: int) -> int:
        total = 0
        for bad in range(cols + 1):
            free = cols - bad
            # Zeros of a row: k in the bad columns, any number in the free ones, cols - n or more together.
            row = [sum(math.comb(free, z) for z in range(max(0, cols - n - k), free + 1)) for k in range(bad + 1)]
            total += (-1) ** bad * math.comb(cols, bad) * _filled(rows, bad, lack, row, p)
        return total

    return _over_primes(bound, lack + 1, signed)


def num_evaluations(side: int, n: int, bound: int) -> int:
    """How many points `exactly` evaluates, over all primes, about."""
    return num_points(side, _best_order(side, n)) * (bound.bit_length() // (PRIME_BITS - 1) + 1)


def num_products(rows: int, cols: int, n: int) -> int:
    """How many additions of products `at_most` takes, about."""
    limit = min(n, rows - n - 1)
    primes = rows * cols // (PRIME_BITS - 1) + 1
    return math.comb(cols + limit, limit) // (limit + 1) * rows * cols**2 * primes


def _best_order(cols: int, limit: int) -> int:
    """Of the roots: one above the limit suffices, but a few more may have no divisor in common with `cols`."""
    return min(range(limit + 1, limit + 4), key=lambda order: num_points(cols, order))


def _over_primes(bound: int, order: int, count: Callable[[int], int]) -> int:
    """`combine`, with the tables of points dropped at the end."""
    try:
        return combine(bound, order, count)
    finally:
        forget_points()


def _filled(rows: int, cols: int, limit: int, row: Sequence[int], p: int) -> int:
    """Modulo p: matrices with at most `limit` ones in a column, a row with k ones weighing row[k]."""
    if not cols * limit:
        return pow(row[0], rows, p)
    weights = np.array([value % p for value in row], np.uint64)[:, None]

    def evaluate(points: Residues, p: int) -> Residues:
        series = power_series(points * weights % u64(p), rows, cols * limit, p)
        return dot(series, reciprocal(points, cols * limit, p)[::-1], p)

    return _sum_over_points(cols, limit, limit + 1, range(cols + 1), evaluate, p)


def _sum_over_points(
    cols: int, limit: int, order: int, degrees: range, evaluate: Callable[[Residues, int], Residues], p: int
) -> int:
    """Modulo p: the coefficient of (x_1 ... x_cols)^limit in a symmetric, homogeneous polynomial.

    Args:
        order: of the roots, more than `limit`.
        evaluate: its values (N,) from the elementary symmetric polynomials (degrees, N) of N points.
    """
    total = 0
    for points, weights in points_of_roots(cols, limit, order, degrees, p):
        total += int(dot(evaluate(points, p)[:, None], weights[:, None], p)[0])
    # Each point stands for its rotations, and for all orders of its roots.
    scale = order // math.gcd(order, cols) * math.factorial(cols) * pow(order, -cols, p)
    return total * scale % p
