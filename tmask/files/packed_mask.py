"""A mask as bits: an eighth of a bool array, so that the masks of a large model can be held together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tmask.blocks.tiling import Mask


@dataclass(frozen=True, slots=True, eq=False)
class PackedMask:
    """Entries in C order, the first in the lowest bit of a byte; the bits beyond the last are 0.

    Args:
        bits: (number of entries / 8, rounded up,) uint8.
        shape: of the mask.
    """

    bits: npt.NDArray[np.uint8] = field(repr=False)
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.bits.dtype != np.uint8 or self.bits.shape != (-(-self.size // 8),):
            raise ValueError(f"{self.bits.size} bytes do not hold a mask of shape {self.shape}")
        # Set ones are damage, or belong to another shape.
        if self.size % 8 and int(self.bits[-1]) >> self.size % 8:
            raise ValueError(f"a mask of shape {self.shape} has bits beyond its last entry")

    @classmethod
    def of(cls, mask: Mask) -> PackedMask:
        """Of a bool array."""
        return cls(np.packbits(mask.ravel(), bitorder="little"), mask.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def unpack(self) -> Mask:
        """A new bool array."""
        # What numpy unpacks is 0 or 1, which is what bool holds.
        return np.unpackbits(self.bits, count=self.size, bitorder="little").view(np.bool_).reshape(self.shape)

    def part(self, start: int, stop: int) -> Mask:
        """A new bool array of some entries, flat: from and up to which in C order."""
        skipped = start % 8
        bits = self.bits[start // 8 : -(-stop // 8)]
        return np.unpackbits(bits, count=skipped + stop - start, bitorder="little").view(np.bool_)[skipped:]
