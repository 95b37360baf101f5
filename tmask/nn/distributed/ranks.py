"""The processes that train one model together, and how they agree or find that they do not.

Every exchange of objects carries failures beside values, so that a rank which fails in its own work, wherever that is,
joins the exchange that the others come to next, and all raise the same. What is sent in other ways (masks, sums) must
follow an exchange directly, with no work between that can fail on one rank alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from tmask.errors import RanksDifferError, SolverFailedError, TmaskError

_E = TypeVar("_E", bound=BaseException)
_KNOWN = "_known_to_all_ranks"


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
        return cls(None if distributed is True else distributed)

    @property
    def size(self) -> int:
        return dist.get_world_size(self.group)

    @property
    def index(self) -> int:
        return dist.get_rank(self.group)

    @property
    def members(self) -> list[int]:
        """Places of its ranks among all processes."""
        return [*range(self.size)] if self.group is None else dist.get_process_group_ranks(self.group)

    @property
    def device(self) -> torch.device:
        """Of tensors that its backend takes, whatever the model is on."""
        return torch.device("cuda") if dist.get_backend(self.group) == "nccl" else torch.device("cpu")

    def gather(self, value: Any, error: Exception | None = None) -> list[Any]:
        """What each rank gives, in their order.

        Args:
            error: what has failed on this rank, in place of a value.
        Raises:
            TmaskError: as `raise_first`, where any rank has failed since the exchange before.
        """
        parts: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(parts, (portable(error), value), group=self.group)
        except Exception as broken:
            # A group that is broken carries nothing more: to tell the others of it would be another wait.
            known_to_all(broken)
            raise
        raise_first([failure for failure, _ in parts], error)
        return [given for _, given in parts]

    def check_none_failed(self, error: Exception | None, device: torch.device) -> None:
        """Return if this rank and all others have no error: one number on the wire, a full exchange if there is one.

        Args:
            device: of the number, which the group's backend must take.
        """
        failed = torch.tensor(int(error is not None), device=device)
        dist.all_reduce(failed, dist.ReduceOp.MAX, group=self.group)
        if failed.item():
            self.gather(None, error)

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
    with joining(ranks):
        yield
    if ranks is not None:
        ranks.gather(None)


@contextmanager
def joining(ranks: Ranks | None) -> Iterator[None]:
    """What fails inside on one rank is raised on all, at the exchange that the others come to next.

    Raises:
        TmaskError: as `raise_first`; alone, whatever was raised inside.
    """
    try:
        yield
    # Not an interrupt: whoever stops this rank wants it to stop, not to wait for the others.
    except Exception as error:
        if ranks is None or _is_known(error):
            raise
        ranks.gather(None, error)
        raise


def check_same(values: Sequence[Any], what: str, advice: str) -> None:
    """Return if all ranks gave the same.

    Raises:
        RanksDifferError: names the ranks that differ from rank 0; text: what, who, advice.
    """
    if others := [rank for rank, value in enumerate(values) if value != values[0]]:
        plural = "s" if len(others) > 1 else ""
        raise known_to_all(
            RanksDifferError(f"{what} on rank{plural} {', '.join(map(str, others))} from rank 0; {advice}")
        )


def raise_first(failures: Sequence[TmaskError | None], cause: Exception | None) -> None:
    """Return if no rank failed; else raise the first failure with its rank, on every rank: none waits for another.

    Args:
        cause: the error of this rank, if it has one.
    """
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise known_to_all(type(failure)(f"rank {rank}: {failure}")) from cause


def known_to_all(error: _E) -> _E:
    """Note that all ranks raise it."""
    vars(error)[_KNOWN] = True
    return error


def _is_known(error: BaseException | None) -> bool:
    """Whether all ranks raise it, or what it was made of."""
    while error is not None and _KNOWN not in vars(error):
        error = error.__cause__
    return error is not None


def portable(error: Exception | None) -> TmaskError | None:
    """An error that can be sent to other ranks: itself, or one of ours with the text of any other."""
    if error is None:
        return None
    # torch sends objects as pickles, which errors of other libraries need not survive.
    return error if isinstance(error, TmaskError) else SolverFailedError(f"{type(error).__name__}: {error}")
