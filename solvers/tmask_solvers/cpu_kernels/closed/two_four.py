"""2:4 in a 4-by-4 block, in closed form, one block a lane.

Write a mask as signs x = 2 mask - 1. A row that keeps two of four is + or - one of A = ++--, B = +-+-, C = +--+, which
are linearly independent; so the columns balance only if each of A, B, C occurs as often with + as with -: the rows form
two pairs of opposite rows. With a, b, c the inner products of each row of |w| with A, B, C, the best that rows i and k
give as a pair is

    D_ik = max(|a_i - a_k|, |b_i - b_k|, |c_i - c_k|),

and the optimum is (T + max(D_01 + D_23, D_02 + D_13, D_03 + D_12)) / 2 with T the sum of the block.

Rounding. With u the unit roundoff (2^-24 in float32) a sum or difference is off by at most a factor 1 + u, in either
direction, even where it is subnormal, since then it is exact. a, b, c take 2 roundings, a difference of two 3, a sum of
two D 4. Each counts entries with signs, so all of them are off by at most e = ((1 + u)^4 - 1) T < 4.001 u T.

What is sure. The caller's guard g exceeds 12 u T. So if a computed value exceeds another by more than g, it is truly
larger. A pairing loses clearly if its computed value is below the best by more than g. In a pair of rows the choice is
clear if the largest of the three magnitudes exceeds the next by more than g: then it exceeds its own negative by as
much. The mask is proven optimal if each pairing

- loses clearly, or
- contains this mask and has clear choices in both pairs. Then this mask is the pairing's true optimum. For if the clear
  choices were another mask, they would exceed this mask's computed value, which is within e of its true value, which is
  within e of the largest computed value, by more than g; and so, with one more rounding, their pairing's computed value
  would exceed the largest of all by more than g - 2 e - 1.1 u T > 0.

The second case is not only that of the largest: a mask whose rows are all + or - the same one of A, B, C belongs to two
pairings, which then tie exactly, and no margin between them is needed since both lead to this mask.
"""

from __future__ import annotations

from functools import reduce

from tmask_solvers.cpu_kernels.vector import I32, Vector, constant, larger, smaller

_ALL = 0x01010101  # a byte an entry, the first column lowest; xor with it flips a row
_ROW_WORDS = (0x00000101, 0x00010001, 0x01000001)  # A, B, C
_PAIRINGS = (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))


def two_four(rows: list[list[Vector]], guard: Vector) -> tuple[list[Vector], Vector]:
    """Mask words of the four rows, and whether rounding cannot have changed them.

    Args:
        rows: |w|, 4 rows of 4 columns.
        guard: the margin by which a comparison must be won, above 12 roundoffs of the block's sum.
    Returns:
        A row's word holds a byte an entry, 1 = kept; words are valid even if entries are NaN or infinite.
    """
    abc = [_inner_products(row) for row in rows]
    tops = [(_best_of_pair(abc, *first), _best_of_pair(abc, *second)) for first, second in _PAIRINGS]
    values = [first[0] + second[0] for first, second in tops]
    best = larger(larger(values[0], values[1]), values[2])
    # NaN equals none of the three: the last pairing is taken then, and words stay valid.
    p, q = best.equals(values[0]), best.equals(values[1])
    # Row 0 and its partner, then the other two in order.
    upper = _row_word([abc[0][t] - p.where(abc[1][t], q.where(abc[2][t], abc[3][t])) for t in range(3)])
    lower = _row_word([p.where(abc[2][t], abc[1][t]) - (p | q).where(abc[3][t], abc[2][t]) for t in range(3)])
    not_upper, not_lower = upper ^ _ALL, lower ^ _ALL
    mask = [
        upper,
        p.where(not_upper, lower),
        p.where(lower, q.where(not_upper, not_lower)),
        (p | q).where(not_lower, not_upper),
    ]
    # Of all pairings, since a mask may belong to two of them (above).
    none = best - best
    margins = []
    for (first, _), (one, two), value in zip(_PAIRINGS, tops, values, strict=True):
        # Two opposite rows leave each column one of its two entries, so that the others are opposite too.
        clear = _opposite(mask, *first).where(smaller(one[1], two[1]), none)
        margins.append(larger(best - value, clear))
    return mask, reduce(smaller, margins) > guard


def _inner_products(row: list[Vector]) -> list[Vector]:
    """With A, B and C."""
    # In pairs, so that an entry is rounded twice on its way, as the margin above has it, and not three times.
    p, q, r, s = row[0] + row[1], row[2] + row[3], row[0] - row[1], row[2] - row[3]
    return [p - q, r + s, r - s]


def _best_of_pair(abc: list[list[Vector]], i: int, k: int) -> tuple[Vector, Vector]:
    """D_ik, and by how much it exceeds the next magnitude."""
    a, b, c = (abs(abc[i][t] - abc[k][t]) for t in range(3))
    high = larger(a, b)
    top = larger(high, c)
    return top, top - larger(smaller(a, b), smaller(high, c))


def _row_word(d: list[Vector]) -> Vector:
    """The word of the first row of a pair with differences d: A, B or C, whichever is largest, with its sign."""
    words = [constant(d[0], I32, word) for word in _ROW_WORDS]
    a, b, c = (abs(t) for t in d)
    top = larger(larger(a, b), c)
    on_a, on_b = top.equals(a), top.equals(b)
    word = on_a.where(words[0], on_b.where(words[1], words[2]))
    return (on_a.where(d[0], on_b.where(d[1], d[2])) > 0.0).where(word, word ^ _ALL)


def _opposite(mask: list[Vector], i: int, k: int) -> Vector:
    return (mask[i] ^ mask[k]).matches(_ALL)
