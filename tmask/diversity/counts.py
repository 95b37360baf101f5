"""How many masks a constraint allows on one tile, and what is known where that is out of reach."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

from tmask.blocks.pattern import Pattern
from tmask.diversity import roots
from tmask.diversity.capacities import count_by_capacities
from tmask.errors import InvalidProblemError

# Of the dynamic program: up to here it is faster than the evaluation at roots of unity.
_STATES = 1000
# Points over all primes: some minutes on one core.
_EVALUATIONS = 5 * 10**8
# Additions of products that a tile cut short takes, likewise.
_PRODUCTS = 10**10


@cache
def transposable_count(n: int, m: int) -> int:
    """The number of m-by-m masks with exactly n kept in every row and every column.

    Exact, as a Python integer; the same for n and m - n, since what is kept and what is not can change places.

    Raises:
        InvalidProblemError: not 0 < n <= m <= 32, or out of reach: then `transposable_estimate` and
            `transposable_bounds` say what is known.
    Cost: at most seconds for m <= 16; at m = 32 minutes for n = 7 or 8 (24, 25), out of reach for those between.
    Source: dynamic programming over column capacities, or sums over roots of unity (`capacities`, `roots`).
    """
    Pattern(n, m)
    fewer = min(n, m - n)
    if fewer == 0:
        return 1
    if math.comb(m + fewer, fewer) <= _STATES:
        return count_by_capacities(m, m, fewer, exact=True)
    bound = math.comb(m, fewer) ** m
    if roots.num_evaluations(m, fewer, bound) > _EVALUATIONS:
        low, high = transposable_bounds(n, m)
        raise InvalidProblemError(
            f"pattern {n}:{m}: counting its transposable masks exactly is out of reach (more than {_EVALUATIONS:.0e} "
            f"evaluations); proven: {low:.1f} <= log2 <= {high:.1f}; transposable_estimate gives "
            f"{transposable_estimate(n, m):.1f}"
        )
    return roots.exactly(m, fewer, bound)


@cache
def cut_short_count(height: int, width: int, n: int) -> int:
    """The number of (height, width) masks with at most n kept in every row and column.

    These are the masks that a tile cut short at an edge allows: all of them, not only those that nothing can be added
    to.

    Raises:
        InvalidProblemError: a size or n below 1, or out of reach.
    Cost: at most about half a minute for sides up to 16; the worst are nearly square with n near half the side.
    """
    if min(height, width, n) < 1:
        raise InvalidProblemError(f"tile {height} x {width} with at most {n} in a line: all three must be at least 1")
    if n >= width:
        return _to_the(_at_most(height, n), width)  # full rows are allowed, so each column is free of the others
    if n >= height:
        return _to_the(_at_most(width, n), height)
    states, cols = min((math.comb(side + n, n), side) for side in (height, width))
    rows = height + width - cols
    if states <= _STATES:
        return count_by_capacities(rows, cols, n, exact=False)
    products, cols = min((roots.num_products(height + width - side, side, n), side) for side in (height, width))
    rows = height + width - cols
    if products > _PRODUCTS:
        raise InvalidProblemError(
            f"a tile of {height} x {width} cut short at an edge, at most {n} kept in a line: "
            "counting its masks exactly is out of reach"
        )
    return roots.at_most(rows, cols, n)


def plain_count(n: int, m: int) -> int:
    """The number of m-by-m masks with exactly n kept in every row: C(m, n)^m."""
    Pattern(n, m)
    return _to_the(math.comb(m, n), m)


def unstructured_count(size: int, density: float | Fraction) -> int:
    """The number of masks that keep this share of `size` weights anywhere: C(size, kept), kept as in `kept_of`.

    Cost: that of a binomial coefficient with up to `size` bits, seconds for a million.
    """
    return math.comb(size, kept_of(size, density))


def structured_count(num_blocks: int, density: float | Fraction) -> int:
    """The number of masks that keep this share of the blocks, each whole: C(num_blocks, kept), kept as in `kept_of`."""
    return math.comb(num_blocks, kept_of(num_blocks, density))


def kept_of(size: int, density: float | Fraction) -> int:
    """density * size, rounded to the nearest whole number, halves to even; exactly, for the density as it is stored.

    Raises:
        InvalidProblemError: a size below 1, or a density not from 0 to 1.
    """
    if size < 1:
        raise InvalidProblemError(f"size {size}: must be at least 1")
    if not 0 <= density <= 1:  # also for NaN
        raise InvalidProblemError(f"density {density}: must be from 0 to 1")
    return round(Fraction(density) * size)


def product_formula(n: int, m: int) -> int:
    """m! (m-1)! ... (m-n+1)!, the product that goes with the paper, as a count of transposable masks.

    Exact at n = 1 and an overcount in general, but no upper bound: at n = 2 it falls below the exact count from m = 10
    on, by a factor of about sqrt(e pi / m). For 3 <= n <= m <= 16 it lies above.

    Source: [Hubara2021].
    """
    Pattern(n, m)
    return math.prod(math.factorial(m - i) for i in range(n))


def transposable_estimate(n: int, m: int) -> float:
    """An estimate, not a bound, of log2 `transposable_count`: C(m,n)^2m / C(m^2, n m) * (1 - 1/m)^(m-1) * sqrt(e).

    As if rows and columns were filled independently, with a correction that tends to 1 / sqrt(e). Too high by 0.0014
    bits at 8:16, by 0.007 at 2:16 and by 0.0055 at 4:8, and ever closer as m grows.

    Source: [Canfield2005].
    """
    Pattern(n, m)
    if n == m:
        return 0.0
    independent = 2 * m * math.log2(math.comb(m, n)) - math.log2(math.comb(m * m, n * m))
    return independent + (m - 1) * math.log2(1 - 1 / m) + math.log2(math.e) / 2


def transposable_bounds(n: int, m: int) -> tuple[float, float]:
    """Proven bounds on log2 `transposable_count`, as float64 rounds them.

    Above: the masks that obey the rows alone, C(m, n)^m. Below: that, times b^(m-1), where
    b = C(m, n) (n/m)^n (1 - n/m)^(m-n). docs/explanation/diversity.md says why.

    Source: [Gurvits2009].
    """
    Pattern(n, m)
    rows = math.log2(math.comb(m, n))
    if n == m:
        return 0.0, 0.0
    share = n / m
    column = rows + n * math.log2(share) + (m - n) * math.log2(1 - share)
    return m * rows + (m - 1) * column, m * rows


def _at_most(length: int, n: int) -> int:
    """Masks of one line with at most n kept."""
    return sum(math.comb(length, kept) for kept in range(min(n, length) + 1))


def _to_the(base: int, exponent: int) -> int:
    # The type checker takes a power of whole numbers for a float, since the exponent could be below 0.
    return int(base**exponent)
