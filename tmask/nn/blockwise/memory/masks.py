"""Masks of a whole model as bits: an eighth of what bool tensors take."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tmask.errors import FileFormatError
from tmask.files.atomic import atomic_path
from tmask.files.damage import DAMAGE, describe

_SHAPES = "__shapes__"


class PackedMasks(MutableMapping[str, Tensor]):
    """Bool tensors by name; packed when they are put in, unpacked on the CPU when they are asked for."""

    def __init__(self, masks: Mapping[str, Tensor] | None = None) -> None:
        self._packed: dict[str, tuple[tuple[int, ...], npt.NDArray[np.uint8]]] = {}
        for name, mask in (masks or {}).items():
            self[name] = mask

    def __setitem__(self, name: str, mask: Tensor) -> None:
        self._packed[name] = tuple(mask.shape), np.packbits(mask.cpu().numpy().ravel())

    def __getitem__(self, name: str) -> Tensor:
        shape, bits = self._packed[name]
        return torch.from_numpy(np.unpackbits(bits, count=math.prod(shape)).astype(np.bool_).reshape(shape))

    def __delitem__(self, name: str) -> None:
        del self._packed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def save(self, path: Path) -> None:
        """Write a .npz file: the bits of each mask, the first in the highest bit of a byte, and shapes as JSON."""
        shapes = {name: list(shape) for name, (shape, _) in self._packed.items()}
        with atomic_path(path) as temporary:
            arrays: dict[str, Any] = {name: bits for name, (_, bits) in self._packed.items()}
            np.savez_compressed(temporary, **arrays | {_SHAPES: np.array(json.dumps(shapes))})

    @classmethod
    def load(cls, path: Path) -> PackedMasks:
        """What `save` wrote.

        Raises:
            FileFormatError: the file is missing or damaged.
        """
        masks = cls()
        try:
            with np.load(path, allow_pickle=False) as file:
                shapes = json.loads(str(file[_SHAPES]))
                masks._packed = {name: (tuple(shape), file[name]) for name, shape in shapes.items()}
        except DAMAGE as error:
            raise FileFormatError(f"{path} holds no masks: {describe(error)}") from error
        return masks
