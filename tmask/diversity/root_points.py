"""Multisets of roots of unity, up to rotation, as the values of their elementary symmetric polynomials."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tmask.diversity.residues import Residues, binomial_powers, product, root_of_unity, u64

Counts = npt.NDArray[np.int64]

_TABLE = 1 << 25  # residues in the table of partial points: 256 MiB
_CALLS = 20_000  # additions of products in the time that the handling of one more head takes
_BATCH = 4096  # points that the power series see at once


def num_points(cols: int, order: int) -> int:
    """How many multisets of `cols` roots of one order there are, up to rotation, about."""
    return math.comb(cols + order - 1, cols) * math.gcd(order, cols) // order


def points_of_roots(cols: int, limit: int, order: int, degrees: range, p: int) -> Iterator[tuple[Residues, Residues]]:
    """The points of `_joined` in batches that fit a cache, none much smaller."""
    held: list[tuple[Residues, Residues]] = []
    count = 0
    for part in _joined(cols, limit, order, degrees, p):
        held.append(part)
        count += len(part[1])
        if count >= _BATCH:
            yield from _cut(held)
            held, count = [], 0
    if held:
        yield from _cut(held)


def forget_points() -> None:
    """Drop the tables that all primes share: they can be hundreds of MiB."""
    _compositions.cache_clear()


def _joined(cols: int, limit: int, order: int, degrees: range, p: int) -> Iterator[tuple[Residues, Residues]]:
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
    # Without heads each tail is a whole point, so those of `cols` roots alone are needed.
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
    # One root is tabulated even where its table is too large: without any, nothing is left to join to.
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


def _cut(held: list[tuple[Residues, Residues]]) -> Iterator[tuple[Residues, Residues]]:
    points = np.concatenate([part[0] for part in held], axis=1)
    weights = np.concatenate([part[1] for part in held])
    for start in range(0, len(weights), _BATCH):
        yield points[:, start : start + _BATCH], weights[start : start + _BATCH]


# Kept for the recursion and for the next prime, until `forget_points`.
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
