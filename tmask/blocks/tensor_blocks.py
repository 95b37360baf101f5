"""Cut a tensor into blocks where it lies: what `tiling` does to arrays, by the same regions.

Legend: matrices (K, G, rows, cols); tiles (K, G, down, across, height, width), a view of them; blocks (B, side, side).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tmask.blocks.tiling import Region, Tiling

if TYPE_CHECKING:
    from torch import Tensor

Index = tuple[slice, slice, slice, slice]


def to_matrices(tiling: Tiling, weight: Tensor) -> Tensor:
    """The weight as (K, G, rows, cols); a view of a contiguous one."""
    if tiling.stacked:
        return weight.reshape(math.prod(tiling.positions), tiling.groups, tiling.rows, tiling.cols)
    shape = (tiling.groups, tiling.rows, tiling.cols, math.prod(tiling.positions))
    return weight.reshape(shape).permute(3, 0, 1, 2)


def cut_region(region: Region, matrices: Tensor) -> Tensor:
    """The region of the matrices, a view."""
    return matrices[:, :, slice(*region.rows), slice(*region.cols)]


def cut_tiles(matrices: Tensor, height: int, width: int) -> Tensor:
    """(K, G, h, w) as (K, G, down, across, height, width), a view."""
    # Never a copy, as `reshape` may make: masks are written through this.
    number, groups, rows, cols = matrices.shape
    return matrices.view(number, groups, rows // height, height, cols // width, width).transpose(3, 4)


def padded_blocks(region: Region, matrices: Tensor) -> Tensor:
    """The blocks (B, side, side) of a region whose tiles are cut short, with zeros around them."""
    tiles = cut_tiles(cut_region(region, matrices), region.height, region.width)
    blocks = tiles.new_zeros((math.prod(tiles.shape[:4]), region.side, region.side))
    blocks[:, : region.height, : region.width] = tiles.reshape(-1, region.height, region.width)
    return blocks


def join_padded(region: Region, blocks: Tensor, matrices: Tensor) -> None:
    """Write such blocks back, without what is around them."""
    tiles = cut_tiles(cut_region(region, matrices), region.height, region.width)
    tiles.copy_(blocks[:, : region.height, : region.width].reshape(tiles.shape))


def pieces(grid: tuple[int, ...], limit: int) -> Iterator[Index]:
    """Indices into tiles (K, G, down, across, ...) that together cover all of them, each at most `limit` tiles.

    Whatever is longest is halved, so that many small matrices are as few pieces as one large one.
    """
    todo = [tuple((0, length) for length in grid)]
    while todo:
        spans = todo.pop()
        lengths = [stop - start for start, stop in spans]
        if math.prod(lengths) <= max(limit, 1):
            first, second, third, fourth = (slice(start, stop) for start, stop in spans)
            yield first, second, third, fourth
            continue
        axis = lengths.index(max(lengths))
        start, stop = spans[axis]
        middle = (start + stop) // 2
        # The later half first, since what goes in last comes out first: pieces come in order.
        for half in ((middle, stop), (start, middle)):
            todo.append((*spans[:axis], half, *spans[axis + 1 :]))
