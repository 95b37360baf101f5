"""Whether all processes of a group come to train a model together: one that was told to train it alone never would.

Such a process sends nothing to a group. It leaves a note, though, in the store by which torch.distributed lets
processes find one another, and those that wait look there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from tmask.errors import RanksDifferError
from tmask.nn.distributed.fingerprint import fingerprint
from tmask.nn.distributed.ranks import Ranks, known_to_all

# Seconds that ranks wait for one that has trained the same model alone, and may come to them all the same.
PATIENCE = 30.0
_PAUSE = 0.01


@dataclass(frozen=True, slots=True)
class Alone:
    """A process that was told to train a model alone, while others may wait for it.

    Args:
        model: `signature` of it.
    """

    model: str

    def note(self) -> None:
        """Leave the note, and look for others.

        Raises:
            RanksDifferError: as `check`.
        """
        _set(f"alone/{self.model}/{dist.get_rank()}", "1")
        self.check()

    def check(self) -> None:
        """Return if no process waits, or has waited in vain, for this one to train the model with it.

        Raises:
            RanksDifferError: one does, which now raises the same.
        """
        own = dist.get_rank()
        for rank in range(dist.get_world_size()):
            members = [int(member) for member in _get(f"waits/{self.model}/{rank}").split()]
            if own in members:
                _refuse(self.model, members)
                raise _differ(self.model, members)
        if told := _get(f"refused/{self.model}/{own}"):
            raise _differ(self.model, [int(member) for member in told.split()])


def attend(model: Any, distributed: Any, ranks: Ranks | None) -> Alone | None:
    """Return once all processes of the group are here; at once, with a note, where this one trains alone.

    Args:
        distributed: as of `sparsify`; ranks: what it means now.
    Raises:
        RanksDifferError: some train the model together, and others of their group alone.
    """
    if not (dist.is_available() and dist.is_initialized()) or _store() is None:
        return None
    if ranks is not None:
        _meet(signature(model), ranks)
        return None
    if distributed is not False:
        return None
    alone = Alone(signature(model))
    alone.note()
    return alone


def signature(model: Any) -> str:
    """The same for models whose parameters have the same names and shapes."""
    held = model.named_parameters() if isinstance(model, nn.Module) else ()
    text = repr([(name, tuple(getattr(parameter, "shape", ()))) for name, parameter in held])
    return f"{fingerprint(torch.tensor([*text.encode()], dtype=torch.uint8)):x}"


def _meet(model: str, ranks: Ranks) -> None:
    members, own = ranks.members, dist.get_rank()
    if len(members) == 1:
        return
    _set(f"alone/{model}/{own}", "")  # what it has trained alone before counts no more
    _set(f"waits/{model}/{own}", " ".join(map(str, members)))
    # Begun, and not waited for: it ends once all are here, and fails where one of them has ended.
    arrival = dist.all_reduce(torch.zeros(1, device=ranks.device), group=ranks.group, async_op=True)
    patience = time.monotonic() + PATIENCE
    while not arrival.is_completed():
        late = time.monotonic() > patience and any(_get(f"alone/{model}/{rank}") for rank in members)
        if late:
            _refuse(model, members)
        if late or _get(f"refused/{model}/{own}"):
            raise _differ(model, members)
        time.sleep(_PAUSE)
    arrival.wait()
    _set(f"waits/{model}/{own}", "")


def _refuse(model: str, members: Sequence[int]) -> None:
    for rank in members:
        _set(f"refused/{model}/{rank}", " ".join(map(str, members)))


def _differ(model: str, members: Sequence[int]) -> RanksDifferError:
    """The same on all of them; each forgets that it was told."""
    alone = [str(rank) for rank in members if _get(f"alone/{model}/{rank}")]
    _set(f"refused/{model}/{dist.get_rank()}", "")
    plural = "s" if len(alone) > 1 else ""
    return known_to_all(
        RanksDifferError(
            f"rank{plural} {', '.join(alone)} trained the model alone (distributed=False), and the other ranks of "
            f"{', '.join(map(str, members))} waited to train it together; give sparsify the same `distributed` on all "
            "ranks, or those that train together a process group of their own"
        )
    )


def _store() -> Any:
    """Where processes leave notes, or None in a torch that has it elsewhere."""
    get = getattr(dist.distributed_c10d, "_get_default_store", None)
    return None if get is None else get()


def _set(key: str, value: str) -> None:
    _store().set(f"tmask/{key}", f"{value} ")  # not every store takes an empty text


def _get(key: str) -> str:
    """What was noted; "" where nothing was, for which a store would wait."""
    store, full = _store(), f"tmask/{key}"
    return store.get(full).decode().strip() if store.check([full]) else ""
