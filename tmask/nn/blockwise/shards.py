"""Tensors of a copied model, written over where they lie: the same dtype and shape take the same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from tmask.errors import FileFormatError
from tmask.files.safetensors_files import INDEX
from tmask.files.tensors import contents
from tmask.files.weight_file import WeightFile


class Shards:
    """The shards of a copy.

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

    def write(self, name: str, tensor: Tensor) -> None:
        """A tensor in the place of the one of that name; on the disk when this returns.

        Raises:
            FileFormatError: it takes more or fewer bytes there.
        """
        path = self._folder / self._where[name]
        with path.open("r+b") as file:
            size = int.from_bytes(file.read(8), "little")
            start, end = json.loads(file.read(size))[name]["data_offsets"]
            data = contents(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
            if len(data) != end - start:
                raise FileFormatError(f"{path}: {name} takes {end - start} bytes there, not {len(data)}")
            file.seek(8 + size + start)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
