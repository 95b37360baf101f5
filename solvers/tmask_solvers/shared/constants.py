"""The numbers of the method on which its implementations, in numba, torch and CUDA, and the integer solvers agree.

docs/exactness.md says where exactness rests on them. Kernels take a number as it is when they are compiled.
"""

from __future__ import annotations

# Bits of a block's largest score on the integer grid: with 2^e above every score, its unit is 2^(e - GRID_BITS). More
# would take more scores as they are, and has three limits, all close. A sum along a path grows to 2^56 units at m = 64,
# and shares an int64 with 7 bits that number a node. Sums of scores and prices in float64 must fit 53 bits, and prices
# need some of these (`PRICE_BITS`). An objective of 2^12 terms at m = 64 must fit int64, which CP-SAT insists on.
GRID_BITS = 46

# Keys that sort by a number, then by a place: (number << PLACE_BITS) + place. The least of some keys, found by plain
# comparisons, brings its place along, where an argmin would need a branch. A block of side 64, the largest, has 128
# places, which are its rows and columns as nodes of a graph.
PLACE_BITS = 7
LAST_PLACE = (1 << PLACE_BITS) - 1

# Prices below 2^PRICE_BITS units differ from scores by at most 53 bits, which is what float64 holds.
PRICE_BITS = 52

# A starting price of so many units, or more, lies beyond all scores and helps no search; larger ones, with the path
# added, could also leave the 56 bits of a distance. It is taken for 0.
WILD_PRICE = 2.0**48

# Scores above this go to the integers at once: their prices, which grow beyond them within the rounds, might overflow
# float32 (2^128). No proof needs that, since a price that is not finite never balances; but the rounds would be wasted.
LARGEST_TAME = 2.0**90

# Rounds before a row's exact tie is believed. In the first, prices are still equal where scores are, so that blocks tie
# that come apart by themselves in the second.
EARLY_ROUNDS = 2


def momentum(m: int) -> float:
    """How far a column's price goes on in the direction of its last change, as a share of that change.

    For normal weights, of 0, 0.2, 0.3, 0.4, 0.5, 0.6 and 0.8 these take the fewest rounds: 3.4 at 4:8, 6.2 at 8:16 and
    10.1 at 16:32 on average, against 4.0, 9.0 and 18.0 without. Prices alone depend on it, not what is proven.
    """
    return 0.3 if m <= 8 else 0.4 if m <= 16 else 0.5


def most_rounds(m: int) -> int:
    """Rounds after which a block counts as stuck: of normal weights, less than 1 % at 4:8, 8:16 and 16:32."""
    return 16 if m <= 16 else 24
