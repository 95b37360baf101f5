"""A word for whoever forgets to tell a Sparsifier of the optimizer's steps: its masks would never be renewed."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch import Tensor

from tmask.nn.distributed.fingerprint import fingerprint
from tmask.nn.mask.shards import local_part
from tmask.nn.packing.first_batch import being_captured
from tmask.nn.training.schedules import Schedule


class Reminder:
    """Counts backward passes through one dense weight until a step is counted, and warns once where one is overdue.

    The masks hold it, so that it is asked where they are exported, and goes with a copy of the model.

    Args:
        weight: that is trained.
        schedule: that says after which step masks are to be renewed.

    A pass that only adds to the gradients changes no weight, and is no step that was forgotten.
    """

    def __init__(self, weight: Tensor, schedule: Schedule) -> None:
        self._schedule, self._weight = schedule, weight
        self._passes = 0
        self._told = False
        self._before: int | None = None
        self._hook: Any = None
        self._follow()

    def end(self) -> None:
        """A step was counted: nothing is forgotten."""
        self._hook.remove()
        self._told = True

    def tell(self, when: str) -> None:
        """Warn, if it was not done before, where weights have changed without a step that was told of.

        Args:
            when: what is being done.
        """
        # The first pass comes before the first step: what changes weights ahead of it is a checkpoint.
        if self._told or self._before in (None, fingerprint(local_part(self._weight))):
            return
        self._told = True
        warnings.warn(
            f"{when}: weights were trained for {self._passes} backward passes, and the Sparsifier was told of no step, "
            f"so that {self._schedule} has never renewed the masks. Give sparsify the optimizer that trains the model "
            "(optimizer=, or sparsifier.watch), or call sparsifier.step() after each of its steps",
            stacklevel=2,
        )

    def _follow(self) -> None:
        self._hook = self._weight.register_post_accumulate_grad_hook(self._count)  # type: ignore[no-untyped-call]

    def _count(self, weight: Any) -> None:
        # What goes into a CUDA graph does not run, and may wait for nothing, as to look at the weight does.
        if being_captured():
            return
        if self._before is None:
            self._before = fingerprint(local_part(weight))
        self._passes += 1
        # A pass comes before its step: at the pass behind step k, k + 1 passes were made.
        if self._passes > 1 and self._schedule.renews_at(self._passes - 1):
            self.tell("training")

    def __deepcopy__(self, memo: dict[int, Any]) -> Reminder:
        """Of a copy of the model, which was trained as the model was so far."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin._weight = copy.deepcopy(self._weight, memo)
        twin._follow()
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_hook": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._follow()
