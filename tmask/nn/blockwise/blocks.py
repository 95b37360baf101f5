"""Which modules are a model's blocks, and how the model calls each of them.

A block takes hidden states and gives new ones; all else that it is called with (masks, positions) does not depend on
weights of blocks, so one pass in which every block hands its hidden states through unchanged shows it all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tmask.errors import InvalidProblemError
from tmask.nn.calibration.batches import Forward, Stopped, call

LEAST = 2  # blocks in a list that is found without its name


@dataclass(frozen=True, slots=True)
class BlockCall:
    """One call of one block: its arguments beside the hidden states.

    Args:
        args: those by position, after the hidden states.
        named: those by name.
        hidden_name: the name by which hidden states are given, "" if they come first.
    """

    args: tuple[Any, ...]
    named: Mapping[str, Any]
    hidden_name: str = ""

    def on(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """The block's new hidden states."""
        if self.hidden_name:
            return hidden_of(block(*self.args, **self.named, **{self.hidden_name: hidden}))
        return hidden_of(block(hidden, *self.args, **self.named))


def hidden_of(output: Any) -> Tensor:
    """The hidden states in what a block returns: itself, or the first of a tuple."""
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(first, Tensor):
        raise InvalidProblemError(f"a block returns {type(output).__name__}; hidden states are expected first in it")
    return first


def find_blocks(model: nn.Module, name: str = "") -> str:
    """The name of the list of blocks in a model.

    Args:
        name: as the user gives it; "" to look for the longest `ModuleList` of one class, as decoders have it.
    Raises:
        InvalidProblemError: no such list, or none that stands out; names those that there are.
    """
    if name:
        try:
            found = model.get_submodule(name)
        except AttributeError:
            found = None
        if not isinstance(found, nn.ModuleList | nn.Sequential) or not len(found):  # an empty list has no blocks
            raise InvalidProblemError(f"blocks={name!r} is no list of modules in this model; {_lists(model)}")
        return name
    if isinstance(model, nn.Sequential):
        return ""  # the model is its own list
    outer: dict[str, nn.ModuleList] = {
        key: module
        for key, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) >= LEAST
        and len({type(block) for block in module}) == 1
        and not _inside_another(model, key)
    }
    if not outer:
        raise InvalidProblemError(f"the model has no list of like blocks; name it with blocks=. {_lists(model)}")
    longest = max(len(module) for module in outer.values())
    names = [key for key, module in outer.items() if len(module) == longest]
    if len(names) > 1:
        raise InvalidProblemError(f"several lists could be the model's blocks: {', '.join(names)}; choose with blocks=")
    return names[0]


def _inside_another(model: nn.Module, name: str) -> bool:
    """Whether a list stands in a block of another list, as experts do."""
    parts = name.split(".")
    return any(isinstance(model.get_submodule(".".join(parts[:k])), nn.ModuleList) for k in range(1, len(parts)))


def _lists(model: nn.Module) -> str:
    names = [
        key or "the model" for key, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    return f"lists of modules in it: {', '.join(names[:10])}" if names else "it has no list of modules at all"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the first block reads, and how all blocks are called, for one batch."""

    hidden: Tensor
    calls: tuple[BlockCall, ...]


def enter(
    model: nn.Module, blocks: nn.ModuleList | nn.Sequential, batches: Sequence[Any], forward: Forward | None = None
) -> Iterator[Entry]:
    """What every batch comes to at each block's door, without running the blocks.

    Args:
        model: whose blocks are called in their order, each on what the one before returned. The first must be able to
            run; the others may be on the meta device.
    Raises:
        InvalidProblemError: the model refuses a batch, or does something to hidden states between blocks.
    """
    run = forward or call
    for number, batch in enumerate(batches):
        shape = None if number else blocks[0]  # the first block runs once, to show what it returns
        with _handing_through(blocks, shape) as seen:
            try:
                with torch.no_grad():
                    run(model, batch)
            except Stopped:
                pass
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
                if isinstance(error, InvalidProblemError):
                    raise
                raise InvalidProblemError(
                    f"calibration batch {number} does not fit the model: {str(error).rstrip('. ')}"
                ) from error
        if seen.hidden is None or len(seen.calls) != len(blocks):
            raise InvalidProblemError(
                f"a pass of the model calls {len(seen.calls)} of its {len(blocks)} blocks; name the right list with "
                "blocks="
            )
        yield Entry(seen.hidden, tuple(seen.calls))


class _Seen:
    """What the blocks were called with in one pass."""

    packed: int = 0  # entries of the tuple that blocks return; 0 where they return a tensor

    def __init__(self) -> None:
        self.hidden: Tensor | None = None
        self.calls: list[BlockCall] = []
        self.last: Tensor | None = None


class _HandsThrough(nn.Module):
    """In a block's place: notes the call, and returns the hidden states as they came."""

    def __init__(self, block: nn.Module, index: int, count: int, seen: _Seen, runs: bool) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not as a submodule, which would change the model's names
        self.index, self.count, self.seen, self.runs = index, count, seen, runs

    def __getattr__(self, name: str) -> Any:
        """Attributes of blocks that models look at, such as the type of their attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **named: Any) -> Any:
        hidden_name = "" if args else next((key for key, value in named.items() if isinstance(value, Tensor)), "")
        hidden = args[0] if args else named.get(hidden_name)
        if not isinstance(hidden, Tensor):
            raise InvalidProblemError(f"block {self.index} is called without hidden states")
        if self.seen.last is not None and hidden.data_ptr() != self.seen.last.data_ptr():
            raise InvalidProblemError(
                f"the model changes hidden states between blocks {self.index - 1} and {self.index}; blocks must follow "
                "one another directly"
            )
        if self.index == 0:
            self.seen.hidden = hidden.detach().clone()
        rest = {key: value for key, value in named.items() if key != hidden_name}
        self.seen.calls.append(BlockCall(args[1:], rest, hidden_name))
        self.seen.last = hidden
        if self.runs:
            output = self.__dict__["block"](*args, **named)
            type(self.seen).packed = len(output) if isinstance(output, tuple | list) else 0
        if self.index == self.count - 1:
            raise Stopped
        packed = self.seen.packed
        return (hidden, *[None] * (packed - 1)) if packed else hidden


@contextmanager
def _handing_through(blocks: nn.ModuleList | nn.Sequential, first: nn.Module | None) -> Iterator[_Seen]:
    seen, real = _Seen(), list(blocks)
    try:
        for index, block in enumerate(real):
            blocks[index] = _HandsThrough(block, index, len(real), seen, runs=index == 0 and first is not None)
        yield seen
    finally:
        for index, block in enumerate(real):
            blocks[index] = block
