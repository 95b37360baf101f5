"""Experts of transformers' models multiplied one by one, so that it can be seen what each of them reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


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
