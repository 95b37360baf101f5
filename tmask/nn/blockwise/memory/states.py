"""Hidden states of the calibration data, batch by batch: in memory, or in a file that is mapped into it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from tmask.files.atomic import remove_leftovers, temporary_prefix


class States:
    """Hidden states of every batch; all may differ in shape.

    Args:
        limit: bytes that are held in memory; batches beyond go to files in the system's temporary folder.
    """

    def __init__(self, limit: float = float("inf")) -> None:
        self.limit = limit
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._held = 0
        self._batches: list[Tensor] = []
        self._device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self._batches)

    def append(self, hidden: Tensor) -> None:
        """Add a batch; all come to lie on one device."""
        self._device = hidden.device
        self._batches.append(self._place(len(self._batches), hidden))

    def __getitem__(self, index: int) -> Tensor:
        return self._batches[index].to(self._device)

    def replace(self, index: int, hidden: Tensor) -> None:
        """New hidden states in a batch's place; where they lie, if they are of the same shape."""
        before = self._batches[index]
        if before.shape == hidden.shape and before.dtype == hidden.dtype:
            before.copy_(hidden)
        else:
            self._batches[index] = self._place(index, hidden)

    def copy(self) -> States:
        """The same states in places of their own, under the same limit."""
        other = States(self.limit)
        for hidden in self._batches:
            other.append(hidden)
        return other

    def close(self) -> None:
        """Give back files and memory."""
        self._batches.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _place(self, index: int, hidden: Tensor) -> Tensor:
        size = hidden.numel() * hidden.element_size()
        if self._held + size <= self.limit:
            self._held += size
            return hidden.detach().clone()
        if self._folder is None:
            place = Path(tempfile.gettempdir()) / "tmask-states"
            remove_leftovers(place)  # of killed processes: states may be as large as the disk
            self._folder = tempfile.TemporaryDirectory(prefix=temporary_prefix(place))
        path = Path(self._folder.name) / f"{index}.bin"
        path.unlink(missing_ok=True)
        mapped = torch.from_file(str(path), shared=True, size=hidden.numel(), dtype=hidden.dtype).view(hidden.shape)
        return mapped.copy_(hidden)


@contextmanager
def closing(*states: States) -> Iterator[None]:
    """Close them in the end, whatever happens."""
    try:
        yield
    finally:
        for each in states:
            each.close()
