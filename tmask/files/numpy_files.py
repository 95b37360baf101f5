"""numpy's files, .npz and .npy: headers first, contents on request, pickled objects never."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tmask.files.damage import DAMAGE, unlike
from tmask.files.room import check_growth
from tmask.files.tensors import Tensor, from_numpy
from tmask.files.weight_file import WeightFile

_HEADER_BYTES = 1 << 16  # numpy's own are some hundred


def open_npz(path: Path) -> WeightFile:
    """Named arrays; those of Python objects are listed beside others, but cannot be read.

    Raises:
        FileFormatError: truncated, damaged, something in it is no array, or everything in it is Python objects.
    """
    members: dict[str, str] = {}
    headers: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in members:
                    raise ValueError(f"two of its arrays are named {name!r}")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{name!r} is compressed in a way that numpy does not write")
                members[name] = info.filename
                with archive.open(info) as stream:
                    headers[name] = _header(stream, info.file_size)
        if not headers:
            raise ValueError("it holds no arrays")
        if all(dtype.hasobject for _, dtype in headers.values()):
            raise ValueError("it holds no arrays but Python objects, which are never loaded")
    except DAMAGE as error:
        raise unlike(path, ".npz file of plain arrays", error) from error

    def load(name: str) -> Tensor:
        with zipfile.ZipFile(path) as archive, archive.open(members[name]) as stream:
            info = archive.getinfo(members[name])
            check_growth(info.file_size, info.compress_size)
            return from_numpy(_array(stream))  # zipfile compares the checksum

    return WeightFile(
        path,
        {name: shape for name, (shape, _) in headers.items()},
        {name: dtype.name for name, (_, dtype) in headers.items()},
        load,
    )


def open_npy(path: Path) -> WeightFile:
    """One array, under the file's own name.

    Raises:
        FileFormatError: truncated, damaged, or of Python objects.
    """
    try:
        with path.open("rb") as stream:
            shape, dtype = _header(stream, path.stat().st_size)
            if dtype.hasobject:
                raise ValueError("it holds Python objects, which are never loaded")
    except DAMAGE as error:
        raise unlike(path, ".npy file of a plain array", error) from error

    def load(name: str) -> Tensor:
        with path.open("rb") as stream:
            return from_numpy(_array(stream))

    return WeightFile(path, {path.stem: shape}, {path.stem: dtype.name}, load)


def _header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the array in a stream that is `size` bytes long."""
    # A header can claim any length, too: a compressed one of gigabytes is cut off here.
    stream = io.BytesIO(stream.read(_HEADER_BYTES))
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of the .npy format is for records")
    if any(side < 0 for side in shape):
        raise ValueError(f"shape {shape}")
    # A header can claim any shape, and numpy would ask for that much memory before it reads.
    if not dtype.hasobject and stream.tell() + math.prod(shape) * dtype.itemsize > size:
        raise ValueError("it ends too early")
    return shape, dtype


def _array(stream: IO[bytes]) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array
