"""Hooks on the modules of a model for the length of a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def removing(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are set now and removed after the block, however it ends: one left behind would run in every pass."""
    kept = list(handles)
    try:
        yield
    finally:
        for handle in kept:
            handle.remove()
