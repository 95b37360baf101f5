"""The numbers of the method on which its implementations, in numba, torch and CUDA, and the integer solvers agree.

docs/explanation/exactness.md says where exactness rests on them. Kernels take a number as it is when they are compiled.
"""

from __future__ import annotations

# Bits of a block's largest score on the integer grid: with 2^e above every score, its unit is 2^(e - GRID_BITS). More
# would take more scores as they are, but sums must fit. Along a path at m = 64 they come to 2^52 units, which torch
# adds in float64, of 53 bits, and numba in an int64 beside the bits of a place. Sums of scores and prices in float64
# need some bits for prices (`PRICE_BITS`). An objective of 2^12 terms must fit int64, which CP-SAT insists on.
GRID_BITS = 46

# Keys that sort by a number, then by a place: (number << PLACE_BITS) + place. The least of some keys, found by plain
# comparisons, brings its place along, where an argmin would need a branch. A block of side 64, the largest, has 128
# places, which are its rows and columns as nodes of a graph.
PLACE_BITS = 7
LAST_PLACE = (1 << PLACE_BITS) - 1

# Prices below 2^PRICE_BITS units differ from scores by at most 53 bits, which is what float64 holds.
PRICE_BITS = 52

# A starting price of so many units, or more, is taken for 0: at four times all scores it helps no search. Below it, a
# distance (a path's sum, and the difference of two prices, which end within a score of where one began) stays below
# 2^53; without a limit it could leave the 56 bits that a key has for it, and paths would go anywhere.
WILD_PRICE = 2.0**48

# Scores above this go to the integers at once. Prices have stayed among the scores wherever they were looked at, but
# nothing holds them there: each round may add a score, and momentum more. 38 bits below float32's 2^128 are left for
# that. No proof needs it, since a price that is not finite never balances; but rounds that overflow are wasted.
LARGEST_TAME = 2.0**90

# Rounds before a row's exact tie is believed. Where scores have few bits, the first prices do, too: differences of both
# tie by chance. Every midpoint has one bit more, so that most of these rows come apart by themselves, which costs less
# than to part them and to prove the mask afterwards.
EARLY_ROUNDS = 2


def momentum(m: int) -> float:
    """How far a column's price goes on in the direction of its last change, as a share of that change.

    The larger a block, the more slowly its prices settle, and the more rounds this saves; beyond these shares prices
    overshoot, and it takes more rounds again. Prices alone depend on it, not what is proven.
    """
    return 0.3 if m <= 8 else 0.4 if m <= 16 else 0.5


def most_rounds(m: int) -> int:
    """Rounds after which a block counts as stuck, which few blocks of normal weights are.

    They are well above what most take, since a block that is given up pays for its rounds and for the exact paths, too.
    """
    return 16 if m <= 16 else 24
