"""Hidden states of the calibration data, batch by batch: in memory, or in a file that is mapped into it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor


class States:
    """Hidden states of every batch; all may differ in shape.

    Args:
        limit: bytes that are held in memory; batches beyond go to files.
        folder: where the files are made; None for the system's folder of temporary files.
    """

    def __init__(self, limit: float = float("inf"), folder: Path | None = None) -> None:
        self._limit = limit
        self._parent = folder
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._held = 0
        self._batches: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._batches)

    def append(self, hidden: Tensor) -> None:
        """Add a batch."""
        size = hidden.numel() * hidden.element_size()
        if self._held + size <= self._limit:
            self._held += size
            self._batches.append(hidden.detach().clone())
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="tmask-states-", dir=self._parent)
        path = Path(self._folder.name) / f"{len(self._batches)}.bin"
        mapped = torch.from_file(str(path), shared=True, size=hidden.numel(), dtype=hidden.dtype).view(hidden.shape)
        mapped.copy_(hidden)
        self._batches.append(mapped)

    def __getitem__(self, index: int) -> Tensor:
        return self._batches[index]

    def replace(self, index: int, hidden: Tensor) -> None:
        """New hidden states in a batch's place, where they lie."""
        self._batches[index].copy_(hidden)

    def copy(self) -> States:
        """The same states in places of their own, under the same limit."""
        other = States(self._limit, self._parent)
        for hidden in self._batches:
            other.append(hidden)
        return other

    def close(self) -> None:
        """Give back files and memory."""
        self._batches.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
