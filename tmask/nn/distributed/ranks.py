"""The processes that train one model together, and how they agree or find that they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from tmask.errors import RanksDifferError, SolverFailedError, TmaskError


@dataclass(frozen=True, slots=True)
class Ranks:
    """A process group; a rank is a place in it.

    Args:
        group: of torch.distributed; None for all processes.
    """

    group: Any = None

    @classmethod
    def of(cls, distributed: Any) -> Ranks | None:
        """What the argument `distributed` of `sparsify` means now, or None where no group is to be asked."""
        if distributed is False or not (dist.is_available() and dist.is_initialized()):
            return None
        return cls(distributed)

    @property
    def size(self) -> int:
        return dist.get_world_size(self.group)

    @property
    def index(self) -> int:
        return dist.get_rank(self.group)

    def gather(self, value: Any) -> list[Any]:
        """What each rank gives, in their order."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def send(self, mask: Tensor, owner: int) -> None:
        """Copy the owner's mask into that of every other rank."""
        # torch names the source by its place among all processes, not by that in the group.
        source = owner if self.group is None else dist.get_global_rank(self.group, owner)
        dist.broadcast(mask.view(torch.uint8), source, group=self.group)  # not every backend takes bool


@contextmanager
def together(ranks: Ranks | None) -> Iterator[None]:
    """What fails inside on one rank is raised on all of them, so that none goes on alone; it must not communicate.

    Args:
        ranks: None where this process is alone.
    Raises:
        TmaskError: as `raise_first`; alone, whatever was raised inside.
    """
    error = None
    try:
        yield
    # Not an interrupt: whoever stops this rank wants it to stop, not to wait for the others.
    except Exception as caught:
        if ranks is None:
            raise
        error = caught
    if ranks is not None:
        raise_first(ranks.gather(portable(error)), error)


def check_same(values: Sequence[Any], what: str, advice: str) -> None:
    """Return if all ranks gave the same.

    Raises:
        RanksDifferError: names the ranks that differ from rank 0; text: what, who, advice.
    """
    if others := [rank for rank, value in enumerate(values) if value != values[0]]:
        plural = "s" if len(others) > 1 else ""
        raise RanksDifferError(f"{what} on rank{plural} {', '.join(map(str, others))} from rank 0; {advice}")


def raise_first(failures: Sequence[TmaskError | None], cause: Exception | None) -> None:
    """Return if no rank failed; else raise the first failure with its rank, on every rank: none waits for another.

    Args:
        cause: the error of this rank, if it has one.
    """
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise type(failure)(f"rank {rank}: {failure}") from cause


def portable(error: Exception | None) -> TmaskError | None:
    """An error that can be sent to other ranks: itself, or one of ours with the text of any other."""
    if error is None:
        return None
    # torch sends objects as pickles, which errors of other libraries need not survive.
    return error if isinstance(error, TmaskError) else SolverFailedError(f"{type(error).__name__}: {error}")
