"""Writers of whole weight files, one a format: named tensors, loaded one after the other."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tmask.errors import InvalidProblemError, SolverUnavailableError
from tmask.files.outputs.names import WEIGHT_ENDINGS
from tmask.files.safetensors_files import INDEX, check_dtype, write_safetensors
from tmask.files.tensors import Tensor, contents

Listing = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name
Load = Callable[[str], Tensor]


def check_format(path: Path, listing: Listing) -> None:
    """Return if these tensors can be written in the format that a name says.

    Raises:
        InvalidProblemError, FileFormatError: an ending that is not known, or a format that cannot hold them.
        SolverUnavailableError: a torch file, and torch is not installed.
    """
    ending = path.suffix.lower()
    if path.name.lower().endswith(INDEX):
        raise InvalidProblemError(f"{path}: an index is written with its shards; give the name of a folder")
    if ending not in WEIGHT_ENDINGS:
        raise InvalidProblemError(
            f"{path}: the name's ending tells the format, and must be one of {', '.join(WEIGHT_ENDINGS)}; or give a "
            "folder (with / at its end) for a Hugging Face directory"
        )
    if ending == ".npy" and len(listing) != 1:
        raise InvalidProblemError(f"{path}: a .npy file holds one array, not {len(listing)}; give a .npz file")
    if ending in (".npz", ".npy"):
        for name, (dtype, _) in listing.items():
            if not hasattr(np, dtype):
                raise InvalidProblemError(
                    f"{path}: tensor {name!r} has dtype {dtype}, which numpy does not have; give a .safetensors file"
                )
    if ending == ".safetensors":
        for name, (dtype, _) in listing.items():
            check_dtype(name, dtype)
    if ending in (".pt", ".pth", ".bin") and importlib.util.find_spec("torch") is None:
        raise SolverUnavailableError(f'{path} is a torch file; run: pip install "tmask[torch]"')


def write_weights(path: Path, ending: str, listing: Listing, load: Load) -> None:
    """Write the tensors to a temporary path in the format of an ending of `WEIGHT_ENDINGS`.

    Cost: memory for one tensor; for all of them in a torch file.
    """
    if ending == ".safetensors":
        write_safetensors(path, listing, load, {"format": "pt"})  # `transformers` asks for this entry
    elif ending == ".npz":
        _write_npz(path, listing, load)
    elif ending == ".npy":
        with path.open("wb") as file:
            np.save(file, _array(load(next(iter(listing)))))
    else:
        _write_torch(path, listing, load)


def _write_npz(path: Path, listing: Listing, load: Load) -> None:
    # Not `np.savez`, which holds all arrays at once, and takes no array named "file".
    with zipfile.ZipFile(path, "w") as archive:
        for name in listing:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, _array(load(name)), allow_pickle=False)


def _write_torch(path: Path, listing: Listing, load: Load) -> None:
    import torch

    state = {}
    for name, (dtype, shape) in listing.items():
        bits = bytearray(contents(load(name).bits))
        kind = getattr(torch, dtype)
        state[name] = (torch.frombuffer(bits, dtype=kind) if bits else torch.empty(0, dtype=kind)).reshape(shape)
    torch.save(state, path)


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    return np.ascontiguousarray(tensor.bits).view(np.dtype(tensor.dtype)).reshape(tensor.shape)
