"""A model in memory as a source of blocks; it is changed in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tmask.nn.blockwise.pruning import BlockPruning
from tmask.nn.libraries.offloading import check_in_memory


class InMemory:
    """All blocks at hand.

    Args:
        model: to prune.
        blocks_name: of the list of its blocks.
    Raises:
        InvalidProblemError: weights that are not in memory.
    """

    def __init__(self, model: nn.Module, blocks_name: str) -> None:
        self.model, self.blocks_name = model, blocks_name
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        check_in_memory(model, "Load the model, or give its directory and output=")

    @contextmanager
    def entering(self) -> Iterator[None]:
        yield

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """As it was, if what is done to it fails."""
        blocks: nn.ModuleList = self.model.get_submodule(self.blocks_name)  # type: ignore[assignment]
        block = blocks[index]
        before = [parameter.detach().clone() for parameter in block.parameters()]
        try:
            yield block
        except BaseException:
            with torch.no_grad():
                for parameter, value in zip(block.parameters(), before, strict=True):
                    parameter.copy_(value)
            raise

    def store(self, index: int, done: BlockPruning) -> None:
        """It is where it belongs."""

    def stored(self, index: int) -> BlockPruning | None:
        return None

    def after_failure(self, index: int) -> str:
        return f"The {index} blocks before are pruned; this one and those behind it are as they were"

    pruned_block = block
