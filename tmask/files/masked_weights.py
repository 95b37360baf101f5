"""Masks and the weights that they were made for: do they belong together, and the weights with their masks applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from tmask.blocks.tiling import Mask
from tmask.errors import FileFormatError
from tmask.files.atomic import atomic_path, check_output
from tmask.files.masks import MaskRecord
from tmask.files.safetensors_files import check_dtype, check_names, write_safetensors
from tmask.files.tensors import Tensor
from tmask.files.weight_file import WeightFile


def check_belongs(record: MaskRecord, tensor: Tensor) -> None:
    """Return if the mask was made for these weights.

    Raises:
        FileFormatError: another shape, or other contents.
    """
    _check_shape(record.name, record.mask, tensor.shape)
    if record.weights_sha256 != tensor.sha256():
        raise FileFormatError(
            f"the mask of {record.name!r} was made for other weights (their hash differs); solve again"
        )


def check_writable(source: WeightFile) -> None:
    """Return if a safetensors file can hold all tensors of the source; to be asked before long work as well.

    Raises:
        FileFormatError: a name or a dtype that it cannot hold.
    """
    check_names(source.names)
    for name, dtype in source.dtypes.items():
        check_dtype(name, dtype)


def write_masked_weights(
    path: str | Path, source: WeightFile, masks: Mapping[str, Mask], overwrite: bool = False
) -> None:
    """A safetensors file with every tensor of the source, pruned entries set to +0, all other bits as they are.

    Raises:
        OutputError: it cannot be written, or exists already.
        FileFormatError: a tensor that cannot be read, or of a dtype that safetensors does not have; a mask of another
            shape than its weight, or for a weight that the source does not have.
    Cost: memory for one tensor.
    """
    path = check_output(path, overwrite)
    for name, mask in masks.items():
        if name not in source.shapes:
            raise FileFormatError(f"there is a mask for {name!r}, but {source.path} holds no such tensor")
        _check_shape(name, mask, source.shapes[name])

    def load(name: str) -> Tensor:
        tensor = source.read(name)
        if name not in masks:
            return tensor
        # By bits: times 0, an infinite weight becomes NaN, and a negative one -0.
        return replace(tensor, bits=np.where(masks[name], tensor.bits, tensor.bits.dtype.type(0)))

    listing = {name: (source.dtypes[name], shape) for name, shape in source.shapes.items()}
    with atomic_path(path, overwrite) as temporary:
        # `transformers` asks for this entry.
        write_safetensors(temporary, listing, load, {"format": "pt"})


def _check_shape(name: str, mask: Mask, shape: tuple[int, ...]) -> None:
    if mask.shape != shape:
        raise FileFormatError(f"the mask of {name!r} has shape {mask.shape}, but the weight has {shape}")
