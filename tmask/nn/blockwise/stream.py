"""Where a block's matrices add to its hidden states: what its attention and its MLP each leave behind.

A decoder's block adds to its hidden states what the last matrix of its attention gives, then what that of its MLP
gives. Which matrices these are, and where the sum can be seen, is found by one pass: no names are needed. Blocks that
norm or scale what they add have no such matrix, nor have those that norm the sum itself before they hand it on.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tmask.nn.blockwise.calls import BlockCall
from tmask.nn.calibration.batches import Stopped
from tmask.nn.calibration.reading import Key, Product, Reading, matrix_parameters


@dataclass(frozen=True, slots=True)
class Joint:
    """A matrix whose outputs are added to the hidden states as they are.

    Args:
        key: of the matrix.
        outputs_first: whether it is stored (R, C), else (C, R).
        reader: name of the module in the block that first reads the sum; "" where the block returns it.
    """

    key: Key
    outputs_first: bool
    reader: str


def find_joints(block: nn.Module, call: BlockCall, hidden: Tensor) -> list[Joint]:
    """The joints of a block in their order, found on one batch of hidden states."""
    search = _Search(hidden)
    parameters = matrix_parameters(block)
    with torch.no_grad(), _watching(block, search.see, search.note_module), Reading(parameters, search.note):
        output = call.on(block, hidden)
    # Sums that do not lead on to what the block returns are no hidden states.
    if not search.see("", output):
        return []
    return [joint for joint in search.joints if search.calls[joint.key] == 1]


def run_to(joint: Joint, block: nn.Module, call: BlockCall, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """What a joint's matrix reads (S, C), and the hidden states behind it (S, R)."""
    read: list[Tensor] = []
    behind: list[Tensor] = []

    def note(product: Product) -> None:
        if product.key == joint.key:
            read.append(product.inputs)

    def see(name: str, value: Tensor) -> object:
        # The reader may have been called before, on something else.
        if name == joint.reader and read:
            behind.append(value)
            raise Stopped
        return None

    with torch.no_grad(), _watching(block, see), Reading(matrix_parameters(block), note), contextlib.suppress(Stopped):
        behind.append(call.on(block, hidden))
    return _rows(read[0]), _rows(behind[0])


class _Search:
    """Follows the hidden states through a pass: from sum to sum with what a matrix, or a whole module, gives."""

    def __init__(self, hidden: Tensor) -> None:
        self.joints: list[Joint] = []
        self.calls: Counter[Key] = Counter()
        self._stream = hidden.flatten().clone()
        self._given: list[tuple[Product | None, Tensor]] = []

    def note(self, product: Product) -> None:
        """What a matrix gives."""
        self.calls[product.key] += 1
        self._note(product if product.key.index < 0 else None, product.result())

    def note_module(self, result: Tensor) -> None:
        """What a module gives: a norm behind an MLP, or experts together."""
        self._note(None, result)

    def _note(self, product: Product | None, result: Tensor) -> None:
        if result.numel() == self._stream.numel():
            self._given.append((product, result.flatten().clone()))  # a block may go on in place

    def see(self, name: str, value: Tensor) -> bool:
        """What a module of this name reads; tells whether it is the hidden states with something added."""
        if value.numel() != self._stream.numel():
            return False
        for product, given in self._given:
            # To the last bit: the block adds the same two numbers.
            if torch.equal(self._stream + given, value.flatten()):
                if product is not None:
                    self.joints.append(Joint(product.key, product.outputs_first, name))
                self._stream = value.flatten().clone()
                self._given.clear()
                return True
        return False


@contextmanager
def _watching(
    block: nn.Module, see: Callable[[str, Tensor], object], note: Callable[[Tensor], None] | None = None
) -> Iterator[None]:
    """Inside, `see` is called with each module's name and the first tensor that it reads, `note` with what it gives."""

    def reads(name: str) -> Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            first = next((value for value in (*args, *named.values()) if isinstance(value, Tensor)), None)
            if first is not None:
                see(name, first)

        return hook

    def gives(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if note is not None and isinstance(first, Tensor):
            note(first)

    handles: list[Any] = []
    for name, module in block.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(reads(name), with_kwargs=True))
            handles.append(module.register_forward_hook(gives))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
