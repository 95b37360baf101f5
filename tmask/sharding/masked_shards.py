"""Masked weights of shards: each process writes those of its own layers, and an index makes a model of them.

Tensors that get no mask are spread among the shards. A weight that comes in bands is nobody's alone, and is written
when the bands are joined.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from tmask.errors import FileFormatError, InvalidProblemError, OutputError
from tmask.files.atomic import atomic_path, check_output
from tmask.files.layers import Layer
from tmask.files.masked_weights import is_folder, listing_of, masked_loader
from tmask.files.masks import MaskRecord, open_masks
from tmask.files.outputs.formats import check_format, write_weights
from tmask.files.outputs.model_folder import check_place, copy_beside
from tmask.files.packed_mask import PackedMask
from tmask.files.safetensors_files import open_safetensors
from tmask.files.stretches import tensor_stretch
from tmask.files.tensors import num_bytes
from tmask.files.weight_file import WeightFile
from tmask.sharding.joining import bands_by_weight
from tmask.sharding.merging import MaskShards, find_shards, finish, index_path, joined_path, shard_path
from tmask.sharding.place import Place
from tmask.sharding.plan import spread

_NAME = "model.safetensors"


def check_masked_shards(name: str, source: WeightFile, overwrite: bool, place: Place | None) -> Path:
    """The folder, if a shard's masked weights can be written there; of no place, if the index can.

    Raises:
        InvalidProblemError: not the name of a folder.
        FileFormatError: weights that a safetensors file cannot hold.
        OutputError: it cannot be written, or exists already.
    """
    if not is_folder(name, from_folder=True):
        raise InvalidProblemError(f"{name}: shards write masked weights to a folder; give the name of one")
    folder = Path(name)
    check_place(folder, source)
    check_format(folder / _NAME, listing_of(source))
    output = index_path(folder / _NAME) if place is None else shard_path(folder / _NAME, place)
    if folder.is_dir():
        check_output(output, overwrite)
    return folder


def write_masked_shard(
    folder: Path,
    place: Place,
    source: WeightFile,
    layers: Sequence[Layer],
    records: Sequence[MaskRecord],
    overwrite: bool,
) -> Path:
    """Write a shard's own layers, masked, and its part of what gets no mask.

    Args:
        layers: all that get masks, of any shard.
    Raises:
        OutputError: it cannot be written, or exists already.
        FileFormatError: a tensor that cannot be read.
    """
    masks = {record.name: record.packed for record in records if record.band is None}
    named = {layer.name for layer in layers}
    sizes = {
        name: math.prod(shape) * num_bytes(source.dtypes[name])
        for name, shape in source.shapes.items()
        if name not in named
    }
    own = {*masks, *spread(sizes, place.count)[place.index - 1]}
    output = shard_path(folder / _NAME, place)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    _write(output, source, masks, [name for name in source.names if name in own], overwrite)
    return output


def finish_with_weights(
    output: Path, shards: MaskShards, source: WeightFile, folder: Path | None, overwrite: bool
) -> list[Path]:
    """As `finish`, and a folder of masked weights made a model, with an index of its own; the indexes.

    Raises:
        FileFormatError: a shard of weights is missing, foreign, or holds other than the masked weights.
        OutputError: a file cannot be written, or exists already.
    """
    if folder is None:
        return [finish(output, shards, source, overwrite)]
    banded = bands_by_weight(shards).keys()
    where = _checked(folder, source, shards, banded)  # before there is an index of anything
    index = finish(output, shards, source, overwrite)
    joined = joined_path(folder / _NAME)
    if banded:
        masks = open_masks(index)
        _write(joined, source, {name: masks[name].packed for name in banded}, [*banded], True)
        where |= dict.fromkeys(banded, joined.name)
    copy_beside(source, folder)
    total = sum(math.prod(shape) * num_bytes(source.dtypes[name]) for name, shape in source.shapes.items())
    document = {"metadata": {"total_size": total}, "weight_map": {name: where[name] for name in source.names}}
    with atomic_path(index_path(folder / _NAME), overwrite) as temporary:
        temporary.write_text(json.dumps(document, indent=2))
    return [index, index_path(folder / _NAME)]


def _checked(folder: Path, source: WeightFile, shards: MaskShards, banded: Collection[str]) -> dict[str, str]:
    """The file of each tensor that the shards have written, which must be all but those that are joined."""
    paths = find_shards(folder / _NAME)
    if len(paths) != len(shards):
        raise FileFormatError(f"{folder} holds {len(paths)} shards of masked weights, but masks come in {len(shards)}")
    held = {name: records for records in shards.values() for name in records}
    where: dict[str, str] = {}
    for path in paths.values():
        written = open_safetensors(path)
        for name in written.names:
            record = held[name][name] if name in held else None
            if name in where or name in banded or not _same(written, source, record, name):
                raise FileFormatError(f"{path}: {name!r} is not what its mask makes of it; run that shard again")
            where[name] = path.name
    if missing := [name for name in source.names if name not in where and name not in banded]:
        raise FileFormatError(f"{folder}: no shard holds {', '.join(missing[:5])}; run the shards again")
    return where


def _write(
    output: Path, source: WeightFile, masks: Mapping[str, PackedMask], names: Sequence[str], overwrite: bool
) -> None:
    listing = listing_of(source)
    with atomic_path(output, overwrite) as temporary:
        write_weights(temporary, ".safetensors", {n: listing[n] for n in names}, masked_loader(source, masks))


def _same(written: WeightFile, source: WeightFile, record: MaskRecord | None, name: str) -> bool:
    """Whether a tensor was written as its mask, if it has one, makes it."""
    if (written.shapes[name], written.dtypes[name]) != (source.shapes.get(name), source.dtypes.get(name)):
        return False
    own, theirs = tensor_stretch(name, written), tensor_stretch(name, source)
    for start, stop in own.parts():
        expected = theirs.load(start, stop).bits
        if record is not None:
            expected = np.where(record.packed.part(start, stop), expected, expected.dtype.type(0))
        if not np.array_equal(own.load(start, stop).bits, expected):
            return False
    return True
