"""What of a block is pruned: its matrices, those that read the same side by side, in the order in which they are read.

A *slot* is one input that one or more matrices read: q, k and v of an attention. A *stage* is what is pruned at once:
one slot, or the slots of all experts of one kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from tmask.nn.blockwise.choice import MatrixChoice, least_sides, matches
from tmask.nn.calibration.experts import EXPERT, kind_of
from tmask.nn.calibration.reading import Key, Product, Reading, matrix_parameters
from tmask.nn.libraries import adapters
from tmask.nn.libraries.roles import ModelRoles


@dataclass(slots=True)
class Slot:
    """Matrices that read the same input.

    Args:
        keys: in the order of reading.
        outputs_first: whether each is stored (outputs, inputs).
        calls: reads in one pass of the block.
        routed: whether the data decide which samples come here, so that two models cannot be compared row by row.
    """

    keys: list[Key]
    outputs_first: dict[Key, bool]
    calls: int = 1
    routed: bool = False

    def without(self, parameters: set[str]) -> Slot:
        """Less the matrices of some parameters."""
        left = [key for key in self.keys if key.parameter not in parameters]
        return Slot(left, self.outputs_first, self.calls, self.routed)


@dataclass(slots=True)
class Layout:
    """The stages of a block, and reasons by name for the parameters of two axes or more that are left out."""

    stages: list[list[Slot]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def lay_out(prefix: str, block: nn.Module, run: Callable[[], object], choice: MatrixChoice) -> Layout:
    """What a block reads, in which order.

    Args:
        prefix: of the names of its parameters in the model.
        run: passes some data through the block.
    """
    parameters = matrix_parameters(block)
    trace = _Trace()
    with Reading(parameters, trace.note):
        run()
    slots = [*trace.slots(parameters)]
    read = {key.parameter: slot.outputs_first[key] for slot in slots for key in slot.keys}
    layout = Layout()
    roles = ModelRoles(block, prefix)
    apart = adapters.adapter_weights(block, parameters, (), matches)
    for name, parameter in block.named_parameters():
        reason = adapters.REASON if name in apart else ""
        if parameter.ndim > 1 and (reason := reason or _reason(name, prefix, parameter, read.get(name), roles, choice)):
            layout.skipped[name] = reason
    stages: dict[str, list[Slot]] = {}
    for slot in slots:
        left = slot.without(layout.skipped.keys() & read.keys())
        if left.keys:
            name = left.keys[0].parameter
            stages.setdefault(kind_of(name) if left.routed else name, []).append(left)
    layout.stages = list(stages.values())
    return layout


class _Trace:
    """Products of a pass in their order; matrices with the very same input share a slot."""

    def __init__(self) -> None:
        self._slots: dict[Key, Slot] = {}
        self._order: list[Slot] = []
        self._calls: dict[Key, int] = {}
        self._last: tuple[Tensor, Slot] | None = None

    def note(self, product: Product) -> None:
        """One product more."""
        key = product.key
        self._calls[key] = self._calls.get(key, 0) + 1
        if key not in self._slots:
            if self._last is not None and _same(self._last[0], product.inputs):
                slot = self._last[1]
                slot.keys.append(key)
            else:
                slot = Slot([key], {})
                self._order.append(slot)
            slot.outputs_first[key] = product.outputs_first
            self._slots[key] = slot
        self._slots[key].calls = max(self._slots[key].calls, self._calls[key])
        self._last = product.inputs, self._slots[key]

    def slots(self, parameters: dict[str, nn.Parameter]) -> Iterator[Slot]:
        """In order; for one expert those of all its like, whether or not this pass has come to them."""
        done: set[Key] = set()
        for slot in self._order:
            if slot.keys[0] in done:
                continue
            like = [*_of_all_experts(slot, parameters)]
            done |= {key for each in like for key in each.keys}
            yield from like


def _of_all_experts(slot: Slot, parameters: dict[str, nn.Parameter]) -> Iterator[Slot]:
    name = slot.keys[0].parameter
    if slot.keys[0].index >= 0:
        for index in range(len(parameters[name])):
            keys = {key: Key(key.parameter, index) for key in slot.keys}
            yield Slot([*keys.values()], {keys[key]: slot.outputs_first[key] for key in keys}, routed=True)
    elif EXPERT.search(name) is None:
        yield slot
    else:
        pattern = re.compile(EXPERT.sub(lambda found: rf"{re.escape(found[1])}experts\.(\d+)\.", name) + "$")
        for other in parameters:
            if found := pattern.match(other):
                keys = {key: Key(EXPERT.sub(rf"\g<1>experts.{found[1]}.", key.parameter)) for key in slot.keys}
                yield Slot([*keys.values()], {keys[key]: slot.outputs_first[key] for key in keys}, routed=True)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _reason(
    name: str, prefix: str, parameter: Tensor, outputs_first: bool | None, roles: ModelRoles, choice: MatrixChoice
) -> str:
    """Why a parameter is left dense, or "".

    Args:
        outputs_first: how it is stored; None if no product with it was seen.
        roles: of the block's parameters, by their names in the model.
    """
    if reason := choice.refusal(prefix + name):
        return reason
    if reason := roles.held_back(prefix + name, choice.asked, matches):
        return reason
    if outputs_first is None:
        return "no product of a whole matrix with it was seen"
    support = choice.support(prefix + name)
    assert support is not None
    least = least_sides(support)
    rows, cols = parameter.shape[-2:] if outputs_first else parameter.shape[:-3:-1]
    if rows < least[0] or cols < least[1]:
        return f"{rows} outputs and {cols} inputs, fewer than a tile's {least[0]} and {least[1]}"
    return ""
