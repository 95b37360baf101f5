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
from tmask.nn.blockwise.memory.states import States
from tmask.nn.blockwise.moments import Moments
from tmask.nn.calibration.batches import Stopped
from tmask.nn.calibration.reading import Key, Product, Reading, matrix_parameters
from tmask.nn.distributed.ranks import Ranks, together


@dataclass(slots=True)
class Collected:
    """A slot's moments, and by matrix the sum, at last the mean, of the dense outputs' squares, without their bias."""

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

    def average(self) -> None:
        """Means in place of the sums."""
        for key in self.squares:
            self.squares[key] /= max(1, self.moments.samples)
        self.moments.average()


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
    *,
    onward: bool = False,
) -> list[Collected]:
    """The means of what some slots of one block read.

    Args:
        dense: the dense model's block, where inputs are to be paired; routed slots are not.
        calls: of the block, by batch.
        ranks: the processes, each with its own batches, over which to add up.
        onward: whether what the dense block gives then takes the place of the hidden states that came to it: in the
            last pass that it is needed for.
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
        rows = _rows(product.inputs)
        if slots[k].routed:  # where a stack is multiplied as a whole, samples of other experts come as zeros
            rows = rows[rows.any(1)]
        found[k].moments.add(rows, twins[k].pop(0) if paired[k] else None)

    firsts = [slot.keys[:1] for slot in slots]  # they read what the others of their slots read
    with together(ranks):
        for number, call in enumerate(calls):
            if dense is not None and (any(paired) or onward):
                hidden = _read(dense, number, call, slots, [slot.keys for slot in slots], note_dense, whole=onward)
                if hidden is not None:
                    _replace(dense.states, number, hidden)
            _read(pruned, number, call, slots, firsts, note)
    if ranks is not None:  # directly behind the exchange of failures
        for collected in found:
            collected.add_up()
    for slot, collected in zip(slots, found, strict=True):
        _check(slot, collected)
        collected.average()
    return found


def _nothing(slot: Slot, block: nn.Module, paired: bool) -> Collected:
    key = slot.keys[0]
    parameter = block.get_parameter(key.parameter)
    width = parameter.shape[-1 if slot.outputs_first[key] else -2]
    squares = dict.fromkeys(slot.keys, 0.0) if paired else {}
    return Collected(Moments.zeros(width, parameter, paired), squares)


def _add_square(collected: Collected, product: Product) -> None:
    result = product.result() if product.bias is None else product.result() - product.bias
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
    twin: Twin,
    number: int,
    call: BlockCall,
    slots: Sequence[Slot],
    keys: Sequence[Sequence[Key]],
    note: Callable[[int, Product], None],
    whole: bool = False,
) -> Tensor | None:
    """One batch through a block, until all that is wanted has been read.

    Args:
        keys: those of each slot that are wanted.
        note: called with the slot's place and the product.
        whole: whether the pass goes on to its end all the same.
    Returns:
        What the block gives, if the pass came to its end.
    """
    where = {key: k for k, wanted in enumerate(keys) for key in wanted}
    # Where the data decide what is called, only the end of the pass says that all has been read.
    whole = whole or any(slot.routed for slot in slots)
    left = sum(slot.calls * len(wanted) for slot, wanted in zip(slots, keys, strict=True))

    def on_product(product: Product) -> None:
        nonlocal left
        if product.key in where:
            note(where[product.key], product)
            left -= 1
            if not left and not whole:
                raise Stopped

    with torch.no_grad(), Reading(matrix_parameters(twin.block), on_product), contextlib.suppress(Stopped):
        return call.on(twin.block, twin.states[number])
    return None


@torch.no_grad()
def advance(twin: Twin, calls: Sequence[BlockCall], ranks: Ranks | None = None) -> None:
    """Put what the block gives for every batch in the place of what it read.

    Raises:
        InvalidProblemError: hidden states that are not finite.
    """
    with together(ranks):
        for number, call in enumerate(calls):
            _replace(twin.states, number, call.on(twin.block, twin.states[number]))


def _replace(states: States, number: int, hidden: Tensor) -> None:
    if not bool(torch.isfinite(hidden).all()):
        raise InvalidProblemError(f"its hidden states hold NaN or infinite values in calibration batch {number}")
    states.replace(number, hidden)
