"""The way through a model, block by block: each is loaded, pruned, stored, and run for what the next one reads.

Two sets of hidden states go along: those of the pruned model, and, where the goal is what the dense model has, those of
the dense one. A block is run once for each stage of its matrices and once more for its output, so the cost grows with
the number of blocks, not with its square; beside the model's own memory there is one dense copy of one block.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError, TmaskError
from tmask.nn.blockwise.blocks import BlockCall, enter
from tmask.nn.blockwise.collecting import Twin, advance
from tmask.nn.blockwise.layout import lay_out
from tmask.nn.blockwise.masks import PackedMasks
from tmask.nn.blockwise.pruning import BlockPruning, BlockSettings, prune_block
from tmask.nn.blockwise.states import States
from tmask.nn.blockwise.tuning import Tuning, tune_block
from tmask.nn.calibration.batches import Forward, evaluating

Progress = Callable[[int, int, str], object]


class Source(Protocol):
    """Where blocks come from, and where they go when they are pruned."""

    model: nn.Module
    blocks_name: str

    def entering(self) -> AbstractContextManager[None]:
        """What leads to the blocks, and the first of them, can run inside."""

    def block(self, index: int) -> AbstractContextManager[nn.Module]:
        """One block that can run, dense as it was given; changes made inside are kept if `store` was called."""

    def store(self, index: int, done: BlockPruning) -> None:
        """Keep what the open block has become."""

    def stored(self, index: int) -> BlockPruning | None:
        """What an earlier run did to a block, which is then opened as that run left it; None if it did not."""

    def pruned_block(self, index: int) -> AbstractContextManager[nn.Module]:
        """A stored block, as it was stored."""


@dataclass(frozen=True, slots=True)
class WalkSettings:
    """How to go through the blocks.

    Args:
        pruning: of each block.
        tuning: of a block's kept weights after its matrices were pruned, or None.
        exclude: globs on the full names of parameters.
        least: outputs and inputs that a matrix must have, else it stays dense.
        memory: bytes of hidden states that are held in memory; the rest goes to files in `folder`.
    """

    pruning: BlockSettings
    tuning: Tuning | None = None
    exclude: Sequence[str] = ()
    least: tuple[int, int] = (1, 1)
    memory: float = float("inf")
    folder: Path | None = None


def walk(
    source: Source,
    batches: Sequence[Any],
    settings: WalkSettings,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> list[BlockPruning]:
    """Prune every block.

    Raises:
        TmaskError: what data, method or solver raise, with the matrix's name. Blocks before it have been stored.
    """
    tell = progress or (lambda *_: None)
    blocks: Any = source.model.get_submodule(source.blocks_name)
    count = len(blocks)
    paired = settings.pruning.goal == "dense" or settings.tuning is not None
    states, calls, counted = States(settings.memory, settings.folder), [], []
    with evaluating(source.model), torch.no_grad():
        with source.entering():
            for batch, entry in zip(batches, enter(source.model, blocks, batches, forward), strict=True):
                states.append(entry.hidden)
                calls.append(entry.calls)
                counted.append(_counted(batch, entry.hidden))
        if not len(states):
            raise InvalidProblemError("calibration is empty; give at least one batch of inputs")
        dense_states = states.copy() if paired else None
        done: list[BlockPruning] = []
        try:
            for index in range(count):
                tell(index, count, f"{source.blocks_name}.{index}")
                own = [entry[index] for entry in calls]
                done.append(_one(source, index, own, states, dense_states, counted, settings))
                gc.collect()  # modules hold themselves in circles, and a block is large
            tell(count, count, "")
        finally:
            states.close()
            if dense_states is not None:
                dense_states.close()
    return done


def _one(
    source: Source,
    index: int,
    calls: Sequence[BlockCall],
    states: States,
    dense_states: States | None,
    counted: Sequence[Tensor | None],
    settings: WalkSettings,
) -> BlockPruning:
    prefix = f"{source.blocks_name}.{index}." if source.blocks_name else f"{index}."
    earlier = source.stored(index)
    try:
        if earlier is not None:
            if dense_states is not None:
                with source.block(index) as block:
                    advance(Twin(block, dense_states), calls)
            with source.pruned_block(index) as block:
                advance(Twin(block, states), calls)
            return earlier
        with source.block(index) as block:
            layout = lay_out(
                block,
                ((call, states[number]) for number, call in enumerate(calls)),
                [glob.removeprefix(prefix) for glob in settings.exclude],
                settings.least,
            )
            dense = None if dense_states is None else Twin(copy.deepcopy(block), dense_states)
            pruned = Twin(block, states)
            done = prune_block(prefix, layout, pruned, dense, calls, counted, settings.pruning)
            if dense is not None:
                advance(dense, calls)
            if settings.tuning is not None:
                assert dense is not None
                tune_block(pruned, dense.states, calls, counted, _own_masks(prefix, done, block), settings.tuning)
            source.store(index, done)  # before the block runs on: it may round the weights to what files hold
            advance(pruned, calls)
            done.masks = PackedMasks(done.masks)
            return done
    except TmaskError as error:
        text = str(error)
        raise type(error)(text if text.startswith(prefix) else f"{prefix.rstrip('.')}: {text}") from error


def _own_masks(prefix: str, done: BlockPruning, block: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): mask for name, mask in done.masks.items()}


def _counted(batch: Any, hidden: Tensor) -> Tensor | None:
    """Which samples count: those that a batch's attention mask does not call padding."""
    mask = batch.get("attention_mask") if hasattr(batch, "get") else None
    if not isinstance(mask, Tensor) or mask.shape != hidden.shape[:2] or bool(mask.all()):
        return None
    return mask.reshape(-1).bool().to(hidden.device)
