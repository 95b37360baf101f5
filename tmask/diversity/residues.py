"""Vectors and polynomials of residues modulo primes below 2^29, in numpy's uint64, and the way back to whole numbers.

A polynomial stands for many at once: (degree + 1, N), the constant term first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Residues = npt.NDArray[np.uint64]

# Products of two residues stay below 2^58, so that 64 of them can be added before a reduction.
PRIME_BITS = 29
_LAZY = 64


def binomial_powers(root: int, cols: int, top: int, p: int) -> Residues:
    """(top + 1, cols + 1): column k holds the coefficients of (1 + root T)^k."""
    rows = [[math.comb(k, i) * pow(root, i, p) % p for k in range(cols + 1)] for i in range(top + 1)]
    return np.array(rows, np.uint64)


def product(a: Residues, b: Residues, degrees: range, p: int) -> Residues:
    """These coefficients of the products of polynomials (degree + 1, N or 1)."""
    shape = np.broadcast_shapes(a.shape[1:], b.shape[1:])
    out = np.empty((len(degrees), *shape), np.uint64)
    for index, degree in enumerate(degrees):
        out[index] = dot(a[: degree + 1], b[degree::-1], p)
    return out


def dot(a: Residues, b: Residues, p: int) -> Residues:
    """Sums over the first axis of products."""
    total = np.zeros(np.broadcast_shapes(a.shape[1:], b.shape[1:]), np.uint64)
    for start in range(0, len(a), _LAZY):
        part = slice(start, start + _LAZY)
        # einsum adds while it multiplies: no array of the products is made.
        total = (total + np.einsum("ij,ij->j", a[part], b[part]) % u64(p)) % u64(p)
    return total


def power(base: Residues, exponent: int, p: int) -> Residues:
    """Elementwise, by repeated squaring."""
    result = np.ones_like(base)
    for bit in bin(exponent)[2:]:
        result = result * result % u64(p)
        if bit == "1":
            result = result * base % u64(p)
    return result


def power_series(f: Residues, exponent: int, degree: int, p: int) -> Residues:
    """Coefficients (degree + 1, N) of f^exponent, by the recurrence that f (f^e)' = e f' f^e gives [Knuth1997, 4.7].

    It divides by the first coefficient of f; where that is 0, f is read backwards, from its last one, which is not.
    """
    backwards = not f[0].all()
    if backwards:
        f = f[::-1]
    terms = exponent * (len(f) - 1) if backwards else degree
    factors = np.arange(len(f), dtype=np.uint64)[:, None] * u64(exponent + 1) % u64(p)
    weighted = f * factors % u64(p)
    first = power(f[0], p - 2, p)  # its inverse, by Fermat
    series = np.zeros((max(terms, degree) + 1, f.shape[1]), np.uint64)
    series[0] = power(f[0], exponent, p)
    for k in range(1, terms + 1):
        reach = min(k, len(f) - 1)
        before = series[k - reach : k][::-1]
        both = dot(weighted[1 : reach + 1], before, p) + dot(f[1 : reach + 1], before, p) * u64(p - k) % u64(p)
        series[k] = both % u64(p) * first % u64(p) * u64(pow(k, -1, p)) % u64(p)
    return series[terms::-1][: degree + 1] if backwards else series


def reciprocal(points: Residues, degree: int, p: int) -> Residues:
    """Complete homogeneous polynomials (degree + 1, N) from the elementary ones: sum of (-1)^i e_i h_(k-i) = 0."""
    signed = points.copy()
    signed[2::2] = (u64(p) - points[2::2]) % u64(p)
    complete = np.zeros((degree + 1, points.shape[1]), np.uint64)
    complete[0] = 1
    for k in range(1, degree + 1):
        reach = min(k, len(points) - 1)
        complete[k] = dot(signed[1 : reach + 1], complete[k - reach : k][::-1], p)
    return complete


def combine(bound: int, order: int, count: Callable[[int], int]) -> int:
    """A number from 0 to `bound`, from its residues modulo primes that are 1 modulo an order."""
    value, modulus = 0, 1
    for p in primes(order):
        value += modulus * ((count(p) - value) * pow(modulus, -1, p) % p)
        modulus *= p
        if modulus > bound:
            break
    return value


def primes(order: int) -> Iterator[int]:
    """Primes p = 1 modulo an order, downwards from 2^29."""
    start = (1 << PRIME_BITS) // order * order + 1
    # Trial division is quick enough: some ten thousand divisors for a prime below 2^29.
    for p in range(start - order, 0, -order):
        if p % 2 and all(p % divisor for divisor in range(3, math.isqrt(p) + 1, 2)):
            yield p


def root_of_unity(order: int, p: int) -> int:
    """A root of 1 of exactly this order modulo p."""
    for base in range(2, p):
        root = pow(base, (p - 1) // order, p)
        if all(pow(root, k, p) != 1 for k in range(1, order)):
            return root
    raise AssertionError(f"{order} does not divide {p} - 1")


def u64(value: int) -> np.uint64:
    # numpy before 2 turns a product of uint64 and a Python int into floats.
    return np.uint64(value)
