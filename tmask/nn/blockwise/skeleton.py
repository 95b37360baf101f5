"""A Hugging Face model without its weights: parameters on the meta device, until a part of them is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import FileFormatError, InvalidProblemError, SolverUnavailableError, TmaskError
from tmask.files.opening import open_weights
from tmask.files.safetensors_files import INDEX
from tmask.files.weight_file import WeightFile
from tmask.nn.calibration.language_models import reason_of


def skeleton(path: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """The model of a directory's config, its parameters on the meta device, its buffers as they are made.

    Raises:
        FileFormatError: no config, or one that is not of a language model that transformers knows.
        InvalidProblemError: a quantised model.
        SolverUnavailableError: transformers is not installed.
    """
    if not (path / "config.json").is_file():
        raise FileFormatError(f"{path} has no config.json; give the directory of a Hugging Face model")
    if any(importlib.util.find_spec(library) is None for library in ("transformers", "accelerate")):
        raise SolverUnavailableError('a directory needs transformers; pip install "tmask[transformers]"')
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        if getattr(config, "quantization_config", None):
            raise InvalidProblemError(
                f"{path} is a quantised model: its files hold codes, not weights. Prune the model that it was made "
                "from, then quantise the result"
            )
        with init_empty_weights(include_buffers=False):
            options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
            model: nn.Module = AutoModelForCausalLM.from_config(config, **options)  # type: ignore[no-untyped-call]
    except TmaskError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise FileFormatError(
            f"{path}: transformers makes no language model of its config: {reason_of(error)}"
        ) from error
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model.eval()


def open_model(path: Path) -> WeightFile:
    """The weights in a directory.

    Raises:
        FileFormatError: none, or several.
    """
    found = sorted(path.glob(f"*{INDEX}")) or sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise FileFormatError(
            f"{path} has {len(found) or 'no'} safetensors files or indexes; it must have model.safetensors, or shards "
            "with one index. Other formats: load the model and save it again with save_pretrained"
        )
    return open_weights(found[0])


@contextmanager
def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Tensors in the places of parameters and buffers inside; afterwards what was there before."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, tensor in tensors.items():
            module_name, _, leaf = name.rpartition(".")
            module = model.get_submodule(module_name)
            is_parameter = leaf in module._parameters
            where: dict[str, Any] = module._parameters if is_parameter else module._buffers
            before.append((where, leaf, where[leaf]))
            where[leaf] = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        yield
    finally:
        for where, leaf, value in before:
            where[leaf] = value
