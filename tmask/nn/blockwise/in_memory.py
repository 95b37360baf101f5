"""A model in memory as a source of blocks; it is changed in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from tmask.nn.blockwise.pruning import BlockPruning


class InMemory:
    """All blocks at hand.

    Args:
        model: to prune.
        blocks_name: of the list of its blocks.
    """

    def __init__(self, model: nn.Module, blocks_name: str) -> None:
        self.model, self.blocks_name = model, blocks_name

    @contextmanager
    def entering(self) -> Iterator[None]:
        yield

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        blocks: nn.ModuleList = self.model.get_submodule(self.blocks_name)  # type: ignore[assignment]
        yield blocks[index]

    def store(self, index: int, done: BlockPruning) -> None:
        """It is where it belongs."""

    def stored(self, index: int) -> BlockPruning | None:
        return None

    pruned_block = block
