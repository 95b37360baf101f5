"""torch's files: state dicts of plain tensors, loaded with `weights_only=True` and nothing else."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

from tmask.errors import FileFormatError, SolverUnavailableError
from tmask.files.damage import unlike
from tmask.files.tensors import from_torch, torch_dtype
from tmask.files.weight_file import WeightFile

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
        # only the zip format, torch's own since 1.6, can be mapped
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises whatever its readers raise
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
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: torch_dtype(tensor) for name, tensor in tensors.items()},
        lambda name: from_torch(tensors[name]),
    )
