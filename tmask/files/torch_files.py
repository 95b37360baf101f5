"""torch's files: state dicts of plain tensors, loaded with `weights_only=True` and nothing else."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from pathlib import Path
from typing import Any

from tmask.errors import FileFormatError, SolverUnavailableError
from tmask.files.damage import unlike
from tmask.files.room import check_growth
from tmask.files.tensors import Tensor, from_torch, torch_dtype
from tmask.files.weight_file import WeightFile

# What torch says of a class or function that is not on its list of harmless ones.
_FORBIDDEN = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class|Trying to load unsupported GLOBAL) ([\w.]+)")

# Where training scripts put the state dict in their checkpoints.
_NESTS = ("state_dict", "model", "model_state_dict")


def open_torch(path: Path) -> WeightFile:
    """The tensors of a state dict, of one nested in a checkpoint, or a single tensor, named `weight`.

    Entries that are no tensors (an epoch, a learning rate) are no weights and are left out.

    Raises:
        FileFormatError: truncated, damaged, without tensors, or it holds more than `weights_only=True` allows.
        SolverUnavailableError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise SolverUnavailableError(
            f'{path} is a torch file, and torch is not installed here; run: pip install "tmask[torch]"'
        )
    import torch

    try:
        _check_sizes(path)
        # only the zip format, torch's own since 1.6, can be mapped
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises whatever its readers raise
        if found := _FORBIDDEN.search(str(error)):
            raise FileFormatError(
                f"{path} holds a Python object ({found[1]}), as `torch.save(model)` writes; loading it could run code, "
                "so it is refused: save model.state_dict() instead"
            ) from error
        what = "torch file of plain tensors (anything else is refused, since loading it could run code)"
        raise unlike(path, what, error) from error
    # One after the other: a checkpoint may nest twice.
    for key in _NESTS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if torch.is_tensor(loaded):
        loaded = {"weight": loaded}
    if not isinstance(loaded, dict):
        raise FileFormatError(f"{path} holds a {type(loaded).__name__}; save a tensor or a state dict of tensors")
    tensors: dict[str, Any] = {}
    for name, tensor in loaded.items():
        if not torch.is_tensor(tensor):
            continue
        if str(name) in tensors:  # the number 1 and the text "1"
            raise FileFormatError(f"{path} holds two tensors named {str(name)!r}; rename one")
        tensors[str(name)] = tensor
    if not tensors:
        keys = ", ".join(map(str, list(loaded)[:10])) or "nothing"
        raise FileFormatError(f"{path} holds no tensors, but {keys}; save the state dict by itself")
    return WeightFile(
        path,
        {name: () if tensor.is_nested else tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: torch_dtype(tensor) for name, tensor in tensors.items()},
        lambda name: _read(tensors[name]),
    )


def _check_sizes(path: Path) -> None:
    """Return unless what is compressed in it (torch compresses nothing) would take far more memory than the file has.

    Raises:
        ValueError: it would.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_growth(sum(info.file_size for info in archive.infolist()), path.stat().st_size)


def _read(tensor: Any) -> Tensor:
    """Its contents. A tensor can be any number of times as large as what it is a view of."""
    if str(tensor.layout) == "torch.strided":
        check_growth(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
    return from_torch(tensor)
