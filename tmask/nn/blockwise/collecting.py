"""Passes of all calibration batches through a block, or through it and its dense twin, that add up what slots read."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.blockwise.blocks import BlockCall
from tmask.nn.blockwise.layout import Slot
from tmask.nn.blockwise.moments import Moments
from tmask.nn.blockwise.reading import Key, Product, Reading, matrix_parameters
from tmask.nn.blockwise.states import States
from tmask.nn.calibration.batches import Stopped


@dataclass(slots=True)
class Collected:
    """A slot's sums, and by matrix the sum of the dense outputs' squares, without their bias."""

    moments: Moments
    squares: dict[Key, float] = field(default_factory=dict)


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
    counted: Sequence[Tensor | None],
) -> list[Collected]:
    """The sums of some slots of one block.

    Args:
        dense: the dense model's block, where inputs are to be paired; routed slots are not.
        calls: of the block, by batch.
        counted: bool (samples,) by batch: those that count; None for all.
    Raises:
        InvalidProblemError: a slot that no sample comes to, or that reads values which are not finite.
    """
    paired = [dense is not None and not slot.routed for slot in slots]
    found: list[Collected | None] = [None for _ in slots]
    for number, call in enumerate(calls):
        inputs = _read(pruned, number, call, slots)
        twins = [None] * len(slots) if dense is None else _read(dense, number, call, slots, outputs=True)
        for k in range(len(slots)):
            own, other = inputs[k], twins[k] if paired[k] else None
            if own is None or own.inputs is None:
                continue
            keep = counted[number]
            x, d = own.inputs, None if other is None else other.inputs
            if keep is not None and len(keep) == len(x):  # samples that were routed here are of all kinds
                x, d = x[keep], None if d is None else d[keep]
            if found[k] is None:
                found[k] = Collected(Moments.zeros(x.shape[1], x, paired[k]))
            collected = found[k]
            assert collected is not None
            collected.moments.add(x, d)
            if other is not None:
                for key, rows in other.results.items():
                    rows = rows[keep] if keep is not None and len(keep) == len(rows) else rows
                    collected.squares[key] = collected.squares.get(key, 0.0) + float(rows.float().square().sum())
    return [_checked(slot, collected) for slot, collected in zip(slots, found, strict=True)]


def _checked(slot: Slot, collected: Collected | None) -> Collected:
    name = str(slot.keys[0])
    if collected is None or not collected.moments.samples:
        raise InvalidProblemError(
            f"{name}: no sample of the calibration data comes to it; give more data, or exclude it"
        )
    if not bool(torch.isfinite(collected.moments.xx).all()):
        raise InvalidProblemError(f"{name}: its inputs hold NaN or infinite values on the calibration data")
    return collected


@dataclass(slots=True)
class _Read:
    """What a slot read in one pass: inputs (S, C), and by matrix the outputs (S, R) without bias."""

    inputs: Tensor | None = None
    results: dict[Key, Tensor] = field(default_factory=dict)


def _read(twin: Twin, number: int, call: BlockCall, slots: Sequence[Slot], outputs: bool = False) -> list[_Read]:
    """One batch through a block, until all that is wanted has been read."""
    reads = [_Read() for _ in slots]
    where = {key: (k, key == slot.keys[0]) for k, slot in enumerate(slots) for key in slot.keys}
    # Where the data decide what is called, only the end of the pass says that all has been read.
    left = {key: slot.calls for slot in slots for key in slot.keys} if not any(slot.routed for slot in slots) else {}
    endless = not left

    def note(product: Product) -> None:
        if product.key not in where:
            return
        k, first = where[product.key]
        read = reads[k]
        if first:
            rows = product.inputs.detach().reshape(-1, product.inputs.shape[-1])
            read.inputs = rows.clone() if read.inputs is None else torch.cat((read.inputs, rows))
        if outputs:
            result = product.result.detach() if product.bias is None else product.result.detach() - product.bias
            rows = result.reshape(-1, result.shape[-1])
            before = read.results.get(product.key)
            read.results[product.key] = rows.clone() if before is None else torch.cat((before, rows))
        if not endless:
            left[product.key] -= 1
            if not any(left.values()):
                raise Stopped

    with torch.no_grad(), Reading(matrix_parameters(twin.block), note), contextlib.suppress(Stopped):
        call.on(twin.block, twin.states[number])
    return reads


@torch.no_grad()
def advance(twin: Twin, calls: Sequence[BlockCall]) -> None:
    """Put what the block gives for every batch in the place of what it read.

    Raises:
        InvalidProblemError: hidden states that are not finite.
    """
    for number, call in enumerate(calls):
        hidden = call.on(twin.block, twin.states[number])
        if not bool(torch.isfinite(hidden).all()):
            raise InvalidProblemError(f"its hidden states hold NaN or infinite values in calibration batch {number}")
        twin.states.replace(number, hidden)
