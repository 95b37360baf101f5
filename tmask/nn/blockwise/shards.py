"""Tensors of a copied model, written over where they lie: the same dtype and shape take the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tmask.errors import FileFormatError
from tmask.files.safetensors_files import INDEX
from tmask.files.tensors import contents
from tmask.files.weight_file import WeightFile


class Shards:
    """The shards of a copy. Where tensors lie in a shard is read once, since writing moves none.

    Args:
        folder: of the copy.
        source: the weights that were copied.
    """

    def __init__(self, folder: Path, source: WeightFile) -> None:
        self._folder = folder
        if source.path.name.endswith(INDEX):
            self._where = json.loads(source.path.read_text(encoding="utf-8"))["weight_map"]
        else:
            self._where = dict.fromkeys(source.names, source.path.name)
        self._places: dict[str, dict[str, tuple[int, int]]] = {}

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Tensors in the places of those of their names; on the disk when this returns.

        Raises:
            FileFormatError: one takes more or fewer bytes there.
        """
        by_shard: dict[str, list[str]] = {}
        for name in tensors:
            by_shard.setdefault(self._where[name], []).append(name)
        for shard, names in by_shard.items():
            places = self._places_in(shard)
            with (self._folder / shard).open("r+b") as file:
                for name in names:
                    begin, end = places[name]
                    data = contents(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
                    if len(data) != end - begin:
                        raise FileFormatError(f"{shard}: {name} takes {end - begin} bytes there, not {len(data)}")
                    file.seek(begin)
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())

    def _places_in(self, shard: str) -> dict[str, tuple[int, int]]:
        """Where each tensor of a shard begins and ends."""
        if shard not in self._places:
            with (self._folder / shard).open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            ends = {name: entry["data_offsets"] for name, entry in header.items()}
            self._places[shard] = {name: (8 + size + begin, 8 + size + end) for name, (begin, end) in ends.items()}
        return self._places[shard]
