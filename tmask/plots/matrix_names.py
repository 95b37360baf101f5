"""What the name of a matrix tells: its kind, the same in every block, and its block."""

from __future__ import annotations

import re


def kind(name: str) -> str:
    """The name of a weight in any block: "model.layers.3.mlp.down_proj.weight" is an "mlp.down_proj"."""
    in_any = re.sub(r"(?<=[.\[])\d+(?=[.\]])", "*", name)
    return in_any.partition("*.")[2].removesuffix(".weight") if "*." in in_any else in_any.removesuffix(".weight")


def block_of(name: str) -> int:
    """The number of the block, the first in the name; -1 if there is none."""
    found = re.search(r"(?:^|\.)(\d+)\.", name)
    return int(found[1]) if found else -1
