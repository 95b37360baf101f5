"""Count 0/1 matrices with bounded row and column sums by evaluating a symmetric polynomial at roots of unity.

The matrices of h rows with n ones each, and column sums d_1..d_v, are counted by the coefficient of x_1^d_1 ... x_v^d_v
in e_n(x)^h, where e_n is the elementary symmetric polynomial. To pick the coefficient with all d_j = b out of a
polynomial G that is homogeneous of degree b v, it is enough to let every x_j run over the roots of unity of one
order q > b:

    coefficient = q^-v * sum over x of G(x) / (x_1 ... x_v)^b

since what aliases has each d_j in b, b + q, b + 2q, ..., and the degrees add up to b v only if all are b. G is
symmetric, so x counts as a multiset: C(v + q - 1, q - 1) points, for q = b + 1 as many as the dynamic program in
`capacities` has states, but each costs one evaluation instead of hundreds of transitions, and numpy evaluates many at
once. Multiplying all x_j by one root changes nothing, which saves a factor of q / gcd(q, v). All is done modulo
primes p = 1 (mod q), where the roots exist, and put together by the Chinese remainder theorem, with enough primes
for a bound on the count.

At most n in a line: rows have the polynomial f(T) = sum of A_k e_k T^k with A_k = 1 for k <= n; a slack row that fills
each column to b brings in the complete homogeneous polynomials, so that G is the coefficient of T^(b v) in
f(T)^h / product of (1 - x_j T).

Source: [Stanley1999, ch. 7] for the symmetric functions; the rest is derived above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tmask.diversity.residues import (
    PRIME_BITS,
    Residues,
    binomial_powers,
    combine,
    dot,
    power,
    power_series,
    product,
    reciprocal,
    root_of_unity,
    u64,
)

Counts = npt.NDArray[np.int64]

_TABLE = 1 << 25  # residues in the table of partial points: 256 MiB
_CALLS = 20_000  # additions of products in the time that the handling of one more head takes
_BATCH = 4096  # points that the power series see at once


def exactly(side: int, n: int, bound: int) -> int:
    """The number of (side, side) 0/1 matrices with n ones in every row and column, known to be at most `bound`."""

    def evaluate(points: Residues, p: int) -> Residues:
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
    return _num_points(side, _best_order(side, n)) * (bound.bit_length() // (PRIME_BITS - 1) + 1)


def num_products(rows: int, cols: int, n: int) -> int:
    """How many additions of products `at_most` takes, about."""
    limit = min(n, rows - n - 1)
    primes = rows * cols // (PRIME_BITS - 1) + 1
    return math.comb(cols + limit, limit) // (limit + 1) * rows * cols**2 * primes


def _best_order(cols: int, limit: int) -> int:
    """Of the roots: one above the limit suffices, but a few more may have no divisor in common with `cols`."""
    return min(range(limit + 1, limit + 4), key=lambda order: _num_points(cols, order))


def _num_points(cols: int, order: int) -> int:
    return math.comb(cols + order - 1, cols) * math.gcd(order, cols) // order


def _over_primes(bound: int, order: int, count: Callable[[int], int]) -> int:
    """`combine`, and the tables that all primes share are dropped: they can be hundreds of MiB."""
    try:
        return combine(bound, order, count)
    finally:
        _compositions.cache_clear()


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
    for points, weights in _batches(_points(cols, limit, order, degrees, p)):
        total += int(dot(evaluate(points, p)[:, None], weights[:, None], p)[0])
    # Each point stands for its rotations, and for all orders of its roots.
    scale = order // math.gcd(order, cols) * math.factorial(cols) * pow(order, -cols, p)
    return total * scale % p


def _points(cols: int, limit: int, order: int, degrees: range, p: int) -> Iterator[tuple[Residues, Residues]]:
    """Elementary symmetric polynomials (degrees, N) and weights (N,) of the multisets of roots, up to rotation.

    A multiset is given by how often each root occurs. Those of the last roots are tabulated by their number and by the
    sum of their exponents, those of the first ones joined to them: one product of polynomials a point. A rotation by
    one root adds `cols` to the sum of the exponents, so it is enough to take the sums below gcd(order, cols).
    """
    root = root_of_unity(order, p)
    top = degrees[-1]
    parts = _num_tabulated(cols, order, top)
    heads = order - parts
    inverse = np.array([pow(math.factorial(k), -1, p) for k in range(cols + 1)], np.uint64)
    powers = [binomial_powers(pow(root, j, p), cols, top, p) for j in range(order)]
    tails = {
        total: _Part.of(_compositions(parts, total), range(heads, order), powers, inverse, p)
        for total in (range(cols + 1) if heads else [cols])
    }
    for total in range(cols + 1) if heads else [0]:
        first = _Part.of(_compositions(heads, total), range(heads), powers, inverse, p)
        last = tails[cols - total]
        for index in range(len(first.weights)):
            for exponent in range(math.gcd(order, cols)):
                chosen = last.with_exponent((exponent - int(first.exponents[index])) % order)
                weight = int(first.weights[index]) * pow(root, -limit * exponent, p) % p  # 1 / (x_1 ... x_cols)^limit
                yield (
                    product(first.points[:, index : index + 1], last.points[:, chosen], degrees, p),
                    last.weights[chosen] * u64(weight) % u64(p),
                )


def _num_tabulated(cols: int, order: int, top: int) -> int:
    """How many of the roots to tabulate, so that building the table and joining heads to it take the least."""

    def cost(parts: int) -> int:
        entries, heads = math.comb(cols + parts, parts), math.comb(cols + order - parts, order - parts)
        return entries * parts * (top + 1) ** 2 // 2 + heads * math.gcd(order, cols) * _CALLS

    fitting = [k for k in range(1, order + 1) if math.comb(cols + k, k) * (top + 1) <= _TABLE]
    return min(fitting or [1], key=cost)


@dataclass(frozen=True, slots=True)
class _Part:
    """Multisets of some of the roots, sorted by the sum of their exponents.

    Args:
        points: (degree + 1, N), their elementary symmetric polynomials.
        weights: (N,), one over the product of the factorials of the occurrences.
        exponents: (N,), sums of exponents modulo the order of the roots.
    """

    points: Residues
    weights: Residues
    exponents: npt.NDArray[np.int64]

    @classmethod
    def of(cls, counts: Counts, exponents: range, powers: list[Residues], inverse: Residues, p: int) -> _Part:
        """From occurrences (N, roots) of the roots with these exponents."""
        sums = counts @ np.array(exponents, np.int64) % len(powers)
        ranks = np.argsort(sums, kind="stable")
        counts = counts[ranks]
        top = len(powers[0]) - 1
        points = np.zeros((top + 1, len(counts)), np.uint64)
        points[0] = 1
        weights = np.ones(len(counts), np.uint64)
        for column, exponent in enumerate(exponents):
            points = product(points, powers[exponent][:, counts[:, column]], range(top + 1), p)
            weights = weights * inverse[counts[:, column]] % u64(p)
        return cls(points, weights, sums[ranks])

    def with_exponent(self, exponent: int) -> slice:
        """Where the multisets of one sum are."""
        low, high = np.searchsorted(self.exponents, [exponent, exponent + 1])
        return slice(int(low), int(high))


def _batches(parts: Iterator[tuple[Residues, Residues]]) -> Iterator[tuple[Residues, Residues]]:
    """The same points in batches that fit a cache, none much smaller."""
    held: list[tuple[Residues, Residues]] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part[1])
        if count >= _BATCH:
            yield from _cut(held)
            held, count = [], 0
    if held:
        yield from _cut(held)


def _cut(held: list[tuple[Residues, Residues]]) -> Iterator[tuple[Residues, Residues]]:
    points = np.concatenate([part[0] for part in held], axis=1)
    weights = np.concatenate([part[1] for part in held])
    for start in range(0, len(weights), _BATCH):
        yield points[:, start : start + _BATCH], weights[start : start + _BATCH]


@cache
def _compositions(parts: int, total: int) -> Counts:
    """All ways (N, parts) to write a total as an ordered sum of parts >= 0."""
    if parts == 0:
        return np.zeros((int(total == 0), 0), np.int64)
    if parts == 1:
        return np.array([[total]])
    return np.concatenate(
        [np.insert(_compositions(parts - 1, total - first), 0, first, axis=1) for first in range(total + 1)]
    )
