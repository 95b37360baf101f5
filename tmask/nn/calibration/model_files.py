"""Models in files.

A state dict is plain tensors; the model that it belongs to is built by a function of the user's. A whole module is a
pickle, which can run code when it is loaded, so that needs the user's word.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tmask.errors import FileFormatError, InvalidProblemError
from tmask.files.atomic import atomic_path
from tmask.files.damage import DAMAGE, describe, unlike
from tmask.files.opening import open_weights
from tmask.nn.calibration.file_tensors import to_torch

TORCH_FILES = (".pt", ".pth", ".bin")
MODEL_FILES = (".safetensors", *TORCH_FILES)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model of a file.

    Args:
        whole: whether the file held the whole module, else a state dict.
        dtypes: of the tensors in the file of a state dict, by name.
    """

    model: nn.Module
    whole: bool
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)

    def restore_dtypes(self) -> None:
        """Round the floating tensors that the model holds in another dtype to that of the file, in place."""
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            dtype = self.dtypes.get(name, tensor.dtype)
            if tensor.is_floating_point() and dtype.is_floating_point and dtype != tensor.dtype:
                tensor.data = tensor.data.to(dtype)


def load_model(path: Path, builder: str = "", *, trust: bool = False) -> LoadedModel:
    """The model of a file.

    Args:
        path: a state dict (any format of `open_weights`), or a module that `torch.save` wrote.
        builder: "module:function" that builds the model of a state dict; "" for a whole module.
        trust: a whole module may be unpickled, which can run any code that the file holds.
    Raises:
        FileFormatError: the file cannot be read, holds something else, or does not fit the model.
        InvalidProblemError: no builder or trust where one is needed, a builder that cannot be used.
    """
    if builder:
        model = build_model(builder)
        return LoadedModel(model.eval(), whole=False, dtypes=_fill(model, path, builder))
    if not trust:
        raise InvalidProblemError(
            f"{path}: give --model module:function, which builds the model that these weights belong to; or, for a "
            "whole module that you saved yourself, --trust (loading one can run code that is in the file)"
        )
    if not path.is_file():
        raise FileFormatError(f"{path} is no file; give the path of a saved module")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling raises whatever the classes in the file raise
        raise unlike(path, "torch file of a module", error) from error
    if not isinstance(loaded, nn.Module):
        raise FileFormatError(f"{path} holds a {type(loaded).__name__}, not a module; give --model module:function")
    return LoadedModel(loaded.eval(), whole=True)


def build_model(builder: str) -> nn.Module:
    """What "module:function" returns; the module is looked for in the current folder too.

    Raises:
        InvalidProblemError: a text of another form, a module or function that is not there, or no `nn.Module`.
    """
    module_name, colon, function_name = builder.partition(":")
    if not (colon and module_name and function_name):
        raise InvalidProblemError(
            f"--model {builder!r}: write it as module:function, for example models.resnet:resnet20"
        )
    # As `python -m` does: a command's own search path does not hold the folder that it is started in.
    sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        model = function()
    except Exception as error:  # the user's code raises what it likes
        raise InvalidProblemError(
            f"--model {builder!r} does not give a model: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove("")
    if not isinstance(model, nn.Module):
        raise InvalidProblemError(
            f"--model {builder!r} gives a {type(model).__name__}; it must return a torch.nn.Module"
        )
    return model


def save_model(path: Path, model: nn.Module, *, whole: bool, overwrite: bool) -> None:
    """Write a module whole, or its state dict in the format that the name's ending says; all of it or nothing.

    Raises:
        OutputError: the file cannot be written, or exists and must stay.
    """
    with atomic_path(path, overwrite) as temporary:
        if path.suffix.lower() in TORCH_FILES:
            torch.save(model if whole else model.state_dict(), temporary)
            return
        from safetensors.torch import save_file

        # The format refuses tensors that share memory, as tied weights do: each is written for itself.
        save_file({name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}, temporary)


def check_model_output(path: Path) -> None:
    """Return if the name's ending says how to write a model.

    Raises:
        InvalidProblemError: it does not.
    """
    if path.suffix.lower() not in MODEL_FILES:
        raise InvalidProblemError(
            f"{path}: name the output with one of {', '.join(MODEL_FILES)}, which tells the format"
        )


def _fill(model: nn.Module, path: Path, builder: str) -> dict[str, torch.dtype]:
    """Load a state dict into the model; the dtypes of its tensors."""
    file = open_weights(path)
    state: dict[str, Any] = {name: to_torch(file.read(name)) for name in file.names}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except DAMAGE as error:
        raise FileFormatError(f"{path} does not fit the model of {builder}: {describe(error)}") from error
    # Checkpoints of old torch versions lack the counters of batch norms, which evaluation does not read.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    # Of tied weights, which are one tensor under several names, some files hold one name alone.
    tensors = model.state_dict()
    filled = {tensors[name].data_ptr() for name in state if name in tensors}
    missing = [name for name in missing if tensors[name].data_ptr() not in filled]
    for names, problem in ((missing, "the file lacks"), (unexpected, "the model has no")):
        if names:
            raise FileFormatError(f"{path} does not fit the model of {builder}: {problem} {', '.join(names[:5])}")
    return {name: tensor.dtype for name, tensor in state.items()}
