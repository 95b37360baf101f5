"""How a model calls each of its blocks.

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
        own = hidden.clone()  # a block may work in place
        if self.hidden_name:
            return hidden_of(block(*self.args, **self.named, **{self.hidden_name: own}))
        return hidden_of(block(own, *self.args, **self.named))


def hidden_of(output: Any) -> Tensor:
    """The hidden states in what a block returns: itself, or the first of a tuple."""
    first = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(first, Tensor):
        raise InvalidProblemError(f"a block returns {type(output).__name__}; hidden states are expected first in it")
    return first


@dataclass(frozen=True, slots=True)
class Entrance:
    """What the first block reads, and how all blocks are called, for one batch."""

    hidden: Tensor
    calls: tuple[BlockCall, ...]


def enter(
    model: nn.Module, blocks: nn.ModuleList | nn.Sequential, batches: Sequence[Any], forward: Forward | None = None
) -> Iterator[Entrance]:
    """What every batch comes to at each block's door, without running the blocks.

    Args:
        model: whose blocks are called in their order, each on what the one before returned. The first must be able to
            run, which it does once, to show what a block returns; the others may be on the meta device.
    Raises:
        InvalidProblemError: the model refuses a batch, does something to hidden states between blocks, or hands on
            more from block to block than hidden states.
    """
    beside: tuple[Any, ...] | None = None
    for number, batch in enumerate(batches):
        seen = _Pass(number == 0, beside)
        with _handing_through(blocks, seen):
            try:
                with torch.no_grad():
                    (forward or call)(model, batch)
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
        if not bool(torch.isfinite(seen.hidden).all()):
            raise InvalidProblemError(
                f"the hidden states before the first block hold NaN or infinite values in calibration batch {number}"
            )
        beside = None if seen.beside is None else (None,) * len(seen.beside)
        yield Entrance(seen.hidden, tuple(seen.calls))


class _Pass:
    """What the blocks were called with in one pass.

    Args:
        runs: whether the first block is run.
        beside: what blocks return beside hidden states, known from an earlier pass; None for hidden states alone.
    """

    def __init__(self, runs: bool, beside: tuple[Any, ...] | None) -> None:
        self.runs, self.beside = runs, beside
        self.hidden: Tensor | None = None
        self.calls: list[BlockCall] = []
        self._last: Tensor | None = None

    def note(self, block: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """One call; gives what the block is to return."""
        index = len(self.calls)
        name = "" if args else next((key for key, value in named.items() if isinstance(value, Tensor)), "")
        hidden = args[0] if args else named.get(name)
        if not isinstance(hidden, Tensor):
            raise InvalidProblemError(f"block {index} is called without hidden states")
        if self._last is not None and hidden.data_ptr() != self._last.data_ptr():
            raise InvalidProblemError(
                f"the model changes hidden states between blocks {index - 1} and {index}; blocks must follow one "
                "another directly"
            )
        rest = {key: _without_cache(value) for key, value in named.items() if key != name}
        found = BlockCall(tuple(map(_without_cache, args[1:])), rest, name)
        self._refuse_more(index, found)
        self.calls.append(found)
        self._last = hidden
        if index == 0:
            self.hidden = hidden.detach()
            if self.runs:
                own = hidden.clone()
                output = block(own, *found.args, **rest) if args else block(**rest, **{name: own})
                self.beside = tuple(output[1:]) if isinstance(output, tuple | list) else None
        return hidden if self.beside is None else (hidden, *self.beside)

    def _refuse_more(self, index: int, found: BlockCall) -> None:
        """A block must not read what another one made, but for hidden states: it would see that of another pass."""
        given = [*found.args, *found.named.values()]
        made = [value for value in self.beside or () if value is not None]
        shared = [value for other in self.calls for value in (*other.args, *other.named.values())]
        made += [value for value in shared if isinstance(value, dict) and not value]
        if any(value is other for value in given for other in made):
            raise InvalidProblemError(
                f"block {index} reads more from the blocks before it than hidden states; models of this kind cannot be "
                "pruned block by block"
            )


def _without_cache(value: Any) -> Any:
    """None for a cache of keys and values: block after block is run again, and each time it would grow."""
    return None if hasattr(value, "get_seq_length") and hasattr(value, "update") else value


class _HandsThrough(nn.Module):
    """In a block's place: notes the call, and returns the hidden states as they came."""

    def __init__(self, block: nn.Module, seen: _Pass, last: bool) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not as a submodule, which would change the model's names
        self.seen, self.last = seen, last

    def __getattr__(self, name: str) -> Any:
        """Attributes of blocks that models look at, such as the type of their attention."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **named: Any) -> Any:
        output = self.seen.note(self.__dict__["block"], args, named)
        if self.last:
            raise Stopped
        return output


@contextmanager
def _handing_through(blocks: nn.ModuleList | nn.Sequential, seen: _Pass) -> Iterator[None]:
    real = list(blocks)
    try:
        for index, block in enumerate(real):
            blocks[index] = _HandsThrough(block, seen, index == len(real) - 1)
        yield
    finally:
        for index, block in enumerate(real):
            blocks[index] = block
