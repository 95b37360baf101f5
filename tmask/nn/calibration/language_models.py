"""Language models in Hugging Face directories: loaded whole for evaluation, and what text they can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import FileFormatError, InvalidProblemError


def load_language_model(path: Path, dtype: torch.dtype | None, device: torch.device | str = "cpu") -> nn.Module:
    """The model of a directory, in evaluation mode.

    Args:
        dtype: to compute in; None for that of its files.
    Raises:
        FileFormatError: no such model, or one whose files lack some of its weights.
    """
    from transformers import AutoModelForCausalLM

    if not (path / "config.json").is_file():
        raise FileFormatError(f"{path} has no config.json; give the directory of a Hugging Face model")
    models: Any = AutoModelForCausalLM  # with the report on loading it returns a pair, which its type does not say
    try:
        model, loaded = models.from_pretrained(
            str(path), dtype=dtype or "auto", local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    # Whatever a config or a file can do wrong; each library on the way has errors of its own.
    except Exception as error:
        raise FileFormatError(f"{path}: transformers cannot load it as a language model: {reason_of(error)}") from error
    if missing := sorted(loaded["missing_keys"]):
        # transformers would make them up at random, with a warning alone.
        raise FileFormatError(f"{path} holds no tensor for {', '.join(missing[:5])}")
    placed: nn.Module = model.to(device).eval()
    return placed


def reason_of(error: Exception) -> str:
    """What transformers says against a model; without the advice to let code run that comes with it."""
    if "trust_remote_code" in str(error):
        return "it brings code of its own, which is not run; only models that transformers has by itself are taken"
    return str(error)


def check_readable(config: Any, length: int, highest: int) -> None:
    """Return if a model can read samples of this length with token ids up to the highest.

    Raises:
        InvalidProblemError: it has no place, or no embedding, for some.
    """
    places = getattr(config, "max_position_embeddings", None)
    if isinstance(places, int) and length > places:
        raise InvalidProblemError(f"the model reads at most {places} tokens at once, not {length}; choose --length")
    known = getattr(config, "vocab_size", None)
    if isinstance(known, int) and highest >= known:
        raise InvalidProblemError(
            f"the tokenizer gives token {highest}, but the model knows {known} tokens alone; it is another model's"
        )


def share_of_zeros(model: nn.Module) -> float:
    """Of the entries of all matrices, embeddings and head aside."""
    get_head: Any = getattr(model, "get_output_embeddings", None)
    head = None if get_head is None else get_head()
    aside = [module for module in model.modules() if isinstance(module, nn.Embedding) or module is head]
    outside = {id(parameter) for module in aside for parameter in module.parameters()}
    inside: list[Tensor] = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in outside]
    entries = sum(p.numel() for p in inside)
    return 1 - sum(int(torch.count_nonzero(p)) for p in inside) / entries if entries else 0.0
