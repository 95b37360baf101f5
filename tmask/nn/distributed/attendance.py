"""Whether all processes of a group come to train a model together: one that was told to train it alone never would.

Such a process sends nothing to a group. It leaves a note, though, in the store by which torch.distributed lets
processes find one another, and those that wait look there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from tmask.errors import RanksDifferError
from tmask.nn.distributed.fingerprint import fingerprint
from tmask.nn.distributed.ranks import Ranks, known_to_all

# Seconds in which a rank that has begun to train a model alone may still come to those that wait to train it together.
PATIENCE = 30.0
_PAUSE = 0.01
# Of each model so far. Ranks may train alone first and then together, one long before the other: only what both do
# with a model for the same time is compared.
_calls: Counter[str] = Counter()


@dataclass(frozen=True, slots=True)
class Alone:
    """A process that was told to train a model alone, while others may wait for it.

    Args:
        call: the model, and the count of the call.
    """

    call: str

    def note(self) -> None:
        """Say that its training has begun; before, it may yet be busy with something that it does for all."""
        _set(f"alone/{self.call}/{dist.get_rank()}", "yes")

    def check(self) -> None:
        """Return if no process has waited in vain for this one to train the model with it.

        Raises:
            RanksDifferError: one has, and has raised the same.
        """
        if text := _get(f"refused/{self.call}/{dist.get_rank()}"):
            raise known_to_all(RanksDifferError(text))


def attend(model: Any, distributed: Any, ranks: Ranks | None) -> Alone | None:
    """Return once all processes of the group are here; at once where this one trains alone.

    Args:
        distributed: as of `sparsify`.
        ranks: what it means now.
    Raises:
        RanksDifferError: some train the model together, and others of their group alone.
    """
    if not (dist.is_available() and dist.is_initialized()) or _store() is None:
        return None
    known = _signature(model)
    _calls[known] += 1
    call = f"{known}/{_calls[known]}"
    if ranks is None:
        return Alone(call) if distributed is False else None
    if ranks.size > 1:
        _meet(call, ranks)
    return None


def _signature(model: Any) -> str:
    """The same for models whose parameters have the same names and shapes."""
    held = model.named_parameters() if isinstance(model, nn.Module) else ()
    text = repr([(name, tuple(getattr(parameter, "shape", ()))) for name, parameter in held])
    return f"{fingerprint(torch.tensor([*text.encode()], dtype=torch.uint8, device='cpu')):x}"


def _meet(call: str, ranks: Ranks) -> None:
    members = ranks.members
    # Begun, and not waited for: it ends once all are here, and fails where one of them has ended.
    arrival = dist.all_reduce(torch.zeros(1, device=ranks.device), group=ranks.group, async_op=True)
    missed: float | None = None  # when a rank was first seen to train alone
    while not arrival.is_completed():
        alone = [rank for rank in members if _get(f"alone/{call}/{rank}")]
        missed = missed or (time.monotonic() if alone else None)
        if missed is not None and time.monotonic() - missed > PATIENCE:
            _refuse(call, members, alone)
        if text := _get(f"refused/{call}/{dist.get_rank()}"):
            raise known_to_all(RanksDifferError(text))
        time.sleep(_PAUSE)
    arrival.wait()


def _refuse(call: str, members: Sequence[int], alone: Sequence[int]) -> None:
    plural = "s" if len(alone) > 1 else ""
    text = (
        f"rank{plural} {', '.join(map(str, alone))} trained the model alone (distributed=False), while others of the "
        f"ranks {', '.join(map(str, members))} waited to train it together; give sparsify the same `distributed` on "
        "all ranks, or those that train together a process group of their own"
    )
    for rank in members:
        _set(f"refused/{call}/{rank}", text)


def _store() -> Any:
    """Where processes leave notes, or None in a torch that has it elsewhere."""
    get = getattr(dist.distributed_c10d, "_get_default_store", None)
    return None if get is None else get()


def _set(key: str, value: str) -> None:
    _store().set(f"tmask/{key}", value)


def _get(key: str) -> str:
    """What was noted; "" where nothing was, for which a store would wait."""
    store, full = _store(), f"tmask/{key}"
    return store.get(full).decode() if store.check([full]) else ""
