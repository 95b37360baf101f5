"""Experts: which weights are theirs; multiplied one by one, to see what each reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

EXPERT = re.compile(r"(^|\.)experts\.(\d+)\.")  # one module of a list of experts


def is_routed(name: str) -> bool:
    """Whether the data decide which samples come to a layer: an expert, one of a list or a matrix of a stack."""
    return "[" in name or EXPERT.search(name) is not None


def kind_of(name: str) -> str:
    """The same for all experts of a list, and other than any other name."""
    return EXPERT.sub(r"\1experts.*.", name)


@contextmanager
def one_by_one(model: nn.Module) -> Iterator[None]:
    """Inside, experts are computed in a loop; afterwards as before.

    Elsewhere they may be computed by a product over groups, which shows no matrix on its own.
    """
    get: Any = getattr(model, "get_experts_implementation", None)
    change: Any = getattr(model, "set_experts_implementation", None)
    before = get() if get is not None else {}
    if change is None or all(way in (None, "eager") for way in before.values()):
        yield
        return
    change("eager")
    try:
        yield
    finally:
        change(before)
