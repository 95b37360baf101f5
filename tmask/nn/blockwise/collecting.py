"""Passes of all calibration batches through a block, or through it and its dense twin, that add up what slots read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch import distributed as dist

from tmask.errors import InvalidProblemError
from tmask.nn.blockwise.calls import BlockCall
from tmask.nn.blockwise.layout import Slot
from tmask.nn.blockwise.moments import Moments
from tmask.nn.blockwise.states import States
from tmask.nn.calibration.batches import Stopped
from tmask.nn.calibration.reading import Key, Product, Reading, matrix_parameters
from tmask.nn.distributed.ranks import Ranks, together


@dataclass(slots=True)
class Collected:
    """A slot's sums, and by matrix the sum of the dense outputs' squares, without their bias."""

    moments: Moments
    squares: dict[Key, float] = field(default_factory=dict)

    def add_up(self) -> None:
        """Of all processes."""
        self.moments.add_up()
        for key in self.squares:
            square = torch.tensor(self.squares[key], dtype=torch.float64)
            square = square.to(self.moments.x.device)
            dist.all_reduce(square)
            self.squares[key] = float(square)


@dataclass(frozen=True, slots=True)
class Twin:
    """A block with the hidden states that come to it."""

    block: nn.Module
    states: States


def collect(
    slots: Sequence[Slot],
    pruned: Twin,
    dense: Twin | None,
    calls: Sequence[BlockCall],
    ranks: Ranks | None = None,
) -> list[Collected]:
    """The sums of some slots of one block.

    Args:
        dense: the dense model's block, where inputs are to be paired; routed slots are not.
        calls: of the block, by batch.
        ranks: the processes, each with its own batches, over which to add up.
    Raises:
        InvalidProblemError: a slot that no sample comes to, or that reads values which are not finite.
    """
    paired = [dense is not None and not slot.routed for slot in slots]
    found = [_nothing(slot, pruned.block, pair) for slot, pair in zip(slots, paired, strict=True)]
    twins: list[list[Tensor]] = [[] for _ in slots]

    def note_dense(k: int, product: Product) -> None:
        if paired[k]:
            _add_square(found[k], product)
            if product.key == slots[k].keys[0]:
                twins[k].append(_rows(product.inputs).clone())

    def note(k: int, product: Product) -> None:
        if product.key == slots[k].keys[0]:
            rows = _rows(product.inputs)
            if slots[k].routed:  # where a stack is multiplied as a whole, samples of other experts come as zeros
                rows = rows[rows.any(1)]
            found[k].moments.add(rows, twins[k].pop(0) if paired[k] else None)

    with together(ranks):
        for number, call in enumerate(calls):
            if dense is not None and any(paired):
                _read(dense, number, call, slots, note_dense)
            _read(pruned, number, call, slots, note)
    if ranks is not None:  # directly behind the exchange of failures
        for collected in found:
            collected.add_up()
    for slot, collected in zip(slots, found, strict=True):
        _check(slot, collected)
    return found


def _nothing(slot: Slot, block: nn.Module, paired: bool) -> Collected:
    key = slot.keys[0]
    parameter = block.get_parameter(key.parameter)
    width = parameter.shape[-1 if slot.outputs_first[key] else -2]
    squares = dict.fromkeys(slot.keys, 0.0) if paired else {}
    return Collected(Moments.zeros(width, parameter, paired), squares)


def _add_square(collected: Collected, product: Product) -> None:
    result = product.result if product.bias is None else product.result - product.bias
    collected.squares[product.key] += float(result.to(collected.moments.xx.dtype).square().sum())


def _rows(inputs: Tensor) -> Tensor:
    """(S, C)"""
    return inputs.reshape(-1, inputs.shape[-1])


def _check(slot: Slot, collected: Collected) -> None:
    name = str(slot.keys[0])
    if not collected.moments.samples:
        raise InvalidProblemError(
            f"{name}: no sample of the calibration data comes to it; give more data, or exclude it"
        )
    if not bool(torch.isfinite(collected.moments.xx).all()):
        raise InvalidProblemError(f"{name}: its inputs hold NaN or infinite values on the calibration data")


def _read(
    twin: Twin, number: int, call: BlockCall, slots: Sequence[Slot], note: Callable[[int, Product], None]
) -> None:
    """One batch through a block, until all that is wanted has been read.

    Args:
        note: called with the slot's place and the product.
    """
    where = {key: k for k, slot in enumerate(slots) for key in slot.keys}
    # Where the data decide what is called, only the end of the pass says that all has been read.
    endless = any(slot.routed for slot in slots)
    left = sum(slot.calls * len(slot.keys) for slot in slots)

    def on_product(product: Product) -> None:
        nonlocal left
        if product.key in where:
            note(where[product.key], product)
            left -= 1
            if not left and not endless:
                raise Stopped

    with torch.no_grad(), Reading(matrix_parameters(twin.block), on_product), contextlib.suppress(Stopped):
        call.on(twin.block, twin.states[number])


@torch.no_grad()
def advance(twin: Twin, calls: Sequence[BlockCall], ranks: Ranks | None = None) -> None:
    """Put what the block gives for every batch in the place of what it read.

    Raises:
        InvalidProblemError: hidden states that are not finite.
    """
    with together(ranks):
        for number, call in enumerate(calls):
            hidden = call.on(twin.block, twin.states[number])
            if not bool(torch.isfinite(hidden).all()):
                raise InvalidProblemError(
                    f"its hidden states hold NaN or infinite values in calibration batch {number}"
                )
            twin.states.replace(number, hidden)
