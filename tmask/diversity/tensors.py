"""How many masks a constraint allows on a whole tensor of any shape, tiled as the masks themselves are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from tmask.blocks.pattern import Pattern
from tmask.blocks.tiling import Tiling
from tmask.diversity.counts import cut_short_count, kept_of, transposable_count, transposable_estimate
from tmask.errors import InvalidProblemError

CONSTRAINTS = ("unstructured", "plain", "transposable", "structured")
# Larger binomial coefficients get their logarithm from the gamma function, not from the number itself.
_COMPUTED = 4096


@dataclass(frozen=True, slots=True)
class Diversity:
    """How many masks a constraint allows on a tensor.

    Args:
        constraint: one of `CONSTRAINTS`; `tensor_diversity` says what each allows.
        pattern: n of m, or the density n / m where the constraint knows no groups.
        size: number of weights.
        log2: of the number of masks.
        exact: whether `log2` is that of the exact count, up to rounding, or an estimate.
    """

    constraint: str
    pattern: Pattern
    shape: tuple[int, ...]
    groups: int
    size: int
    log2: float
    exact: bool
    _powers: tuple[tuple[int, int], ...] = field(default=(), repr=False)  # (masks of a tile, tiles) of each kind
    _choice: tuple[int, int] | None = field(default=None, repr=False)  # (of how many, how many are kept)

    @property
    def bits_per_weight(self) -> float:
        """log2 / size, which compares constraints across tiles and tensors of any size."""
        return self.log2 / self.size

    def count(self) -> int:
        """The exact number of masks, with `log2` bits: for a million weights, hundreds of thousands of digits.

        Raises:
            InvalidProblemError: it is an estimate that is at hand.
        """
        if not self.exact:
            raise InvalidProblemError(
                f"{self.pattern} on {self.shape}: only an estimate of log2 is known, no exact count"
            )
        if self._choice is not None:
            return math.comb(*self._choice)
        return math.prod(masks**tiles for masks, tiles in self._powers)


def tensor_diversity(
    shape: Sequence[int],
    pattern: Pattern | str,
    constraint: str = "transposable",
    *,
    groups: int = 1,
    layout: str | None = None,
    estimate: bool = False,
) -> Diversity:
    """The number of masks that a constraint allows on a tensor.

    - `transposable`: n in every row and column of each full m-by-m tile, at most n in tiles cut short at an edge: the
      masks that `tmask.check_mask` accepts, all of them.
    - `plain`: n of every m consecutive inputs (axis 1) of each output and kernel position, at most n in a group cut
      short.
    - `unstructured`: n/m of all weights, rounded, anywhere.
    - `structured`: n/m of the tiles, rounded, each kept or dropped whole; a tile cut short counts as one.

    Args:
        shape: of the weight; tiled as in `tmask.solve`.
        groups: of a grouped convolution.
        layout: as in `tmask.solve`.
        estimate: where the exact count of full tiles is out of reach, take `transposable_estimate` in its place.
    Raises:
        InvalidProblemError: an unknown constraint, an unusable shape, a count out of reach.
    Source: [Hubara2021] for the measure.
    """
    pattern = Pattern.parse(pattern)
    if constraint not in CONSTRAINTS:
        raise InvalidProblemError(f"constraint {constraint!r}: choose from {', '.join(CONSTRAINTS)}")
    tiling = Tiling(tuple(shape), pattern, groups, layout)
    size = math.prod(tiling.shape)
    density = Fraction(pattern.n, pattern.m)
    powers: list[tuple[int, int]] = []
    choice: tuple[int, int] | None = None
    exact = True
    if constraint == "unstructured":
        choice = (size, kept_of(size, density))
        log2 = log2_choice(*choice)
    elif constraint == "structured":
        tiles = sum(count for _, _, count in _tiles(tiling))
        choice = (tiles, kept_of(tiles, density))
        log2 = log2_choice(*choice)
    elif constraint == "plain":
        powers = _plain(tiling)
        log2 = sum(tiles * math.log2(masks) for masks, tiles in powers)
    else:
        log2, powers, exact = _transposable(tiling, estimate)
    return Diversity(constraint, pattern, tiling.shape, groups, size, log2, exact, tuple(powers), choice)


def log2_choice(size: int, kept: int) -> float:
    """log2 of C(size, kept), to float64's precision of the logarithms of factorials."""
    if min(kept, size - kept) <= _COMPUTED:
        return math.log2(math.comb(size, kept))
    return (math.lgamma(size + 1) - math.lgamma(kept + 1) - math.lgamma(size - kept + 1)) / math.log(2)


def _tiles(tiling: Tiling) -> Iterator[tuple[int, int, int]]:
    """(height, width, how many) of the tiles of each region."""
    for region in tiling.regions():
        yield region.height, region.width, tiling.num_matrices * math.prod(region.grid)


def _plain(tiling: Tiling) -> list[tuple[int, int]]:
    """Masks of a row of m, then of the shorter row at the edge; and how many rows there are."""
    n, m = tiling.pattern.n, tiling.pattern.m
    lines = tiling.num_matrices * tiling.rows
    whole, rest = divmod(tiling.cols, m)
    return [(math.comb(m, n), lines * whole), (sum(math.comb(rest, k) for k in range(min(n, rest) + 1)), lines)]


def _transposable(tiling: Tiling, estimate: bool) -> tuple[float, list[tuple[int, int]], bool]:
    """log2, the factors, and whether they are all exact."""
    n, m = tiling.pattern.n, tiling.pattern.m
    log2, powers, exact = 0.0, [], True
    for height, width, tiles in _tiles(tiling):
        if (height, width) != (m, m):
            powers.append((cut_short_count(height, width, n), tiles))
            log2 += tiles * math.log2(powers[-1][0])
            continue
        try:
            powers.append((transposable_count(n, m), tiles))
            log2 += tiles * math.log2(powers[-1][0])
        except InvalidProblemError:
            if not estimate:
                raise
            # Only the logarithm is known now, so `count` must refuse.
            exact = False
            log2 += tiles * transposable_estimate(n, m)
    return log2, powers, exact
