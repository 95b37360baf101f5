"""Judge masks in whole numbers of Python, without any rounding: slow, and for scores of every size beside one another.

Floating-point scores are whole multiples of a power of two, so a block's scores become integers as they are. Shortest
augmenting paths find the optimum, and prices with it: the bound that these give, by duality, is attained by the mask
that was found, which is seen to on every call. A mask is optimal if it keeps as much, and not if it keeps less.

Cost: O(m^2) a path in plain Python; a block of side 8 takes about a millisecond, of side 32 some hundredths of a
second. Source: successive shortest paths with potentials [Ahuja1993, section 9.7].
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from tmask.blocks.arrays import Masks, Scores
from tmask.judging.certificate import Judgement
from tmask.judging.duals import is_regular

Whole = list[list[int]]
Kept = list[list[bool]]


def judge_exactly(scores: Scores, masks: Masks, n: int) -> Judgement:
    """See `tmask.judging.certificate.judge`; objective and bound are rounded once at the end, the bound upwards."""
    regular = is_regular(masks, n)
    objective, bound = np.empty(len(scores)), np.empty(len(scores))
    proven = np.zeros(len(scores), np.bool_)
    for b, (block, mask) in enumerate(zip(scores, masks, strict=True)):
        whole, unit = whole_scores(block)
        kept = sum(int(s) for row, on in zip(whole, mask, strict=True) for s, k in zip(row, on, strict=True) if k)
        best = optimum(whole, n)
        proven[b] = regular[b] and kept == best
        objective[b] = float(kept * unit)
        bound[b] = objective[b] if proven[b] else _upwards(best * unit)
    return Judgement(objective, bound, proven, regular)


def whole_scores(block: Scores) -> tuple[Whole, Fraction]:
    """A block (m, m) as integers, and the unit that they count."""
    ratios = [[float(x).as_integer_ratio() for x in row] for row in block]
    denominator = max(below for row in ratios for _, below in row)  # all are powers of two
    return [[above * (denominator // below) for above, below in row] for row in ratios], Fraction(1, denominator)


def optimum(scores: Whole, n: int) -> int:
    """The largest sum with n kept in each row and column, proven by prices."""
    kept, u, v = _solve(scores, n)
    value = sum(s for row, on in zip(scores, kept, strict=True) for s, k in zip(row, on, strict=True) if k)
    over = sum(max(0, s - u[i] - v[j]) for i, row in enumerate(scores) for j, s in enumerate(row))
    lines = [*map(sum, kept), *map(sum, zip(*kept, strict=True))]
    if value != n * sum(u) + n * sum(v) + over or any(count != n for count in lines):
        raise AssertionError("the prices do not prove the optimum: a bug in this file")
    return value


def _solve(scores: Whole, n: int) -> tuple[Kept, list[int], list[int]]:
    """A mask, with row and column prices that prove it optimal."""
    side = len(scores)
    v = [_middle(sorted(column, reverse=True), n) for column in zip(*scores, strict=True)]
    kept = [[False] * side for _ in scores]
    u = [0] * side
    for i, row in enumerate(scores):
        # Ties go to columns in turn, so that constant blocks balance at once.
        order = sorted(range(side), key=lambda j: (v[j] - row[j], (j - i * n) % side))
        for j in order[:n]:
            kept[i][j] = True
        u[i] = row[order[n - 1]] - v[order[n - 1]]
    while _shift(scores, kept, u, v, n):
        pass
    return kept, u, v


def _middle(descending: list[int], n: int) -> int:
    """Half way between the n-th and the (n+1)-th largest; any number would do."""
    return (descending[n - 1] + descending[n]) // 2 if n < len(descending) else 0


def _shift(scores: Whole, kept: Kept, u: list[int], v: list[int], n: int) -> bool:
    """Move one entry from a column that keeps more than n to one that keeps fewer; False if there is none."""
    side = len(scores)
    counts = [sum(column) for column in zip(*kept, strict=True)]
    # Nodes are columns 0..m-1 and rows m..2m-1; a column is left by entries that are kept, a row by others.
    distance: dict[int, int] = {j: 0 for j in range(side) if counts[j] > n}
    parent: dict[int, int] = {}
    done: set[int] = set()
    if not distance:
        return False
    while True:
        at = min(distance.keys() - done, key=distance.__getitem__)
        if at < side and counts[at] < n:
            break
        done.add(at)
        for k in range(side):
            i, j, to = (k, at, side + k) if at < side else (at - side, k, k)
            if to in done or kept[i][j] != (at < side):
                continue
            length = distance[at] + abs(scores[i][j] - u[i] - v[j])  # what is kept is worth its prices, the rest is not
            if to not in distance or length < distance[to]:
                distance[to], parent[to] = length, at
    for node in done:
        left = distance[at] - distance[node]
        if node < side:
            v[node] += left
        else:
            u[node - side] -= left
    while at in parent:
        row = parent[at]
        kept[row - side][at] = True
        at = parent[row]
        kept[row - side][at] = False
    return True


def _upwards(number: Fraction) -> float:
    """The least float that is not below the number."""
    nearest = float(number)
    return nearest if Fraction(nearest) >= number else math.nextafter(nearest, math.inf)
