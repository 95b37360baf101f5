"""What a model's config says of its tensors: the config.json beside its files, or that of a model in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmask.files.damage import DAMAGE

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's config, as far as it matters here; empty where there is none.

    Args:
        experts: numbers of experts.
        quantisation: the method, or "".
    """

    experts: frozenset[int] = frozenset()
    quantisation: str = ""

    @classmethod
    def of(cls, known: dict[str, Any]) -> ModelConfig:
        """What the entries of a config say."""
        experts = frozenset(value for key, value in _entries(known) if key in _EXPERTS and type(value) is int)
        quantisation = next((value for key, value in _entries(known) if key == "quantization_config"), None)
        method = str(quantisation.get("quant_method", "")) if isinstance(quantisation, dict) else ""
        return cls(experts, method)


def read_config(file: Path) -> ModelConfig:
    """The config of the model that a weight file belongs to: the one in its folder."""
    try:
        known = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
    except DAMAGE:  # none, or none that can be read: the tensors alone must say what they are
        return ModelConfig()
    # Any program may have a config.json.
    if not isinstance(known, dict) or not {"model_type", "architectures"} & known.keys():
        return ModelConfig()
    return ModelConfig.of(known)


def _entries(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Its entries, and those of the configs of its parts."""
    for key, value in config.items():
        yield key, value
        if isinstance(value, dict):
            yield from _entries(value)
