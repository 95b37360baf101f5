"""What a mask was made for, in a weight file: a whole tensor or the band of one, read a part at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tmask.errors import FileFormatError
from tmask.files.masks import MaskRecord
from tmask.files.tensors import Tensor, begun_digest, contents
from tmask.files.weight_file import WeightFile

AT_ONCE = 1 << 20  # entries that are read together, few enough to stay in caches


@dataclass(frozen=True, slots=True)
class Stretch:
    """A shape, a dtype, and what reads entries of it, flat: from and up to which."""

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[int, int], Tensor]

    def parts(self) -> Iterator[tuple[int, int]]:
        """From and up to which entries each part goes."""
        size = math.prod(self.shape)
        for start in range(0, size, AT_ONCE):
            yield start, min(start + AT_ONCE, size)

    def sha256(self) -> str:
        """As `Tensor.sha256`."""
        digest = begun_digest(self.dtype, self.shape)
        for start, stop in self.parts():
            digest.update(contents(self.load(start, stop).bits))
        return digest.hexdigest()


def tensor_stretch(name: str, source: WeightFile) -> Stretch:
    """A whole tensor.

    Raises:
        FileFormatError: the file has no such tensor; what reads it raises where it cannot.
    """
    load = source.parts(name)
    return Stretch(source.shapes[name], source.dtypes[name], load)


def stretch_of(record: MaskRecord, source: WeightFile) -> Stretch:
    """What a mask was made for.

    Raises:
        FileFormatError: the file has no such tensor, or one of another shape; `check_digest` says if it is another one.
    """
    band = record.band
    whole = tensor_stretch(record.name if band is None else band.of, source)
    shape = record.packed.shape if band is None else band.whole
    if shape != whole.shape:
        raise FileFormatError(f"the mask of {record.name!r} has shape {shape}, but the weight has {whole.shape}")
    first = 0 if band is None else band.entries[0]
    return Stretch(record.packed.shape, whole.dtype, lambda start, stop: whole.load(first + start, first + stop))


def check_digest(record: MaskRecord, sha256: str) -> None:
    """Return if a mask was made for contents of this digest.

    Raises:
        FileFormatError: it was made for others.
    """
    if sha256 != record.weights_sha256:
        raise FileFormatError(
            f"the mask of {record.name!r} was made for other weights (their hash differs); solve again"
        )
