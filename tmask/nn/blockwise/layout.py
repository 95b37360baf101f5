"""What of a block is pruned: its matrices, those that read the same side by side, in the order in which they are read.

A *slot* is one input that one or more matrices read: q, k and v of an attention. A *stage* is what is pruned at once:
one slot, or the slots of all experts of one kind.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.blockwise.blocks import BlockCall
from tmask.nn.blockwise.reading import Key, Product, Reading, matrix_parameters

_ROUTERS = re.compile(r"(^|\.)(router|gate|shared_expert_gate)(\.|$)")


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


@dataclass(slots=True)
class Layout:
    """The stages of a block, and reasons by name for the matrices that are left out."""

    stages: list[list[Slot]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def lay_out(
    block: nn.Module,
    passes: Iterable[tuple[BlockCall, Tensor]],
    exclude: Sequence[str] = (),
    least: tuple[int, int] = (1, 1),
) -> Layout:
    """What a block's passes read, in which order.

    Args:
        passes: calls of the block with hidden states; they are taken until every matrix has been read.
        exclude: globs on the names of parameters in the block.
        least: outputs and inputs that a matrix must have.
    Raises:
        InvalidProblemError: no matrix is left to prune.
    """
    parameters = matrix_parameters(block)
    trace = _Trace()
    for call, hidden in passes:
        with Reading(parameters, trace.note):
            call.on(block, hidden)
        trace.end_pass()
        if trace.read.keys() >= parameters.keys():
            break
    layout = Layout()
    for name, parameter in parameters.items():
        if reason := _reason(name, parameter, trace, exclude, least):
            layout.skipped[name] = reason
    slots = [slot for slot in trace.slots(parameters) if slot.keys[0].parameter not in layout.skipped]
    for slot in slots:
        slot.keys = [key for key in slot.keys if key.parameter not in layout.skipped]
    by_kind: dict[str, list[Slot]] = {}
    for slot in slots:
        by_kind.setdefault(re.sub(r"\.\d+\.", ".*.", slot.keys[0].parameter), []).append(slot)
    layout.stages = list(by_kind.values())
    if not layout.stages:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(layout.skipped.items())[:10])
        raise InvalidProblemError(f"the block has no matrix to prune ({reasons or 'it has no matrices'})")
    return layout


class _Trace:
    """Products of passes in their order; matrices with the very same input share a slot."""

    def __init__(self) -> None:
        self.read: dict[str, bool] = {}  # whether the matrix is stored (outputs, inputs), by parameter
        self._slots: dict[Key, Slot] = {}
        self._now: dict[Key, int] = {}
        self._order: list[Slot] = []
        self._last: tuple[Tensor, Slot] | None = None

    def note(self, product: Product) -> None:
        key = product.key
        self.read.setdefault(key.parameter, product.outputs_first)
        self._now[key] = self._now.get(key, 0) + 1
        if key not in self._slots:
            if self._last is not None and _same(self._last[0], product.inputs):
                slot = self._last[1]
                slot.keys.append(key)
            else:
                slot = Slot([key], {})
                self._order.append(slot)
            slot.outputs_first[key] = product.outputs_first
            self._slots[key] = slot
        self._last = product.inputs, self._slots[key]

    def end_pass(self) -> None:
        for key, count in self._now.items():
            self._slots[key].calls = max(self._slots[key].calls, count)
        self._now.clear()
        self._last = None

    def slots(self, parameters: dict[str, nn.Parameter]) -> list[Slot]:
        """With one for each matrix of a stack, whether or not a pass has come to it."""
        found: list[Slot] = []
        done: set[str] = set()
        for slot in self._order:
            name = slot.keys[0].parameter
            stack = parameters[name].ndim == 3
            if stack and name not in done:
                done.add(name)
                keys = [Key(name, index) for index in range(len(parameters[name]))]
                found += [Slot([key], {key: self.read[name]}, routed=True) for key in keys]
            elif not stack:
                slot.routed = bool(re.search(r"(^|\.)experts\.\d+\.", name))
                found.append(slot)
        return found


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _reason(name: str, parameter: Tensor, trace: _Trace, exclude: Sequence[str], least: tuple[int, int]) -> str:
    """Why a matrix is left dense, or ""."""
    if any(fnmatch.fnmatchcase(name, glob) for glob in exclude):
        return "excluded"
    if _ROUTERS.search(name):
        return "it routes samples to experts"
    if name not in trace.read:
        return "no product of a whole matrix with it was seen"
    rows, cols = parameter.shape[-2:] if trace.read[name] else parameter.shape[:-3:-1]
    if rows < least[0] or cols < least[1]:
        return f"{rows} outputs and {cols} inputs, fewer than a tile's {least[0]} and {least[1]}"
    return ""
