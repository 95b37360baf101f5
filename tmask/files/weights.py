"""Open weight files of any common format as named tensors, read one at a time. Nothing is ever unpickled."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tmask.errors import FileFormatError, SolverUnavailableError
from tmask.files.tensors import NAMES, Tensor, from_bytes, from_numpy, from_torch

_INDEX = ".safetensors.index.json"


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Named tensors of a file.

    Args:
        path: of the file.
        shapes, dtypes: by tensor name, in the order of the file.
        load: reads a tensor by name.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    load: Callable[[str], Tensor]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors."""
        return tuple(self.shapes)

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            FileFormatError: no tensor has that name, or its contents cannot be read.
        """
        if name not in self.shapes:
            raise FileFormatError(f"{self.path} holds no tensor {name!r}")
        try:
            return self.load(name)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise FileFormatError(f"{self.path}: tensor {name!r} cannot be read ({error})") from error


def open_weights(path: str | Path) -> WeightFile:
    """Open a weight file, or a folder or index of safetensors shards.

    Formats: .safetensors, *.safetensors.index.json, .npz, .npy, .pt / .pth / .bin (torch, with weights_only=True).

    Raises:
        FileFormatError: missing, unreadable, truncated, or not of these formats.
        SolverUnavailableError: a torch file, and torch is not installed.
    """
    path = Path(path)
    if path.is_dir():
        path = _index_in(path)
    if not path.is_file():
        raise FileFormatError(f"{path} does not exist")
    for suffix, opener in _OPENERS.items():
        if path.name.endswith(suffix):
            try:
                return opener(path)
            except OSError as error:
                raise FileFormatError(f"{path} cannot be read: {error.strerror or error}") from error
    raise FileFormatError(
        f"{path}: the format is told by the name's ending, which must be one of {', '.join(_OPENERS)}"
    )


def _index_in(folder: Path) -> Path:
    found = sorted(folder.glob(f"*{_INDEX}")) or sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise FileFormatError(f"{folder} is a folder with {len(found)} safetensors files or indexes; name one file")
    return found[0]


def _open_safetensors(path: Path) -> WeightFile:
    """The library checks the file; the bits are mapped here, since its numpy side has no bfloat16."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except (safetensors.SafetensorError, ValueError) as error:
        raise FileFormatError(f"{path} is no complete safetensors file: {error}") from error
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    dtypes = {name: NAMES.get(entry["dtype"], entry["dtype"].lower()) for name, entry in header.items()}

    def load(name: str) -> Tensor:
        start, end = header[name]["data_offsets"]
        count = int(np.prod(shapes[name]))
        with path.open("rb") as file:
            file.seek(8 + size + start)
            data = file.read(end - start)
        if len(data) != end - start:
            raise ValueError("the file ends too early")
        return from_bytes(data, dtypes[name], shapes[name], len(data) // count if count else 1)

    return WeightFile(path, shapes, dtypes, load)


def _open_index(path: Path) -> WeightFile:
    try:
        where: dict[str, str] = json.loads(path.read_text())["weight_map"]
        shard_names = sorted(set(where.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} is no safetensors index: it needs a JSON object with 'weight_map'") from error
    for shard in shard_names:
        if Path(shard).name != shard:
            raise FileFormatError(f"{path}: shard {shard!r} lies outside the index's folder")
        if not (path.parent / shard).is_file():
            raise FileFormatError(f"{path}: shard {shard!r} is missing in {path.parent}")
    shards = {shard: _open_safetensors(path.parent / shard) for shard in shard_names}
    for name, shard in where.items():
        if name not in shards[shard].shapes:
            raise FileFormatError(f"{path}: shard {shard!r} holds no tensor {name!r}")
    return WeightFile(
        path,
        {name: shards[shard].shapes[name] for name, shard in where.items()},
        {name: shards[shard].dtypes[name] for name, shard in where.items()},
        lambda name: shards[where[name]].load(name),
    )


def _open_npz(path: Path) -> WeightFile:
    try:
        archive = np.load(path, allow_pickle=False)
        arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError, NotImplementedError, AttributeError) as error:
        raise FileFormatError(f"{path} is no complete .npz file of plain arrays: {error}") from error
    except zipfile.zlib.error as error:  # type: ignore[attr-defined]
        raise FileFormatError(f"{path} is damaged: {error}") from error
    return _from_arrays(path, arrays)


def _open_npy(path: Path) -> WeightFile:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FileFormatError(f"{path} is no complete .npy file of a plain array: {error}") from error
    return _from_arrays(path, {path.stem: array})


def _from_arrays(path: Path, arrays: Mapping[str, Any]) -> WeightFile:
    shapes = {name: array.shape for name, array in arrays.items()}
    dtypes = {name: array.dtype.name for name, array in arrays.items()}
    return WeightFile(path, shapes, dtypes, lambda name: from_numpy(arrays[name]))


def _open_torch(path: Path) -> WeightFile:
    if importlib.util.find_spec("torch") is None:
        raise SolverUnavailableError(
            f'{path} is a torch file, and torch is not installed here; run: pip install "tmask[torch]"'
        )
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers raise
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileFormatError(
            f"{path} is no torch file of plain tensors (anything else is refused, since loading it could run code): "
            f"{first}"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    tensors = {"weight": loaded} if torch.is_tensor(loaded) else loaded
    if not isinstance(tensors, dict):
        raise FileFormatError(f"{path} holds a {type(loaded).__name__}; a tensor or a state dict of tensors is needed")
    tensors = {name: tensor for name, tensor in tensors.items() if torch.is_tensor(tensor) and not tensor.is_sparse}
    if not tensors:
        raise FileFormatError(f"{path} holds no tensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    return WeightFile(path, shapes, dtypes, lambda name: from_torch(tensors[name]))


_OPENERS: dict[str, Callable[[Path], WeightFile]] = {
    _INDEX: _open_index,
    ".safetensors": _open_safetensors,
    ".npz": _open_npz,
    ".npy": _open_npy,
    ".pt": _open_torch,
    ".pth": _open_torch,
    ".bin": _open_torch,
}
