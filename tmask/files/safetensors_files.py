"""safetensors: one file, an index of shards, and a writer that holds one tensor at a time."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from tmask.errors import FileFormatError
from tmask.files.damage import DAMAGE, describe, is_text, unlike
from tmask.files.tensors import CODES, NAMES, Tensor, contents, from_bytes, num_bytes
from tmask.files.weight_file import WeightFile

INDEX = ".safetensors.index.json"


def open_safetensors(path: Path) -> WeightFile:
    """The library checks the file; the bits are read here, since its numpy side has no bfloat16.

    Raises:
        FileFormatError: truncated, damaged, or of another format.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size), object_pairs_hook=each_once)
    except (safetensors.SafetensorError, *DAMAGE) as error:
        raise unlike(path, "safetensors file", error) from error
    header.pop("__metadata__", None)
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    dtypes = {name: NAMES.get(entry["dtype"], entry["dtype"].lower()) for name, entry in header.items()}

    def read(name: str, begin: int, end: int) -> bytearray:
        """Bytes of a tensor, from and up to which."""
        # Opened at each reading: all shards of a large model held open could be more than the system allows.
        with path.open("rb") as file:
            file.seek(8 + size + header[name]["data_offsets"][0] + begin)
            data = bytearray(end - begin)  # written once, and free for whoever reads it to write in
            if file.readinto(data) != len(data):
                raise ValueError("the file ends too early")
        return data

    def load(name: str) -> Tensor:
        start, end = header[name]["data_offsets"]
        return from_bytes(read(name, 0, end - start), dtypes[name], shapes[name])

    def load_part(name: str, start: int, stop: int) -> Tensor:
        item = num_bytes(dtypes[name])
        return from_bytes(read(name, start * item, stop * item), dtypes[name], (stop - start,))

    return WeightFile(path, shapes, dtypes, load, load_part)


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The entries of an object of JSON; Python's reader would keep the last of two, and drop the other.

    Raises:
        ValueError: two have one name.
    """
    names = [name for name, _ in pairs]
    if repeated := next((name for name, count in Counter(names).items() if count > 1), None):
        raise ValueError(f"two of its entries are named {repeated!r}")
    return dict(pairs)


def open_index(path: Path) -> WeightFile:
    """The tensors of all shards that an index lists.

    Raises:
        FileFormatError: no index, a shard that is missing, damaged, outside the folder, or without its tensors.
    """
    where = read_index(path)
    shards = {shard: open_safetensors(path.parent / shard) for shard in dict.fromkeys(where.values())}
    check_holds(path, where, {shard: file.shapes for shard, file in shards.items()})
    return WeightFile(
        path,
        {name: shards[shard].shapes[name] for name, shard in where.items()},
        {name: shards[shard].dtypes[name] for name, shard in where.items()},
        lambda name: shards[where[name]].read(name),
        lambda name, start, stop: shards[where[name]].parts(name)(start, stop),
    )


def read_index(path: Path) -> dict[str, str]:
    """The name of each tensor's shard, a file that lies beside the index.

    Raises:
        FileFormatError: no index, or a shard that is missing or outside the folder.
    """
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=each_once)["weight_map"]
        where = {name: str(shard) for name, shard in weight_map.items()}
    except DAMAGE as error:
        raise FileFormatError(
            f"{path} is no safetensors index, a JSON object with 'weight_map': {describe(error)}"
        ) from error
    for shard in dict.fromkeys(where.values()):
        if Path(shard).name != shard or shard == "..":
            raise FileFormatError(f"{path}: shard {shard!r} lies outside the index's folder; nothing there is read")
        if not (path.parent / shard).is_file():
            raise FileFormatError(f"{path}: shard {shard!r} is missing in {path.parent}; put it there")
    return where


def check_holds(path: Path, where: Mapping[str, str], shards: Mapping[str, Container[str]]) -> None:
    """Return if each shard of an index holds the tensors that it is said to hold.

    Raises:
        FileFormatError: one does not.
    """
    for name, shard in where.items():
        if name not in shards[shard]:
            raise FileFormatError(f"{path}: shard {shard!r} holds no tensor {name!r}; get shards that fit the index")


def check_names(names: Iterable[str]) -> None:
    """Return if a safetensors file can hold tensors of these names; to be asked before long work as well.

    Raises:
        FileFormatError: a name that the format reserves, or that no reader accepts.
    """
    for name in names:
        if name == "__metadata__":
            raise FileFormatError("a tensor named '__metadata__' cannot be in a safetensors file; rename it")
        if not is_text(name):
            raise FileFormatError(f"a tensor named {name!r} cannot be in a safetensors file; rename it")


def check_dtype(name: str, dtype: str) -> None:
    """Return if a safetensors file can hold a tensor of this dtype.

    Raises:
        FileFormatError: it cannot.
    """
    if dtype not in CODES:
        raise FileFormatError(f"tensor {name!r} has dtype {dtype}, which cannot be written to a safetensors file")


def write_safetensors(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    load: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors one after the other, so that a model larger than the memory can be copied.

    Args:
        path: of a temporary file; nothing is undone if the writing fails.
        tensors: dtype (a key of CODES) and shape by name.
        load: called once for each name.
    Raises:
        FileFormatError: a name that the format reserves, a dtype that it does not have, or what `load` raises.
    Source: the format's description, https://github.com/huggingface/safetensors#format
    """
    check_names(tensors)
    for name, (dtype, _) in tensors.items():
        check_dtype(name, dtype)
    # wide items first: every tensor then starts at a multiple of its item's size
    order = sorted(tensors, key=lambda name: -num_bytes(tensors[name][0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        dtype, shape = tensors[name]
        start, end = end, end + math.prod(shape) * num_bytes(dtype)
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    # As the library does: contents start at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = load(name)
            # The source is read late, when the header is written already, and may have changed by then.
            if (tensor.dtype, tensor.shape) != tensors[name]:
                raise FileFormatError(f"tensor {name!r} changed while it was copied; run it again")
            file.write(contents(tensor.bits))
