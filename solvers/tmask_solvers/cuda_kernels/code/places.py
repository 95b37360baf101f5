"""Where tiles lie: the numbers by which kernels find the entries of one matrix, or of many, of any shapes and strides.

A kernel gets the memory of weights as one long array that begins at the first of them, and likewise that of masks. Of
each matrix it is told, in entries of these arrays, where it begins and how far apart its tiles, rows and columns are.
So matrices that have nothing in common but dtype and pattern are solved by one launch. Tiles count through all
matrices, in the order of (K, G, down, across) in each.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tmask_solvers.cuda_kernels.code.lines import inlined

if TYPE_CHECKING:
    from torch import Tensor

# The numbers of a matrix, in order: its first tile, how many it has, and where the column prices of the first one
# stand; tiles across, down and groups; then of the weight and of the mask, where it begins and its six strides.
FIRST, COUNT, PRICES, ACROSS, DOWN, GROUPS, WEIGHT, MASK = 0, 1, 2, 3, 4, 5, 6, 13
NUMBERS = 20


def numbers_of(weight: Tensor, mask: Tensor, origins: tuple[Tensor, Tensor], first: int, prices: int) -> list[int]:
    """The numbers of one matrix, whose weight and mask are views (K, G, down, across, m, m).

    Args:
        origins: what kernels get as the memory of weights and of masks.
        first: number of its first tile; `prices` likewise, in entries.
    """
    matrices, groups, down, across = weight.shape[:4]
    numbers = [first, matrices * groups * down * across, prices, across, down, groups]
    for tensor, origin in zip((weight, mask), origins, strict=True):
        numbers += [entries_between(origin, tensor), *tensor.stride()]
    return numbers


def entries_between(origin: Tensor, tensor: Tensor) -> int:
    """How many entries a tensor's first one lies behind that of another one of its dtype, or before it, if negative."""
    # Whole entries, since torch keeps tensors of a dtype at multiples of its size.
    return (tensor.data_ptr() - origin.data_ptr()) // tensor.element_size()


def origin_of(tensor: Tensor) -> Tensor:
    """The memory from a tensor's first entry on, as an array of one entry: kernels reach all others from there."""
    return tensor.detach().as_strided((1,), (1,))


def make_places(cuda: Any, many: bool) -> SimpleNamespace:
    """Device functions on `where`, an array (matrices, NUMBERS) int64 if `many`, else the tuple of one matrix.

    - matrix_of(where, place): the matrix in which this tile lies
    - number(where, r, k): number k of matrix r
    - corner(where, r, local): of a tile, counted in its matrix: where its first entry is, how far rows and columns are
      apart in the weight, and the same of the mask

    Places in memory are unsigned, so that none counts from the end: they wrap where a matrix lies before the first.
    """

    def search(where: Any, place: Any) -> Any:
        low, high = 0, where.shape[0] - 1
        while low < high:
            middle = (low + high + 1) >> 1
            if where[middle, FIRST] <= place:
                low = middle
            else:
                high = middle - 1
        return low

    def only(where: Any, place: Any) -> Any:
        return 0

    def of_many(where: Any, r: Any, k: Any) -> Any:
        return where[r, k]

    def of_one(where: Any, r: Any, k: Any) -> Any:
        return where[k]

    number = inlined(cuda, of_many if many else of_one)

    def unsigned(where: Any, r: Any, k: Any) -> Any:
        return np.uint64(number(where, r, k))

    unsigned = inlined(cuda, unsigned)

    def start(where: Any, r: Any, at: Any, k: Any, g: Any, y: Any, x: Any) -> Any:
        """Of a tile, the place of its first entry; `at` is WEIGHT or MASK."""
        rest = y * unsigned(where, r, at + 3) + x * unsigned(where, r, at + 4)
        return unsigned(where, r, at) + k * unsigned(where, r, at + 1) + g * unsigned(where, r, at + 2) + rest

    start = inlined(cuda, start)

    def corner(where: Any, r: Any, local: Any) -> Any:
        # In 32 bits, since a GPU divides 64 by a long routine; `launch` refuses more tiles than that.
        tile = np.uint32(local)
        across, down = np.uint32(number(where, r, ACROSS)), np.uint32(number(where, r, DOWN))
        groups = np.uint32(number(where, r, GROUPS))
        x, tile = np.uint64(tile % across), tile // across
        y, tile = np.uint64(tile % down), tile // down
        g, k = np.uint64(tile % groups), np.uint64(tile // groups)
        return (
            start(where, r, WEIGHT, k, g, y, x),
            unsigned(where, r, WEIGHT + 5),
            unsigned(where, r, WEIGHT + 6),
            start(where, r, MASK, k, g, y, x),
            unsigned(where, r, MASK + 5),
            unsigned(where, r, MASK + 6),
        )

    return SimpleNamespace(
        matrix_of=inlined(cuda, search if many else only), number=number, corner=inlined(cuda, corner)
    )
