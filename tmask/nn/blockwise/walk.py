"""The way through a model, block by block: each is loaded, pruned, stored, and run for what the next one reads.

Two sets of hidden states go along: those of the pruned model, and, where the goal is what the dense model has, those of
the dense one. A block is run once for each stage of its matrices and once more for its output, so the cost grows with
the number of blocks, not with its square; beside the model's own memory there is one dense copy of one block.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from tmask.errors import InvalidProblemError, TmaskError
from tmask.nn.blockwise.batches import placed
from tmask.nn.blockwise.block_error import block_error
from tmask.nn.blockwise.block_refit import BlockRefit, BlockRefitting
from tmask.nn.blockwise.calls import BlockCall, enter
from tmask.nn.blockwise.collecting import Twin, advance
from tmask.nn.blockwise.layout import Layout, lay_out
from tmask.nn.blockwise.memory.freeing import free_cycles
from tmask.nn.blockwise.memory.masks import PackedMasks
from tmask.nn.blockwise.memory.states import States, closing
from tmask.nn.blockwise.pruning import BlockPruning, BlockSettings, prune_block
from tmask.nn.blockwise.tuning import Tuning, tune_block
from tmask.nn.calibration.batches import Forward, evaluating
from tmask.nn.calibration.experts import one_by_one
from tmask.nn.distributed.ranks import Ranks, check_same, together
from tmask.showing.progress import Progress, reporting


class Source(Protocol):
    """Where blocks come from, and where they go when they are pruned."""

    model: nn.Module
    blocks_name: str
    device: torch.device

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

    def after_failure(self, index: int) -> str:
        """What an error at a block leaves behind."""


@dataclass(frozen=True, slots=True)
class WalkSettings:
    """How to go through the blocks.

    Args:
        pruning: of each block.
        tuning: of a block's kept weights after its matrices were pruned, or None.
        memory: bytes of hidden states that are held in memory; the rest goes to files.
        refit: of what attention and MLP leave behind, or None.
    """

    pruning: BlockSettings
    tuning: Tuning | None = None
    memory: float = float("inf")
    refit: BlockRefit | None = None

    @property
    def paired(self) -> bool:
        """Whether the dense model is run beside."""
        return self.pruning.goal == "dense" or self.tuning is not None or self.refit is not None


def walk(
    source: Source,
    batches: Sequence[Any],
    settings: WalkSettings,
    forward: Forward | None = None,
    progress: Progress = None,
    ranks: Ranks | None = None,
) -> list[BlockPruning]:
    """Prune every block.

    Args:
        batches: of this process.
        ranks: the processes that go together.
    Raises:
        TmaskError: what data, method or solver raise, with the matrix's name. Blocks before it have been stored.
    """
    blocks: Any = source.model.get_submodule(source.blocks_name)
    settings.pruning.choice.check(name for name, p in source.model.named_parameters() if p.ndim > 1)
    states, dense = States(settings.memory), States(settings.memory)
    calls: list[tuple[BlockCall, ...]] = []
    with (
        evaluating(source.model), one_by_one(source.model), torch.no_grad(), closing(states, dense),
        reporting(progress, "pruning") as tell,
    ):  # fmt: skip
        with together(ranks), source.entering():
            for entry in enter(source.model, blocks, [placed(batch, source.device) for batch in batches], forward):
                calls.append(entry.calls)
                states.append(entry.hidden)
                if settings.paired:
                    dense.append(entry.hidden)
        done: list[BlockPruning] = []
        for index in range(len(blocks)):
            tell(index, len(blocks), _name(source, index))
            own = [entry[index] for entry in calls]
            beside = dense if settings.paired else None
            block = _one(source, index, own, states, beside, settings, ranks)
            block.name = _name(source, index)
            block.error = None if beside is None else block_error(states, beside, ranks)
            done.append(block)
            free_cycles()
        if not any(block.rows for block in done):
            raise InvalidProblemError(f"no block has a matrix to prune; of the first: {_reasons(done[0])}")
        tell(len(blocks), len(blocks), "")
    return done


def _name(source: Source, index: int) -> str:
    return f"{source.blocks_name}.{index}".lstrip(".")


def _reasons(done: BlockPruning) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in list(done.skipped.items())[:5]) or "it has no matrices"


def _one(
    source: Source,
    index: int,
    calls: Sequence[BlockCall],
    states: States,
    dense: States | None,
    settings: WalkSettings,
    ranks: Ranks | None,
) -> BlockPruning:
    name = _name(source, index)
    try:
        earlier = source.stored(index)
        if earlier is None:
            return _prune(source, index, calls, states, dense, settings, ranks)
        if dense is not None:
            with source.block(index) as block:
                advance(Twin(block, dense), calls, ranks)
        with source.pruned_block(index) as block:
            advance(Twin(block, states), calls, ranks)
        return earlier
    except TmaskError as error:
        text = str(error).rstrip(". ")
        named = text if text.startswith(f"{name}.") else f"{name}: {text}"
        raise type(error)(f"{named}. {source.after_failure(index)}") from error


def _prune(
    source: Source,
    index: int,
    calls: Sequence[BlockCall],
    states: States,
    dense_states: States | None,
    settings: WalkSettings,
    ranks: Ranks | None,
) -> BlockPruning:
    prefix = f"{_name(source, index)}."
    with source.block(index) as block:
        _check(prefix, block)
        with together(ranks):
            layout = lay_out(prefix, block, lambda: calls[0].on(block, states[0]), settings.pruning.choice)
        if ranks is not None:
            _check_layout(ranks, prefix, layout)
        dense = None if dense_states is None else Twin(copy.deepcopy(block), dense_states)
        pruned = Twin(block, states)
        refit = None
        if settings.refit is not None and dense is not None:
            refit = BlockRefitting(prefix, pruned, dense, calls, settings.refit, ranks)
        done = prune_block(prefix, layout, pruned, dense, calls, settings.pruning, ranks, refit)
        if dense is not None and settings.tuning is not None:
            masks = {name.removeprefix(prefix): mask for name, mask in done.masks.items()}
            tune_block(pruned, dense.states, calls, masks, settings.tuning, ranks)
        done.masks = PackedMasks(done.masks)
        source.store(index, done)  # before the block runs on: it may round the weights to what files hold
        advance(pruned, calls, ranks)
    return done


def _check_layout(ranks: Ranks, prefix: str, layout: Layout) -> None:
    """Return if all processes have seen the same matrices read: they add up sums of these, one by one."""
    found = [[(str(key), slot.calls) for key in slot.keys] for stage in layout.stages for slot in stage]
    advice = "each process's first batch must come to the same ones"
    check_same(ranks.gather(found), f"{prefix[:-1]}: the matrices that are read, and how often, differ", advice)


def _check(prefix: str, block: nn.Module) -> None:
    for name, parameter in block.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise InvalidProblemError(f"{prefix}{name} holds NaN or infinite values")
