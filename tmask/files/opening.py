"""Open weight files of any common format as named tensors, read one at a time. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tmask.errors import FileFormatError
from tmask.files.damage import describe
from tmask.files.numpy_files import open_npy, open_npz
from tmask.files.pairs import read_pairs
from tmask.files.safetensors_files import INDEX, open_index, open_safetensors
from tmask.files.torch_files import open_torch
from tmask.files.weight_file import WeightFile

_OPENERS: dict[str, Callable[[Path], WeightFile]] = {
    INDEX: open_index,
    ".safetensors": open_safetensors,
    ".npz": open_npz,
    ".npy": open_npy,
    ".pt": open_torch,
    ".pth": open_torch,
    ".bin": open_torch,
}


def open_weights(path: str | Path) -> WeightFile:
    """Open a weight file, or a folder or index of safetensors shards.

    Formats: .safetensors, *.safetensors.index.json, .npz, .npy, .pt / .pth / .bin (torch, with weights_only=True).

    A weight with a mask beside it (`tmask.files.pairs`) is read with the mask applied.

    Raises:
        FileFormatError: missing, unreadable, truncated, or not of these formats.
        SolverUnavailableError: a torch file, and torch is not installed.
    Cost: headers alone are read; torch files are mapped into memory where torch can.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = _in_folder(path)
        if not path.is_file():
            problem = "is no regular file" if path.exists() else "does not exist"
            raise FileFormatError(f"{path} {problem}; give the path of a weight file")
        # By the name: the first bytes do not tell an .npz from a torch file, both are zip archives.
        for suffix, opener in _OPENERS.items():
            if path.name.lower().endswith(suffix):
                return read_pairs(opener(path))
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {describe(error)}") from error
    raise FileFormatError(
        f"{path}: the format is told by the name's ending, which must be one of {', '.join(_OPENERS)}"
    )


def _in_folder(folder: Path) -> Path:
    # An index before the shards, which are parts of one model.
    found = sorted(folder.glob(f"*{INDEX}")) or sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise FileFormatError(f"{folder} is a folder with {len(found)} safetensors files or indexes; name one file")
    return found[0]
