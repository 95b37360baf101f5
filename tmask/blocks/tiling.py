"""Cut a weight of any shape into square blocks, and put masks back together.

Shapes: a weight is (rows, cols), a stack of those (*stack, rows, cols) or, for a convolution, (Cout, Cin, *kernel). It
is seen as matrices (K, G, rows, cols), one for each member of the stack or kernel position, and group, and each matrix
is cut into m-by-m tiles.

Where m does not divide a side, the last tile is smaller, and a mask keeps *at most* n per row and column of it.
Such a tile is solved as a zero-padded block of side 2m with exactly n per line, which has the same optimum. Padding to
m would not: the padded lines need n entries too, and take some in lines of the tile, in a weight's place
(docs/decisions/0002-ragged-edges.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tmask.blocks.layouts import read_layout, sides
from tmask.blocks.pattern import Pattern
from tmask.errors import InvalidProblemError

Item = TypeVar("Item", bound=np.generic)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Region:
    """A part of every matrix in the stack that is cut into tiles of one shape.

    Args:
        rows: first row and one past the last.
        cols: first column and one past the last.
        height, width: of a tile, at most m.
        side: of the block that stands for a tile: m, or 2m with zero padding for a tile that is cut short.
    """

    rows: tuple[int, int]
    cols: tuple[int, int]
    height: int
    width: int
    side: int

    @property
    def full(self) -> bool:
        """Whether its tiles are m-by-m, which must keep exactly n per line."""
        return self.height == self.width == self.side

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles down and across, in each matrix."""
        return (self.rows[1] - self.rows[0]) // self.height, (self.cols[1] - self.cols[0]) // self.width

    def cut(self, matrices: npt.NDArray[Item]) -> npt.NDArray[Item]:
        """This region of matrices (K, G, rows, cols), a view."""
        return matrices[:, :, slice(*self.rows), slice(*self.cols)]

    def split(self, matrices: npt.NDArray[Item]) -> npt.NDArray[Item]:
        """The blocks (B, side, side) of this region of (K, G, rows, cols), zero-padded; a copy."""
        down, across = self.grid
        tiles = self.cut(matrices).reshape(-1, down, self.height, across, self.width).transpose(0, 1, 3, 2, 4)
        tiles = tiles.reshape(-1, self.height, self.width)  # (B, height, width)
        if self.full:
            return tiles
        blocks = np.zeros((len(tiles), self.side, self.side), tiles.dtype)
        blocks[:, : self.height, : self.width] = tiles
        return blocks

    def complete(self, masks: Mask, n: int) -> Mask:
        """Masks (B, side, side) of this region's tiles, with entries in the padding so that each line keeps n.

        Every padded column is filled in turn, row by row, going round: so each gets exactly n. The padded rows
        likewise. A tile whose mask keeps more than n in a line is left as it is.
        """
        if self.full:
            return masks
        masks = masks.copy()
        tiles = masks[:, : self.height, : self.width]
        fits = (tiles.sum(2) <= n).all(1) & (tiles.sum(1) <= n).all(1)
        # The columns first, then all rows, those below included, which have their share of the padded columns to fill.
        below = _take_turns(n - tiles[fits].sum(1), self.side - self.height)  # (b, width, padded rows)
        lacking = np.concatenate([n - tiles[fits].sum(2), n - below.sum(1)], axis=1)  # (b, side)
        right = _take_turns(lacking, self.side - self.width)  # (b, side, padded columns)
        completed = masks[fits]
        completed[:, self.height :, : self.width] = below.transpose(0, 2, 1)
        completed[:, :, self.width :] = right
        masks[fits] = completed
        return masks

    def join(self, blocks: npt.NDArray[Item], matrices: npt.NDArray[Item]) -> None:
        """Write blocks (B, side, side) back to this region of (K, G, rows, cols), without their padding."""
        down, across = self.grid
        tiles = blocks[:, : self.height, : self.width]
        tiles = tiles.reshape(-1, down, across, self.height, self.width).transpose(0, 1, 3, 2, 4)
        # Into the view: a reshaped one might be a copy, and nothing would be written.
        target = self.cut(matrices)
        target[...] = tiles.reshape(target.shape)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a weight of one shape is cut into blocks under one pattern.

    Args:
        shape: of the weight, (rows, cols), (*stack, rows, cols) or (Cout, Cin, *kernel); for a grouped convolution Cin
            is the number of inputs *per group*, as torch stores it.
        pattern: n kept of every m.
        groups: of a grouped convolution; a tile never crosses a group.
        layout: see `tmask.blocks.layouts`; None for the only one that the shape can mean.
        at_most: full tiles too keep at most n per line, and are solved as those that are cut short: a mask that keeps
            exactly n everywhere and drops some entries afterwards can be worse (docs/decisions/0008-kept-zeros.md).
    Raises:
        InvalidProblemError: fewer than two axes, an empty axis, groups that do not divide the rows, or a layout that
            does not fit or is not clear.
    """

    shape: tuple[int, ...]
    pattern: Pattern
    groups: int = 1
    layout: str | None = None
    at_most: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.groups, bool) or not isinstance(self.groups, Integral):
            raise InvalidProblemError(f"groups is {self.groups!r} ({type(self.groups).__name__}); give a whole number")
        if len(self.shape) < 2:
            raise InvalidProblemError(
                f"weight of shape {self.shape}: a transposable mask needs at least two axes (rows and columns)"
            )
        if 0 in self.shape:
            raise InvalidProblemError(f"weight of shape {self.shape} is empty")
        # What it is read as from here on; frozen against others alone.
        object.__setattr__(self, "layout", read_layout(self.shape, self.layout))
        outputs, _ = sides(self.shape, self.read_as)
        if self.groups < 1 or outputs % self.groups:
            raise InvalidProblemError(
                f"weight of shape {self.shape}: {self.groups} groups do not divide {outputs} output channels"
            )

    @property
    def read_as(self) -> str:
        """The layout, given or not."""
        assert self.layout is not None
        return self.layout

    @property
    def positions(self) -> tuple[int, ...]:
        """The shape of what there is a matrix for: the kernel, the stack, or empty."""
        return self.shape[:-2] if self.stacked else self.shape[2:]

    @property
    def stacked(self) -> bool:
        """Whether the matrices' axes come last."""
        return self.layout == "stack"

    @property
    def rows(self) -> int:
        """Rows of each matrix: output channels of a group."""
        return sides(self.shape, self.read_as, self.groups)[0]

    @property
    def cols(self) -> int:
        """Columns of each matrix: input channels of a group."""
        return sides(self.shape, self.read_as)[1]

    @property
    def num_matrices(self) -> int:
        """Matrices that the weight is seen as: positions times groups."""
        return math.prod(self.positions) * self.groups

    def to_matrices(self, weight: npt.NDArray[Item]) -> npt.NDArray[Item]:
        """The weight as (K, G, rows, cols); a view of a contiguous one."""
        if self.stacked:
            return weight.reshape(math.prod(self.positions), self.groups, self.rows, self.cols)
        return weight.reshape(self.groups, self.rows, self.cols, math.prod(self.positions)).transpose(3, 0, 1, 2)

    def regions(self) -> Iterator[Region]:
        """The full tiles, then those cut short at the right, at the bottom and in the corner, where present."""
        m = self.pattern.m
        for (r0, r1), height in _spans(self.rows, m):
            for (c0, c1), width in _spans(self.cols, m):
                side = m if height == width == m and not self.at_most else 2 * m
                yield Region((r0, r1), (c0, c1), height, width, side)

    def most_kept(self) -> int:
        """The most entries that a mask can keep: n in every line of a full tile, up to n in one that is cut short."""
        n = self.pattern.n
        kept = 0
        for region in self.regions():
            high, wide = region.height, region.width
            # Rows allow the one number, columns the other, and the lesser of them can be reached.
            kept += math.prod(region.grid) * min(high * min(n, wide), wide * min(n, high))
        return kept * self.num_matrices

    def split(self, weight: npt.NDArray[Item]) -> list[npt.NDArray[Item]]:
        """The blocks of each region, in the order of `regions`."""
        matrices = self.to_matrices(weight)
        return [region.split(matrices) for region in self.regions()]

    def join(self, blocks: Sequence[npt.NDArray[Item]]) -> npt.NDArray[Item]:
        """The array of this shape that the blocks of each region make up."""
        weight = np.empty(self.shape, blocks[0].dtype)
        matrices = self.to_matrices(weight)
        for region, part in zip(self.regions(), blocks, strict=True):
            region.join(part, matrices)
        return weight

    @property
    def num_blocks(self) -> int:
        """Blocks of all regions."""
        return self.num_matrices * sum(math.prod(region.grid) for region in self.regions())

    def locate(self, region: Region, block: int) -> str:
        """Where a block of a region lies in the weight, in words for an error text."""
        down, across = region.grid
        matrix, tile = divmod(block, down * across)
        row = region.rows[0] + tile // across * region.height
        col = region.cols[0] + tile % across * region.width
        position, group = divmod(matrix, self.groups)  # positions come first, see `to_matrices`
        row += group * self.rows
        text = f"rows {row}-{row + region.height - 1}, columns {col}-{col + region.width - 1}"
        if self.positions:
            what = "matrix" if self.stacked else "kernel position"
            text += f", {what} {tuple(int(k) for k in np.unravel_index(position, self.positions))}"
        return text


def _take_turns(counts: npt.NDArray[np.integer[Any]], places: int) -> Mask:
    """(B, lines, places) bool: each line in turn takes the next `counts` (B, lines) places, going round."""
    # Where the line before has stopped: so no place gets two more than another.
    start = np.cumsum(counts, axis=1) - counts
    offset = (np.arange(places) - start[:, :, None]) % places
    return np.asarray(offset < counts[:, :, None])


def _spans(length: int, m: int) -> Iterator[tuple[tuple[int, int], int]]:
    """The part of an axis that m divides with tiles of m, then what is left as one shorter tile."""
    whole = length - length % m
    if whole:
        yield (0, whole), m
    if whole < length:
        yield (whole, length), length - whole
