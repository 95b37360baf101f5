"""Weights with their masks applied."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tmask.errors import FileFormatError
from tmask.files.atomic import atomic_path, check_output
from tmask.files.outputs.formats import Listing, Load, check_format, write_weights
from tmask.files.outputs.model_folder import check_folder, write_folder
from tmask.files.outputs.names import WEIGHT_ENDINGS
from tmask.files.packed_mask import PackedMask
from tmask.files.safetensors_files import INDEX, check_names
from tmask.files.stretches import tensor_stretch
from tmask.files.tensors import Tensor, num_bytes
from tmask.files.weight_file import WeightFile


def is_folder(path: str | Path, from_folder: bool = False) -> bool:
    """Whether an output's name is that of a folder: by a / at its end, one that is there, or, for a model that is read
    from a folder, a name that is not of a file."""
    text = os.fspath(path)
    is_file = Path(path).suffix.lower() in WEIGHT_ENDINGS or text.lower().endswith(INDEX)
    return text.endswith(("/", os.sep)) or Path(path).is_dir() or (from_folder and not is_file)


def check_masked_weights(path: str | Path, source: WeightFile, overwrite: bool, from_folder: bool = False) -> None:
    """Return if `write_masked_weights` can write there; before any work.

    Raises:
        InvalidProblemError: the name's ending is of no format that can hold these weights.
        OutputError: it cannot be written, or exists already.
    """
    check_names(source.names)
    if is_folder(path, from_folder):
        check_folder(Path(path), source, overwrite)
    else:
        check_format(Path(path), listing_of(source))
        check_output(path, overwrite)


def write_masked_weights(
    path: str | Path,
    source: WeightFile,
    masks: Mapping[str, PackedMask],
    overwrite: bool = False,
    from_folder: bool = False,
) -> None:
    """Every tensor of the source, pruned entries set to +0, all other bits as they are.

    The format is what the name says: .safetensors, .npz, .npy, .pt, .pth or .bin; a folder gets a Hugging
    Face directory.

    Raises:
        InvalidProblemError, OutputError: as `check_masked_weights`.
        FileFormatError: a tensor that cannot be read, or of a dtype that the format does not have; a mask of another
            shape than its weight, or for a weight that the source does not have.
    Cost: memory for one tensor; for all of them in a torch file.
    """
    check_masked_weights(path, source, overwrite, from_folder)
    for name, mask in masks.items():
        if name not in source.shapes:
            raise FileFormatError(f"there is a mask for {name!r}, but {source.path} holds no such tensor")
        if mask.shape != source.shapes[name]:
            raise FileFormatError(
                f"the mask of {name!r} has shape {mask.shape}, but the weight has {source.shapes[name]}"
            )

    load = masked_loader(source, masks)
    if is_folder(path, from_folder):
        write_folder(Path(path), source, listing_of(source), load, overwrite)
        return
    with atomic_path(path, overwrite) as temporary:
        write_weights(temporary, Path(path).suffix.lower(), listing_of(source), load)


def masked_loader(source: WeightFile, masks: Mapping[str, PackedMask]) -> Load:
    """Reads a tensor of the source, with its mask applied if it has one; never with a copy of it beside."""

    def load(name: str) -> Tensor:
        if name not in masks:
            return source.read(name)
        whole = tensor_stretch(name, source)
        bits = np.empty(whole.shape, f"<u{num_bytes(whole.dtype)}")
        flat = bits.reshape(-1)
        for start, stop in whole.parts():
            # By bits: times 0, an infinite weight becomes NaN, and a negative one -0.
            np.copyto(flat[start:stop], 0)
            np.copyto(flat[start:stop], whole.load(start, stop).bits, where=masks[name].part(start, stop))
        return Tensor(whole.dtype, bits)

    return load


def listing_of(source: WeightFile) -> Listing:
    """What the source holds."""
    return {name: (source.dtypes[name], shape) for name, shape in source.shapes.items()}
