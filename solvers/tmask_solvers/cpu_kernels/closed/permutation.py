"""1:4 in a 4-by-4 block, in closed form, one block a lane: the heaviest permutation.

The two upper rows take two of the columns, in one of six ways, the two lower rows the others; and each half in the
better of its two orders. 3:4 prunes the lightest permutation, which is the heaviest one of -|w|.

Rounding. With u the unit roundoff (2^-24 in float32), the value of a half is a sum that is rounded once, that of a mask
twice; so both are off by at most ((1 + u)^2 - 1) T < 2.001 u T with T the sum of the block's magnitudes. The caller's
guard exceeds 12 u T. So whatever wins by more than the guard is truly larger, and the mask is proven optimal if its
six-way choice and the order of its halves win by that much. (Where another choice of columns loses, the order of its
halves does not matter.)
"""

from __future__ import annotations

from functools import reduce

from tmask_solvers.cpu_kernels.vector import I32, Vector, constant, larger, smaller

_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))  # the k-th from the end holds the other columns


def permutation(rows: list[list[Vector]], guard: Vector) -> tuple[list[Vector], Vector]:
    """Words of the four rows, with one byte 1, and whether rounding cannot have changed them.

    Args:
        rows: values all >= 0 or all <= 0, 4 rows of 4 columns.
        guard: the margin by which a comparison must be won, above 12 roundoffs of the sum of the magnitudes.
    Returns:
        Byte j of a row's word is 1 if the row takes column j; a permutation even if values are NaN or infinite.
    """
    column = [constant(rows[0][0], I32, 1 << 8 * j) for j in range(4)]
    candidates = []
    for (p, q), (r, s) in zip(_PAIRS, reversed(_PAIRS), strict=True):
        upper, upper_lead = _half(rows[0], rows[1], p, q)
        lower, lower_lead = _half(rows[2], rows[3], r, s)
        taken = [upper_lead, lower_lead, column[p], column[q], column[r], column[s]]
        candidates.append((upper + lower, taken))
    (best, choice), *others = candidates
    losers = []  # the best of the values that lost is the one that the winner must beat by a margin
    for value, candidate in others:
        win = value > best
        losers.append(smaller(value, best))
        best = larger(value, best)
        choice = [win.where(new, old) for new, old in zip(candidate, choice, strict=True)]
    upper_lead, lower_lead, p_word, q_word, r_word, s_word = choice
    up, low = upper_lead > 0.0, lower_lead > 0.0
    mask = [up.where(p_word, q_word), up.where(q_word, p_word), low.where(r_word, s_word), low.where(s_word, r_word)]
    margin = smaller(smaller(abs(upper_lead), abs(lower_lead)), best - reduce(larger, losers))
    return mask, margin > guard


def _half(x: list[Vector], y: list[Vector], p: int, q: int) -> tuple[Vector, Vector]:
    """The better of (x takes p, y takes q) and the reverse; and by how much the former leads."""
    straight, crossed = x[p] + y[q], x[q] + y[p]
    return larger(straight, crossed), straight - crossed
